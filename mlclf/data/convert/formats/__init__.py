"""Files of other formats → Arrow tables: CSV, ARFF, libsvm and XMC text, Arrow IPC, Parquet.

arff_header    the header of ARFF, the format of WEKA, as Mulan and MEKA use it: attributes, and
csv_dialect    how text is cut into records and values: the delimiter, quotes and escapes of a CSV file
csv_types      the types of the columns of a CSV file, from its first rows, so that no value loses what is written
text_lines     text files, compressed or not, in blocks of whole lines that know where they are
arff           lines of ARFF data, sparse or dense → Arrow tables, a block at a time
csv_records    A CSV file's bytes as UTF-8 text in blocks of whole records, whatever stands in quotes
sparse_text    sparse rows as text, libsvm's and that of the XMC repository → Arrow tables
tables         files of tables, Arrow IPC and Parquet → Arrow tables in pieces of bounded size
csv_rows       CSV files → Arrow tables: whole records are cut out here, and parsed by pyarrow with types
csv_files      how they are written, their header, and the types of their columns
opening        A file of any format → its schema and tables
"""
