"""Metrics, a file for each kind.

binned_metric        A metric as a sum over bins, and how far it can be from that of the scores themselves
calibration_error    how far scores are from being probabilities: errors over groups of equal mass,
confusion            decisions, right and wrong, counted row by row; and the metrics of such counts
label_ranking        how well each row ranks its labels: precision and nDCG at k, label ranking average precision
log_loss             log-loss, information gain and Brier score of each label, as sums in constant memory
auroc                AUROC from histograms, with a bound on the error that the binning can have made
average_precision    average precision from histograms, with a bound on its error; and AUROC beside it
bin_splits           bins split into finer parts where the error of a metric could be too large
exact_ranking        AUROC and average precision of scores as they are, by sorting them
refinement           A second pass for AUROC and average precision
curves               ROC and precision-recall curves of a label, from its histogram or what was refined of it
"""
