"""Thresholds that hold a constraint with confidence.

betting             tests by betting: the wealth of bets against a constraint, for every cut at once
binomial            tails of the binomial distribution, and confidence bounds of a share
cut_grid            the cuts of each label that are tested, from the strictest on
fixed_sequences     Learn-then-Test: cuts tested in fixed sequences from several starts
certified           the result: certified thresholds, and the best bound of labels without one
clusters            betting where rows come in clusters: each cluster is one observation
independent_rows    thresholds from independent rows of weight 1, by exact binomial tests
weighted_rows       thresholds from weighted or clustered rows, by betting
"""
