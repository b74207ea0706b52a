"""Files of other formats → Arrow tables: CSV, ARFF, libsvm and XMC text, Arrow IPC, Parquet.

arff_header    the header of ARFF files: attributes, and which of them are labels
csv_dialect    the delimiter, quotes and escapes of a CSV file, declared or found
csv_types      types of the columns of a CSV file, found so that no value loses what is written
text_lines     text files, compressed or not, in blocks of whole lines
arff           lines of ARFF data, sparse or dense → Arrow tables
csv_records    a CSV file in blocks of whole records, decoded to UTF-8
sparse_text    sparse rows of libsvm and XMC files → Arrow tables
tables         Arrow IPC and Parquet files → Arrow tables of bounded size
csv_rows       records of CSV → Arrow tables, parsed by pyarrow with the types found
csv_files      a CSV file opened: dialect, header and types from its first 8 MiB
opening        a file of any format → its schema and tables
"""
