"""Thresholds that hold a constraint with confidence.

betting             wealth of bets against a constraint: sums over independent rows, for every cut at once
binomial            tails of the binomial distribution, exact and fast, and what is inverted from them
cut_grid            what a procedure with confidence returns: thresholds, and for labels that cannot the best
fixed_sequences     hypotheses tested in a fixed sequence, from several starts: which cuts are certified
certified           what a procedure with confidence returns: thresholds, and for labels that have none the best
clusters            wealth of bets where rows come in clusters: each cluster is one observation
independent_rows    thresholds that hold a constraint with confidence, from rows that were used for nothing else
weighted_rows       thresholds that hold a constraint with confidence, from weighted or clustered rows
"""
