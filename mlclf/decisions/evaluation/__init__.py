"""All metrics of a set of rows in one pass, with intervals, and by the values of a column.

bootstrap               sums of replicates over a stream, and the intervals between their percentiles
bootstrap_histograms    bootstrap of AUROC and average precision
other_thresholds        metrics of decisions at other thresholds, from the histograms of rows
intervals               sampling intervals of every metric, from the replicates of a bootstrap
evaluation              every metric of a set of rows in one pass, and the document that reports them
by_column               the metrics of every value of a column, each as of a data set of its own
"""
