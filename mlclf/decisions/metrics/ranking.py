"""AUROC and average precision from histograms, each with a bound on the error that the binning can have made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.decisions.histograms.filled_bins import FilledBins, Measure, over_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.errors import DataError

_TINY = torch.finfo(torch.float64).tiny

LabelRows = tuple[Tensor, Tensor, Tensor | None]
"""The observed rows of one label: logits [n] floating, labels [n] bool or uint8, weights [n] floating or None."""


Bounded = tuple[Tensor, Tensor]
"""Values of a metric and bounds of their errors, [K] float64 each."""

Ranking = tuple[Bounded, Bounded]
"""AUROC and average precision."""


class Steps(NamedTuple):
    """A metric of k labels as a sum over their bins, [k, t] float64, divided by a total [k, 1].

    The division comes last: whole numbers add up exactly, so that classes apart have an area of 1, not nearly.
    """

    values: Tensor
    errors: Tensor  # how far each value may be off, to either side
    total: Tensor

    def totals(self) -> Bounded:
        """The metric and the bound on its error, each [k] float64."""
        total = self.total[:, 0]
        return self.values.sum(1) / total, self.errors.sum(1) / total

    def error_shares(self) -> Tensor:
        """The bound of the error that each bin makes, [k, t] float64."""
        return self.errors / self.total


def auroc(histogram: LabelHistogram) -> Bounded:
    """Return the area under the ROC curve of each label, and a bound on its error.

    It is the probability that a positive row has a larger logit than a negative one, ties counting half (Mann and
    Whitney 1947). Bins of one value are such ties and exact. In a bin with a spread any order is possible: it counts
    half, and may be wrong by half, so the bound is Σ p_b n_b / (2 P N) over the bins with a spread.

    Returns:
        values and bounds, each [K] float64; NaN for a label without both classes. ``histogram.pooled()`` gives the
        micro average.
    """
    values, bounds = over_labels(histogram, auroc_measure(histogram))[0]
    return values, bounds


def average_precision(histogram: LabelHistogram) -> Bounded:
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
    values, bounds = over_labels(histogram, average_precision_measure(histogram))[0]
    return values, bounds


def ranking(histogram: LabelHistogram) -> Ranking:
    """Return `auroc` and `average_precision`, for which the bins are looked for once."""
    areas, precisions = over_labels(histogram, auroc_measure(histogram), average_precision_measure(histogram))
    return (areas[0], areas[1]), (precisions[0], precisions[1])


def auroc_measure(histogram: LabelHistogram) -> Measure:
    """Values and bounds of `auroc`, [2, k] of k labels."""
    return _where_defined(histogram, auroc_steps)


def average_precision_measure(histogram: LabelHistogram) -> Measure:
    """Values and bounds of `average_precision`, [2, k] of k labels."""
    return _where_defined(histogram, partial(average_precision_steps, least_weight=histogram.least_weight))


def _where_defined(histogram: LabelHistogram, steps_of: Callable[[FilledBins], Steps]) -> Measure:
    """The totals of the steps, NaN for a label without both classes."""
    defined = has_both_classes(histogram)
    return lambda bins, labels: torch.stack(steps_of(bins).totals()).where(defined[labels], torch.nan)


def auroc_steps(bins: FilledBins) -> Steps:
    """The area under the ROC curve bin by bin; see `auroc`."""
    p, n = bins.positives, bins.negatives
    pairs = (p.sum(1) * n.sum(1))[:, None]
    below = n.cumsum(1) - n
    return Steps(p * (below + n / 2), p * n * bins.spread() / 2, pairs)


def average_precision_steps(bins: FilledBins, least_weight: Tensor) -> Steps:
    """The average precision bin by bin; see `average_precision`. `least_weight` [] float64, of a row."""
    p, n = bins.positives, bins.negatives
    true, false = _from_the_top(p), _from_the_top(n)
    flagged, gain = true + false, p * true
    tied = gain / flagged.clamp(min=_TINY)  # 0 in a bin without positives, as the best and the worst are
    best = gain / (true + (false - n)).clamp_(min=_TINY)
    worst = p - false * torch.log1p(p / (true - p + false + least_weight / 2))
    spread = bins.spread().double()  # lerp is exact at both ends, and `where` with such flags takes ten times as long
    return Steps(tied.lerp((best + worst) / 2, spread), spread * (best - worst) / 2, p.sum(1, keepdim=True))


def exact_ranking(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the exact AUROC and average precision of one label, each [] float64; NaN without both classes.

    The rows are sorted; equal logits are ties, and average precision is that of scikit-learn.

    Args:
        logits: [n] floating, compared as they are; finite wherever the weight is above 0.
        labels: [n] bool or uint8 of 0 and 1.
        weights: [n] floating, not negative; rows of weight 0 do not count; None = 1 for every row.

    Raises:
        DataError: A logit that counts or a weight is not finite, or a weight is negative.
        ValueError: The lengths differ.
    """
    bins = _distinct_values(logits, labels, weights)
    if float(bins.positives.sum()) == 0 or float(bins.negatives.sum()) == 0:
        return (torch.tensor(torch.nan, dtype=torch.float64),) * 2
    unused = torch.ones((), dtype=torch.float64)  # the least weight bounds bins with a spread, and here are none
    return auroc_steps(bins).totals()[0][0], average_precision_steps(bins, unused).totals()[0][0]


