"""All metrics of a set of rows in one pass, with intervals, and by the values of a column.

bootstrap               a Poisson bootstrap over a stream: sums of replicates and percentile intervals
bootstrap_histograms    the bootstrap of AUROC and average precision
other_thresholds        metrics of decisions at other thresholds, from the histograms of rows
intervals               sampling intervals of every metric, from the replicates of a bootstrap
evaluation              every metric of a set of rows in one pass, and the document that reports them
by_column               the metrics of the rows of each value of a column
"""
