"""Label columns and lists of tags → 0, 1 or not observed.

values           what the values of labels mean: 0 and 1, −1 and 1, pairs of words, declared ones
label_columns    label columns, or the elements of one list column → codes
tags             one list column of tags: each tag of the vocabulary is a label
label_encoder    the labels of a data set, whichever way they are written
counts           positives and observed rows of each label, by part of the split
"""
