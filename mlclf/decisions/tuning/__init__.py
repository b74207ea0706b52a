"""Thresholds tuned for an objective on scored rows.

best_cut     thresholds that serve an objective best, from histograms of logits of rows that were not trained on
shrinkage    how far thresholds are shrunk, judged by cross-validation over folds of the rows
tuner        scored rows in one pass, thresholds for an objective out of it
"""
