"""Scores → metrics, calibrated probabilities, thresholds and guarantees.

cells          scored rows
histograms     counts per label and bin of the logit
calibration    logits → probabilities
metrics        AUROC, average precision, log-loss, confusion counts …
scorer         model → logits → scores
thresholds     per-label thresholds, and the cuts that they are chosen from
objectives     what thresholds are chosen for, a class each
evaluation     all metrics in one pass, with intervals
guarantees     thresholds that hold a constraint with confidence
tuning         thresholds tuned for an objective on scored rows
score_files    scores of any model in Parquet
"""
