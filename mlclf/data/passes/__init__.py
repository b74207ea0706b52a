"""Passes over the rows before training: statistics, folds, groups, repeated rows.

group_parts       which part each group of rows goes to, so that the parts have the rows asked for
partial_passes    passes over some columns: rows counted, damaged units found, the time from which rows are held out
repeats           how many are equal to another in all inputs, in one pass and in memory of a fixed size
row_folds         the fold of each row: every label has its share of its rarer class in each fold
statistics        the one pass of statistics: features, labels, weights, and the sizes that the pool is planned from
"""
