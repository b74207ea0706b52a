"""Average precision from histograms, with a bound on its error; and AUROC beside it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mlclf.decisions.histograms.filled_bins import FilledBins, Measure, over_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc_measure
from mlclf.decisions.metrics.binned_metric import TINY, Bounded, Steps, where_defined

Ranking = tuple[Bounded, Bounded]
"""AUROC and average precision."""


def average_precision(histogram: LabelHistogram) -> Bounded:
    """Return the average precision of each label, and a bound on its error.

    It is Σ (R_t − R_{t−1}) P_t over the distinct logits, without interpolation, as scikit-learn has it; bins of one
    value are one such step and exact. In a bin with a spread, with p positives and n negatives below TP and FP, the
    best order has its positives first and in one step, p (TP + p) / (TP + p + FP). The worst has its negatives first
    and then its positives one by one. With F = FP + n and u the least weight of a row that is at least
    ``p − F ln(1 + p / (TP + F + u/2))``, since Σ 1/(x + i) ≤ ∫ dt/(x + t) over intervals centred on each i. The value
    is the centre of the two, the bound half their distance.

    Returns:
        values and bounds, each [K] float64; NaN for a label without both classes. ``pooled(histogram)`` gives the
        micro average.
    """
    values, bounds = over_labels(histogram, average_precision_measure(histogram))[0]
    return values, bounds


def ranking(histogram: LabelHistogram) -> Ranking:
    """Return `auroc` and `average_precision`, for which the bins are looked for once."""
    areas, precisions = over_labels(histogram, auroc_measure(histogram), average_precision_measure(histogram))
    return (areas[0], areas[1]), (precisions[0], precisions[1])


def average_precision_measure(histogram: LabelHistogram) -> Measure:
    """Values and bounds of `average_precision`, [2, k] of k labels."""
    return where_defined(histogram, partial(average_precision_steps, least_weight=histogram.least_weight))


def average_precision_steps(bins: FilledBins, least_weight: Tensor) -> Steps:
    """The average precision bin by bin; see `average_precision`. `least_weight` [] float64, of a row."""
    p, n = bins.positives, bins.negatives
    true, false = _from_the_top(p), _from_the_top(n)
    flagged, gain = true + false, p * true
    tied = gain / flagged.clamp(min=TINY)  # 0 in a bin without positives, as the best and the worst are
    best = gain / (true + (false - n)).clamp_(min=TINY)
    worst = p - false * torch.log1p(p / (true - p + false + least_weight / 2))
    spread = bins.spread().double()  # lerp is exact at both ends, and `where` with such flags takes ten times as long
    return Steps(tied.lerp((best + worst) / 2, spread), spread * (best - worst) / 2, p.sum(1, keepdim=True))


def _from_the_top(counts: Tensor) -> Tensor:
    return counts.flip(1).cumsum(1).flip(1)
