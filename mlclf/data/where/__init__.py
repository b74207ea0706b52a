"""`data.where`: one SQL expression that says which rows are used, and skips row groups.

syntax        conditions on rows as a tree of AND, OR and terms
literals      literals among the values of a type, so that each comparison is made in the column's own type,
parser        SQL text → a tree of conditions
kernels       conditions on columns → truth, by pyarrow's kernels on arrays, or as expressions
condition     which rows are used, as one SQL expression
row_groups    row groups that `data.where` cannot exclude, by the statistics in the footers and the folders' names
"""
