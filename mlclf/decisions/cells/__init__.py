"""Scored rows in memory: checked, sliced, and turned from logits into scores and decisions.

cells          scored rows with what is known of them, the unit in which scores come to metrics and thresholds
checks         checks of logits, scores and weights
in_memory      scores and labels that are held in memory: arrays, tensors, lists,
scores         logits → scores → decisions
top_labels     the labels of a row with the largest scores
cell_slices    slices of scored rows, checked once and small enough for the processor's cache,
"""
