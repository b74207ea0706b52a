"""Thresholds of labels, and the cuts of the labels that they are chosen from.

thresholds    per-label thresholds: what they decide, how they did on the rows that they were chosen from,
top_k         the labels of a row with the largest scores, and thresholds that flag those and no others
cutoffs       the cut-offs that a histogram offers for each label, and what they decide
"""
