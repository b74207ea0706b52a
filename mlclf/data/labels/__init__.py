"""Label columns and lists of tags → 0, 1 or not observed.

values           what the values of labels mean: 0 and 1, −1 and 1, words in pairs,
label_columns    label columns and tag lists → 0, 1 or not observed
tags             labels as lists of tags: each tag of the vocabulary is a label
counts           positives and observed rows of each label, counted by part of the split
label_encoder    the labels of a data set, whichever way they are written
"""
