"""Scored rows in memory: checked, sliced, and turned from logits into scores and decisions.

cells          logits, labels, masks, weights and identities of some rows, as metrics and thresholds take them
checks         checks of logits, scores and weights
in_memory      scores and labels in arrays, tensors, lists and frames → tensors
scores         logits → scores → decisions
top_labels     the labels of a row with the largest scores
cell_slices    slices of scored rows that fit into the processor's cache, checked once
"""
