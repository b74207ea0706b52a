"""Thresholds of labels, and the cuts of the labels that they are chosen from.

thresholds    thresholds of K labels, with their statuses and their metrics on the rows they were tuned on
top_k         the k labels with the largest scores of each row
cutoffs       the cuts of a histogram, and what is flagged at each
"""
