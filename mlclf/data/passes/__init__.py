"""Passes over the rows before training: statistics, folds, groups, repeated rows.

group_parts       which part of the split each group goes to, so that parts have the rows asked for
partial_passes    passes over few columns: counts of rows, damaged units, the time that splits the rows
repeats           how many rows equal another in all inputs, in one pass and a fixed amount of memory
row_folds         the fold of each row: every label has its share of its rarer class in each fold
statistics        the one pass of statistics: features, labels, weights, and the sizes that the pool is planned from
"""
