"""`data.where`: one SQL expression that says which rows are used, and skips row groups.

syntax          a condition as a tree of AND, OR and terms
column_types    in which type the values of a column are compared, alone or with another column
literals        numbers, strings and times of a condition as values of a column's type
parser          from SQL text to the tree of a condition
evaluator       where a condition is true, on arrays or by statistics
condition       `Where`: a condition with its text, its columns and the mask of the rows that are used
row_groups      row groups that statistics in the footers and names of folders exclude
"""
