"""Parquet files → a plan of what is read in which pieces, and decoded columns.

shards               files of a data set with their footers, which are read by two requests at most, checked,
child_process        A process of its own for what a damaged footer can end: it is given bytes and opens nothing
plan                 the plan of a data set: its shards (files), and the units (consecutive row groups) in
stored_columns       columns as they are stored: their leaves, where their first pages are,
column_statistics    what the footers say of each column: types, nulls, bounds, sizes, codecs, page checksums
content              digests of their bytes, fast enough to be taken of all that is read
expansion            what text takes once its dictionary is looked up, which no footer says
planning             arguments → files → footers → the plan: which rows exist, in which units they are read,
polars_columns       those of which the footers leave no doubt, so that polars, twice as fast, may decode them
spans                pieces of units, the rows that one slab holds
decoding             one unit → Arrow tables of bounded size, checked against the footer
readers              threads that decode spans ahead of their use
"""
