"""Scores of any model in Parquet: their columns, labels, keys, and decisions on them.

columns            columns of Parquet files that hold a number for each row and label: wide, or one column of lists
keys               keys that identify rows: types, values, and their text in messages
best_labels        lists of the best labels of each row, as `predict --top` writes them
file_thresholds    thresholds in the scale of score files, and decisions by them
label_rows         labels, weights and groups of rows, as tensors
label_join         labels of other files, held in memory and found by a key
reading            scores of any model in Parquet, with their labels beside them or joined by a key → cells
label_blocks       score files read a block of labels at a time, by several threads
pairing            which columns of Parquet files hold scores, labels and weights, and which belong together
"""
