"""AUROC and average precision of scores as they are, by sorting them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.decisions.cells.checks import check_finite, checked_weights
from mlclf.decisions.histograms.filled_bins import FilledBins
from mlclf.decisions.metrics.auroc import auroc_steps
from mlclf.decisions.metrics.average_precision import average_precision_steps
from mlclf.errors import DataError

RankedRows = tuple[Tensor, Tensor, Tensor | None]
"""The observed rows of one label: logits [n] floating, labels [n] bool or uint8, weights [n] floating or None."""


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


def exact_rankings(num_labels: int, rows_of: Callable[[int], RankedRows]) -> tuple[Tensor, Tensor]:
    """Return the exact AUROC and average precision of each label, each [K] float64; see `exact_ranking`.

    The labels are asked for one after the other, in order, and nothing of one is kept for the next: the memory is that
    of one label, at most about 150 bytes a row beside what `rows_of` returns.

    Args:
        num_labels: K.
        rows_of: the number of a label to its observed rows, see `RankedRows`.

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
        weights = checked_weights(weights)
        kept = weights > 0
        logits, labels, weights = logits[kept], labels[kept], weights[kept]
    check_finite(logits, None)
    values = (logits if logits.dtype == torch.float64 else logits.float()).cpu().numpy() + np.float32(0)  # -0 is 0
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
