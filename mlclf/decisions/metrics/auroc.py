"""AUROC from histograms, with a bound on the error that the binning can have made."""

from __future__ import annotations

from mlclf.decisions.histograms.filled_bins import FilledBins, Measure, over_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.binned_metric import Bounded, Steps, where_defined


def auroc(histogram: LabelHistogram) -> Bounded:
    """Return the area under the ROC curve of each label, and a bound on its error.

    It is the probability that a positive row has a larger logit than a negative one, ties counting half (Mann and
    Whitney 1947). Bins of one value are such ties and exact. In a bin with a spread any order is possible: it counts
    half, and may be wrong by half, so the bound is Σ p_b n_b / (2 P N) over the bins with a spread.

    Returns:
        values and bounds, each [K] float64; NaN for a label without both classes. ``pooled(histogram)`` gives the
        micro average.
    """
    values, bounds = over_labels(histogram, auroc_measure(histogram))[0]
    return values, bounds


def auroc_measure(histogram: LabelHistogram) -> Measure:
    """Values and bounds of `auroc`, [2, k] of k labels."""
    return where_defined(histogram, auroc_steps)


def auroc_steps(bins: FilledBins) -> Steps:
    """The area under the ROC curve bin by bin; see `auroc`."""
    p, n = bins.positives, bins.negatives
    pairs = (p.sum(1) * n.sum(1))[:, None]
    below = n.cumsum(1) - n
    return Steps(p * (below + n / 2), p * n * bins.spread() / 2, pairs)
