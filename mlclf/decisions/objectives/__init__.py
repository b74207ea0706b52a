"""Objectives: what thresholds are chosen for, a class each.

objective      what every objective says: how it is written, its best cuts, what decisions are worth, how it is tuned
f_measures     F1, Fβ and macro-F1 of each label, micro-F1 and its sum with macro-F1 of all labels together
two_classes    MCC, balanced accuracy and costs: what positives and negatives are worth, label by label
quotas         objectives of how many rows are flagged: as many as are positive, per million, in all, or of each row
constraints    precision, recall and false-positive rate: bounds that can be held with confidence
table          all objectives by name, and their texts parsed
"""
