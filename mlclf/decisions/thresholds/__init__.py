"""Objectives, and the cuts of the labels that serve them best.

objectives    what a threshold is chosen for: the text of `--objective`, parsed and checked
thresholds    per-label thresholds: what they decide, how they did on the rows that they were chosen from,
top_k         the labels of a row with the largest scores, and thresholds that flag those and no others
cutoffs       the cut-offs that a histogram offers for each label, and the one that serves an objective best
joint         objectives of all labels together: micro-F1, micro- and macro-F1, a budget of alerts
best_cut      thresholds chosen for an objective, from histograms of logits of rows that were not trained on
shrinkage     how far thresholds are shrunk, judged by cross-validation over folds of the rows
"""
