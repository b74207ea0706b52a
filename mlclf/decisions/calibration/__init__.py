"""Logits → probabilities that held-out rows bear out.

isotonic            the best curve that does not fall, by pooling adjacent violators, joined into a line
logit_bounds        a label claims no more certainty than its held-out rows bear out
logit_groups        bins of a histogram put together into few groups: enough to fit a curve of the logit,
logistic            logistic curves of the logit, fitted label by label in one go
families            the families of calibration curves, from simple to rich, a class each
calibrators         the calibration curves of K labels, each of the family chosen for it
choosing            the curve from each label's logits to calibrated ones, of the family that held-out rows ask for
pos_weight_refit    the effect of pos_weight undone: a logistic refit of each label's held-out logits
prevalence          how often a label occurs in new rows, known or estimated from their scores, and what follows
calibration         probabilities put right on held-out rows: the refit after pos_weight, and bounds for logits
"""
