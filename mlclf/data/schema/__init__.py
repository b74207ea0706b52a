"""Columns and their roles, found or declared, the same in every file.

common_schema    one schema for all shards, and the rows brought to it
globs            names of columns and patterns of them
samples          rows looked at before columns have roles: which text is free text, how long lists are,
schema           the schema of a fit: the role of every column
agreement        whether every shard has the columns of the schema, with types that hold the same values
label_lists      labels in one column of lists of 0 and 1, all of one length: element k of each list is label k
roles            declared, or what the type of a column suggests
finding          column roles, found from the Parquet schemas or declared, and the check that every shard agrees
"""
