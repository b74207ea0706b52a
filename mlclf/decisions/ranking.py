"""AUROC and average precision from histograms, each with a bound on the error that the binning can have made."""

from __future__ import annotations

import torch
from torch import Tensor

from mlclf.decisions.histograms import LabelHistogram

_BYTES_PER_BIN = 80


def auroc(histogram: LabelHistogram) -> tuple[Tensor, Tensor]:
    """Return the area under the ROC curve of each label, and a bound on its error.

    It is the probability that a positive row has a larger logit than a negative one, ties counting half (Mann and
    Whitney 1947). Bins of one value are such ties and exact. In a bin with a spread any order is possible: it counts
    half, and may be wrong by half, so the bound is Σ p_b n_b / (2 P N) over the bins with a spread.

    Returns:
        values and bounds, each [K] float64; NaN for a label without both classes. ``histogram.pooled()`` gives the
        micro average.
    """
    values, bounds = _empty(histogram), _empty(histogram)
    for labels in histogram.label_slices(_BYTES_PER_BIN):
        p, n = histogram.positives[labels], histogram.negatives[labels]
        pairs = p.sum(1) * n.sum(1)
        below = n.cumsum(1) - n
        values[labels] = (p * (below + n / 2)).sum(1) / pairs
        bounds[labels] = (p * n * _spread(histogram, labels)).sum(1) / (2 * pairs)
    return _where_defined(histogram, values, bounds)


def average_precision(histogram: LabelHistogram) -> tuple[Tensor, Tensor]:
    """Return the average precision of each label, and a bound on its error.

    It is Σ (R_t − R_{t−1}) P_t over the distinct logits, without interpolation, as scikit-learn has it; bins of one
    value are one such step and exact. In a bin with a spread, with p positives and n negatives below TP and FP, the
    best order has its positives first and in one step, p (TP + p) / (TP + p + FP). The worst has its negatives first
    and then its positives one by one. With F = FP + n and u the least weight of a row that is at least
    ``p − F ln(1 + p / (TP + F + u/2))``, since Σ 1/(x + i) ≤ ∫ dt/(x + t) over intervals centred on each i. The value
    is the centre of the two, the bound half their distance.

    Returns:
        values and bounds, each [K] float64; NaN for a label without both classes. ``histogram.pooled()`` gives the
        micro average.
    """
    values, bounds = _empty(histogram), _empty(histogram)
    for labels in histogram.label_slices(_BYTES_PER_BIN):
        p, n = histogram.positives[labels], histogram.negatives[labels]
        true, false = _from_the_top(p), _from_the_top(n)
        tied = p * true / (true + false)
        best = p * true / (true + false - n)
        worst = p - false * torch.log1p(p / (true - p + false + histogram.least_weight / 2))
        spread = _spread(histogram, labels) & (p > 0)
        total = p.sum(1)
        steps = torch.where(spread, (best + worst) / 2, tied).where(p > 0, 0.0)
        values[labels] = steps.sum(1) / total
        bounds[labels] = torch.where(spread, (best - worst) / 2, 0.0).sum(1) / total
    return _where_defined(histogram, values, bounds)


def _from_the_top(counts: Tensor) -> Tensor:
    return counts.flip(1).cumsum(1).flip(1)


def _spread(histogram: LabelHistogram, labels: slice) -> Tensor:
    return histogram.greatest[labels] > histogram.least[labels]


def _empty(histogram: LabelHistogram) -> Tensor:
    return torch.empty(histogram.num_labels, dtype=torch.float64, device=histogram.least.device)


def _where_defined(histogram: LabelHistogram, values: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    defined = has_both_classes(histogram)
    return values.where(defined, torch.nan), bounds.where(defined, torch.nan)


def has_both_classes(histogram: LabelHistogram) -> Tensor:
    """Return [K] bool, True for a label with an observed positive and an observed negative row."""
    return (histogram.positive_rows > 0) & (histogram.positive_rows < histogram.rows)
