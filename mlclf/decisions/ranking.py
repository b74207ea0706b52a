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
        values[labels], shares = area_steps(p, n, _spread(histogram, labels))
        bounds[labels] = shares.sum(1) / 2
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
        values[labels], shares = precision_steps(p, n, _spread(histogram, labels), histogram.least_weight)
        bounds[labels] = shares.sum(1) / 2
    return _where_defined(histogram, values, bounds)


def area_steps(positives: Tensor, negatives: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return the AUROC [k] of steps [k, M] that rise in the logit, and the share [k, M] of each in its interval.

    The interval is the value ± half the sum of the shares; only steps with a spread, [k, M] bool, have one.
    """
    pairs = positives.sum(1) * negatives.sum(1)
    below = negatives.cumsum(1) - negatives
    values = (positives * (below + negatives / 2)).sum(1) / pairs
    return values, positives * negatives * spread / pairs[:, None]


def precision_steps(
    positives: Tensor, negatives: Tensor, spread: Tensor, least_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the average precision [k] of steps [k, M] that rise in the logit, and the share [k, M] of each.

    As `area_steps`; `least_weight` [] is that of a row.
    """
    true, false = _from_the_top(positives), _from_the_top(negatives)
    tied = positives * true / (true + false)
    best = positives * true / (true + false - negatives)
    worst = positives - false * torch.log1p(positives / (true - positives + false + least_weight / 2))
    spread = spread & (positives > 0)
    total = positives.sum(1)
    steps = torch.where(spread, (best + worst) / 2, tied).where(positives > 0, 0.0)
    return steps.sum(1) / total, torch.where(spread, best - worst, 0.0) / total[:, None]


def exact_ranking(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the exact AUROC and average precision of one label, each [] float64; NaN without both classes.

    The rows are sorted, so it takes memory for those of one label; equal logits are ties.

    Args:
        logits: [n] floating, finite.
        labels: [n] bool or uint8 of 0 and 1.
        weights: [n] floating, not negative; rows of weight 0 do not count.
    """
    weights = torch.ones(len(logits), dtype=torch.float64) if weights is None else weights.double()
    counted = weights > 0
    order = logits[counted].sort()
    truth, mass = labels[counted][order.indices] != 0, weights[counted][order.indices]
    if not bool(truth.any()) or bool(truth.all()):
        return (torch.tensor(torch.nan, dtype=torch.float64),) * 2
    step = torch.zeros(len(mass), dtype=torch.int64)
    torch.cumsum(order.values.diff() != 0, 0, out=step[1:])
    p, n = (torch.zeros(1, int(step[-1]) + 1, dtype=torch.float64) for _ in range(2))
    p[0].index_add_(0, step, mass * truth)
    n[0].index_add_(0, step, mass * ~truth)
    ties = torch.zeros_like(p, dtype=torch.bool)
    return area_steps(p, n, ties)[0][0], precision_steps(p, n, ties, mass.min())[0][0]


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
