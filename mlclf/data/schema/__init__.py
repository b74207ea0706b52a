"""Columns and their roles, found or declared, the same in every file.

common_schema    one schema for all files, and rows cast to it
globs            column names by name or glob
samples          rows looked at before columns have roles: free text, lengths of lists, index columns
schema           the schema of a fit: the role of every column
agreement        whether every file has the columns of the schema, with comparable types
label_lists      labels in one list column: element k of each list is label k
roles            the role of each input: declared, or suggested by its type
finding          all roles of a data set
"""
