"""AUROC and average precision without bins: the rows of one label, sorted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mlclf.decisions.ranking import FilledBins, auroc_steps, average_precision_steps
from mlclf.errors import DataError

LabelRows = tuple[Tensor, Tensor, Tensor | None]
"""The observed rows of one label: logits [n] floating, labels [n] bool or uint8, weights [n] floating or None."""


def exact_auroc(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Return the area under the ROC curve, ties counting half; NaN without both classes.

    Args:
        logits: [n] floating, compared as float32; finite wherever the weight is above 0.
        labels: [n] bool or uint8 of 0 and 1.
        weights: [n] floating, not negative, 0 does not count; None = 1 for every row.

    Raises:
        DataError: A logit that counts or a weight is not finite, or a weight is negative.
        ValueError: The lengths differ.
    """
    return _exact(logits, labels, weights)[0]


def exact_average_precision(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Return the average precision, as scikit-learn has it; NaN without both classes.

    Arguments and errors are those of `exact_auroc`.
    """
    return _exact(logits, labels, weights)[1]


def exact_ranking(num_labels: int, rows_of: Callable[[int], LabelRows]) -> tuple[Tensor, Tensor]:
    """Return the AUROC and the average precision of each label, exactly, each [K] float64.

    The labels are asked for one after the other, in order, and nothing of one is kept for the next: the memory is that
    of one label, about 150 bytes a row beside what `rows_of` returns.

    Args:
        num_labels: K.
        rows_of: the number of a label to its observed rows; see `LabelRows` and `exact_auroc`.

    Raises:
        DataError: As `exact_auroc`, naming the label.
    """
    values = torch.full((2, num_labels), torch.nan, dtype=torch.float64)
    for label in range(num_labels):
        try:
            values[0, label], values[1, label] = _exact(*rows_of(label))
        except DataError as error:
            raise DataError(f"label {label}: {error}") from None
    return values[0], values[1]


def distinct_values(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> FilledBins:
    """Return a bin for each distinct logit, [1, t]; the arguments and errors are those of `exact_auroc`."""
    lengths = [len(column) for column in (logits, labels, weights) if column is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"logits, labels and weights must have the same length, got {lengths}")
    if weights is not None:
        weights = weights.double()
        _check_weights(weights)
        kept = weights > 0
        logits, labels, weights = logits[kept], labels[kept], weights[kept]
    values = logits.float().cpu().numpy() + np.float32(0)  # so that -0 is 0
    _check_finite(values)
    order = values.argsort()  # many times faster than torch's, and the order of ties does not matter
    values, positive = values[order], (labels != 0).cpu().numpy()[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])
    if weights is None:
        positives = np.add.reduceat(positive, first, dtype=np.int64) if len(first) else np.zeros(0)
        negatives = np.diff(first, append=len(values)) - positives
    else:
        mass = weights.cpu().numpy()[order]
        positives, negatives = (
            np.add.reduceat(mass * part, first) if len(first) else np.zeros(0) for part in (positive, ~positive)
        )
    ends = torch.from_numpy(values[first])[None]
    mass_of = [torch.from_numpy(part)[None].double() for part in (positives, negatives)]
    return FilledBins(mass_of[0], mass_of[1], ends, ends)


def _exact(logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[float, float]:
    bins = distinct_values(logits, labels, weights)
    if float(bins.positives.sum()) == 0 or float(bins.negatives.sum()) == 0:
        return np.nan, np.nan
    unused = torch.ones((), dtype=torch.float64)  # the least weight bounds bins with a spread, and here are none
    return float(auroc_steps(bins).values.sum()), float(average_precision_steps(bins, unused).values.sum())


def _check_weights(weights: Tensor) -> None:
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(f"weights must be finite and not negative, got {float(weights[row])!r} in row {row}")


def _check_finite(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"logits must be finite where a row counts, got {float(values[row])!r} in row {row} of those "
            f"({int(bad.sum())} such rows); look for infinite inputs or weights"
        )