def exact_rankings(num_labels: int, rows_of: Callable[[int], LabelRows]) -> tuple[Tensor, Tensor]:
    """Return the exact AUROC and average precision of each label, each [K] float64; see `exact_ranking`.

    The labels are asked for one after the other, in order, and nothing of one is kept for the next: the memory is that
    of one label, at most about 150 bytes a row beside what `rows_of` returns.

    Args:
        num_labels: K.
        rows_of: the number of a label to its observed rows, see `LabelRows`.

    Raises:
        DataError: As `exact_ranking`, naming the label.
    """
    values = torch.full((2, num_labels), torch.nan, dtype=torch.float64)
    for label in range(num_labels):
        try:
            values[0, label], values[1, label] = exact_ranking(*rows_of(label))
        except DataError as error:
            raise DataError(f"label {label}: {error}") from None
    return values[0], values[1]


def _distinct_values(logits: Tensor, labels: Tensor, weights: Tensor | None) -> FilledBins:
    """A bin for each distinct logit of one label, [1, t]."""
    lengths = [len(column) for column in (logits, labels, weights) if column is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"logits, labels and weights must have the same length, got {lengths}")
    if weights is not None:
        weights = _checked_weights(weights)
        kept = weights > 0
        logits, labels, weights = logits[kept], labels[kept], weights[kept]
    values = (logits if logits.dtype == torch.float64 else logits.float()).cpu().numpy() + np.float32(0)  # -0 is 0
    _check_finite(values)
    order = values.argsort()  # several times faster than torch's, and the order of ties does not matter
    values, positive = values[order], (labels != 0).cpu().numpy()[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    mass = np.ones(len(values)) if weights is None else weights.cpu().numpy()[order]
    positives, negatives = (_sums(mass * part, first) for part in (positive, ~positive))
    ends = torch.from_numpy(values[first])[None]
    return FilledBins(positives, negatives, ends, ends)


def _sums(mass: NDArray[np.float64], first: NDArray[np.int64]) -> Tensor:
    """[1, t] float64: the sums of the runs that begin at `first`."""
    return torch.from_numpy(np.add.reduceat(mass, first) if len(first) else np.zeros(0))[None]


def _checked_weights(weights: Tensor) -> Tensor:
    weights = weights.double()
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(f"weights must be finite and not negative, got {float(weights[row])!r} in row {row}")
    return weights


def _check_finite(values: NDArray[np.floating[Any]]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"logits must be finite where a row counts, got {float(values[row])!r} in row {row} of those "
            f"({int(bad.sum())} such rows); look for infinite inputs or weights"
        )


def _from_the_top(counts: Tensor) -> Tensor:
    return counts.flip(1).cumsum(1).flip(1)


def has_both_classes(histogram: LabelHistogram) -> Tensor:
    """Return [K] bool, True for a label with an observed positive and an observed negative row."""
    return (histogram.positive_rows > 0) & (histogram.positive_rows < histogram.rows)
