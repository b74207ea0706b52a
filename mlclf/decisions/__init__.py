"""Scores → metrics, calibrated probabilities, thresholds and guarantees.

cells          scored rows
histograms     counts per label and bin of the logit
calibration    logits → probabilities
metrics        AUROC, average precision, log-loss, confusion counts …
scorer         model → logits → scores
thresholds     objectives, and the cuts that serve them
evaluation     all metrics in one pass, with intervals
guarantees     thresholds that hold a constraint with confidence
score_files    scores of any model in Parquet
tuner          scored rows in one pass, thresholds for an objective out of it
"""
