"""ROC and precision-recall curves of a label, from its histogram or what was refined of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.refinement import Refinement, steps_of


class RocCurve(NamedTuple):
    """Points of a ROC curve from (0, 0) to (1, 1), in scikit-learn's order: thresholds fall."""

    false_positive_rate: Tensor  # [M + 1] float64
    true_positive_rate: Tensor  # [M + 1] float64
    thresholds: Tensor  # [M + 1] float32, scores; +inf first


class PrecisionRecallCurve(NamedTuple):
    """Points of a precision-recall curve, in scikit-learn's order: thresholds rise, and (1, 0) without one is last."""

    precision: Tensor  # [M + 1] float64
    recall: Tensor  # [M + 1] float64
    thresholds: Tensor  # [M] float32, scores


def roc_curve(counted: LabelHistogram | Refinement, label: int, scores_of: Callable[[Tensor], Tensor]) -> RocCurve:
    """Return the ROC curve of a label, with a point for each bin that float32 scores tell from the one below.

    A row is flagged if its score is at least the threshold. Points are exact; those inside a bin are left out. Where
    bins hold one value each, the curve is scikit-learn's with `drop_intermediate=False`.

    Args:
        counted: of K labels.
        label: its index.
        scores_of: float32 logits to float32 probabilities, element by element, not falling.

    Returns:
        CPU tensors; NaN rates for a class without rows.
    """
    points = _points(counted, label, scores_of)
    nothing = points.true.new_zeros(1)
    false = points.flagged - points.true
    return RocCurve(
        torch.cat([nothing, false.flip(0)]) / (points.rows - points.positives),
        torch.cat([nothing, points.true.flip(0)]) / points.positives,
        torch.cat([points.scores.new_full((1,), torch.inf), points.scores.flip(0)]),
    )


def precision_recall_curve(
    counted: LabelHistogram | Refinement, label: int, scores_of: Callable[[Tensor], Tensor]
) -> PrecisionRecallCurve:
    """Return the precision-recall curve of a label; see `roc_curve`.

    Returns:
        CPU tensors; recall is NaN for a label without a positive row.
    """
    points = _points(counted, label, scores_of)
    return PrecisionRecallCurve(
        torch.cat([points.true / points.flagged, points.true.new_ones(1)]),
        torch.cat([points.true / points.positives, points.true.new_zeros(1)]),
        points.scores,
    )


class _Points(NamedTuple):
    """Cut-offs that float32 scores can make, rising; true positives and flagged rows of each, and of all rows."""

    scores: Tensor  # [M] float32
    true: Tensor  # [M] float64
    flagged: Tensor  # [M] float64
    positives: Tensor  # [] float64
    rows: Tensor  # [] float64


def _points(counted: LabelHistogram | Refinement, label: int, scores_of: Callable[[Tensor], Tensor]) -> _Points:
    steps = steps_of(counted, label)
    scores = scores_of(steps.least)
    usable = torch.ones(len(scores), dtype=torch.bool)
    usable[1:] = scores[1:] > scores_of(steps.greatest)[:-1]
    mass = steps.positives + steps.negatives
    true, flagged = (part.flip(0).cumsum(0).flip(0)[usable] for part in (steps.positives, mass))
    return _Points(scores[usable], true, flagged, steps.positives.sum(), mass.sum())
