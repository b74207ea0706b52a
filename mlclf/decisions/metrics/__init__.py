"""Metrics, a file for each kind.

binned_metric        a metric as a sum over bins, with a bound on the error of binning
calibration_error    calibration errors over groups of equal mass; slope and intercept of recalibration
confusion            true and false positives and negatives, counted row by row, and their metrics
label_ranking        how well a row's labels are ranked: precision and nDCG at k, ranking loss, coverage
log_loss             log-loss, information gain and Brier score of each label, as sums in constant memory
auroc                AUROC from histograms, with a bound on the error of binning
average_precision    average precision from histograms, with a bound on the error of binning
bin_splits           bins split into finer ones where the bound is too large
exact_ranking        AUROC and average precision without bins, by sorting the scores
refinement           further passes over the rows that count the split bins
curves               ROC and precision-recall curves of a label
"""
