"""ROC and precision-recall curves of a label, from its histogram."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.cutoffs import Cuts, cuts_of
from mlclf.decisions.histograms import LabelHistogram


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


def roc_curve(histogram: LabelHistogram, label: int, scores_of: Callable[[Tensor], Tensor]) -> RocCurve:
    """Return the ROC curve of a label, with a point for each bin that float32 scores tell from the one below.

    A row is flagged if its score is at least the threshold. Points are exact; those inside a bin are left out, and the
    curve between two points is as scikit-learn's with `drop_intermediate=False` where a bin holds one value.

    Args:
        histogram: of K labels.
        label: its index.
        scores_of: float32 logits to float32 probabilities, element by element, not falling.

    Returns:
        NaN rates for a class without rows.
    """
    cuts, kept = _cuts(histogram, label, scores_of)
    true, flagged = cuts.positives[0][kept], cuts.flagged[0][kept]
    positives, rows = cuts.positives[0, -1], cuts.flagged[0, -1]
    nothing = true.new_zeros(1)
    return RocCurve(
        torch.cat([nothing, flagged - true]) / (rows - positives),
        torch.cat([nothing, true]) / positives,
        torch.cat([cuts.score.new_full((1,), torch.inf), cuts.score[0][kept]]),
    )


def precision_recall_curve(
    histogram: LabelHistogram, label: int, scores_of: Callable[[Tensor], Tensor]
) -> PrecisionRecallCurve:
    """Return the precision-recall curve of a label; see `roc_curve`.

    Returns:
        recall is NaN for a label without a positive row.
    """
    cuts, kept = _cuts(histogram, label, scores_of)
    true, flagged = cuts.positives[0][kept], cuts.flagged[0][kept]
    return PrecisionRecallCurve(
        torch.cat([(true / flagged).flip(0), true.new_ones(1)]),
        torch.cat([(true / cuts.positives[0, -1]).flip(0), true.new_zeros(1)]),
        cuts.score[0][kept].flip(0),
    )


def _cuts(histogram: LabelHistogram, label: int, scores_of: Callable[[Tensor], Tensor]) -> tuple[Cuts, Tensor]:
    cuts = cuts_of(histogram, slice(label, label + 1), scores_of)
    return cuts, cuts.usable[0]
