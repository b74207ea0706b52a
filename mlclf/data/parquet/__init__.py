"""Parquet files → a plan of what is read in which pieces, and decoded columns.

shards                files with their footers: read once, checked, kept parsed
child_process         a process of its own to read footers in, since a damaged one can end the process
plan                  every row in order: shards (files), and units (consecutive row groups) that are read at once
stored_columns        columns as they are stored: their leaves, where pages begin, whether these have checksums
column_statistics     what footers say of columns: nulls, bounds, sizes, codecs
content               digests of the bytes that are read, which tell whether files were changed
expansion             dictionaries that would make decoded text too large for memory
planning              arguments → files → footers → the plan
columns_for_polars    which columns polars, twice as fast as pyarrow, may decode safely
spans                 pieces of units: the rows that one slab holds
decoding              one unit → Arrow tables of bounded size, checked against the footer
readers               threads that decode spans ahead of their use
"""
