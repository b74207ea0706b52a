"""Logits → probabilities that held-out rows bear out.

isotonic            isotonic regression of labels on logits, its steps joined into a line
logit_bounds        bounds of the logits of each label, where held-out rows call for them
logit_groups        neighbouring bins of a histogram joined into few groups, to which curves are fitted
logistic            penalised logistic regression on groups of logits, and the slope pooled over labels
families            the families of calibration curves, from simple to rich, a class each
calibrators         the calibration curves of K labels, each of the family chosen for it
choosing            the family of each label, chosen by cross-validation, and its curve fitted
pos_weight_refit    the effect of pos_weight undone: Platt scaling of each label's held-out logits
prevalence          prevalences of new rows, estimated from their scores, and histograms reweighted to them
calibration         what is applied to the logits of a run: slope and intercept, then bounds
"""
