"""Counts of positives and negatives per label and bin of the logit, in constant memory.

bins               bins of the logit: how many there are, what they hold, and where their middle is
lazy_bins          memory for bins that takes pages only where logits fall
tables             one row for each bin that holds something, and what belongs to all of them in the metadata
counting           counting scored cells into bins of their logit: the inner loop of histograms
label_histogram    per-label histograms of the logit: the state of ranking metrics, thresholds and calibration
filled_bins        bins of a histogram that hold rows, and what is measured on them, a slice of labels at a time
folds              histograms of folds of the rows, by which what is chosen on some rows is judged on others
"""
