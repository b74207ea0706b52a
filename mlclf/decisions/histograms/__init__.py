"""Counts of positives and negatives per label and bin of the logit, in constant memory.

bins               the bins of the logit: their number, edges and centres
lazy_bins          memory for bins, of which only pages are taken in which logits fall
counting           scored cells counted into bins: the inner loop
label_histogram    the histograms of K labels: state of AUROC, thresholds and calibration
derived            histograms made of others: pooled, with fewer bins, other weights or fewer rows, summed
tables             histograms as Arrow tables, a row for each bin that is not empty
filled_bins        the bins that hold rows, and measures over them, a slice of labels at a time
folds              histograms by fold, for cross-validation
"""
