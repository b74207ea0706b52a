"""ROC and precision-recall curves of a label, from its histogram or what was refined of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.filled_bins import FilledBins
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.refinement import Refinement, bins_of


class RocCurve(NamedTuple):
    """m + 1 points from (0, 0) to (1, 1), as scikit-learn's `roc_curve` with ``drop_intermediate=False``.

    NaN where undefined: `false_positive_rate` without a negative row, `true_positive_rate` without a positive one.
    """

    false_positive_rate: Tensor  # [m + 1] float64, false positives ÷ negatives, rising
    true_positive_rate: Tensor  # [m + 1] float64, true positives ÷ positives, rising
    thresholds: Tensor  # [m + 1] float32, scores, falling; the first is inf, which flags nothing


class PrecisionRecallCurve(NamedTuple):
    """m points and an end, as scikit-learn's `precision_recall_curve`: from all rows flagged to none.

    The end has precision 1, recall 0 and no threshold. Recall is NaN without a positive row.
    """

    precision: Tensor  # [m + 1] float64
    recall: Tensor  # [m + 1] float64, falling
    thresholds: Tensor  # [m] float32, scores, rising


class ScoreCuts(NamedTuple):
    """The cut-offs that the scores of a label can make, from the highest down, [m]; the totals are []."""

    scores: Tensor  # float32
    true: Tensor  # float64, flagged positives
    false: Tensor  # float64, flagged negatives
    positives: Tensor
    negatives: Tensor

    def roc_curve(self) -> RocCurve:
        """See `roc_curve`."""
        zero = self.true.new_zeros(1)
        return RocCurve(
            false_positive_rate=torch.cat([zero, self.false]) / self.negatives,
            true_positive_rate=torch.cat([zero, self.true]) / self.positives,
            thresholds=torch.cat([self.scores.new_full((1,), torch.inf), self.scores]),
        )

    def precision_recall_curve(self) -> PrecisionRecallCurve:
        """See `precision_recall_curve`."""
        one, zero = self.true.new_ones(1), self.true.new_zeros(1)
        return PrecisionRecallCurve(
            precision=torch.cat([(self.true / (self.true + self.false)).flip(0), one]),
            recall=torch.cat([self.true.flip(0), zero]) / self.positives,
            thresholds=self.scores.flip(0),
        )


def roc_curve(counted: LabelHistogram | Refinement, label: int) -> RocCurve:
    """Return the ROC curve of a label.

    Rows are flagged where ``score >= threshold``. There is a point for each bin that holds rows, so every point is
    exact; those that scikit-learn has between two of them lie in one bin. Bins whose scores are equal as float32 make
    one point, because no threshold separates them. The area under the straight lines between the points is `auroc`
    where no scores are equal across bins.

    Args:
        counted: all rows.
        label: its number.

    Raises:
        ValueError: There is no such label.
        DataError: The second pass of a refinement had other rows than the first.
    """
    return score_cuts(counted, label).roc_curve()


def precision_recall_curve(counted: LabelHistogram | Refinement, label: int) -> PrecisionRecallCurve:
    """Return the precision-recall curve of a label; arguments and points are those of `roc_curve`.

    Points must not be joined by straight lines (Davis and Goadrich, ICML 2006); `average_precision` adds up steps.
    """
    return score_cuts(counted, label).precision_recall_curve()


def score_cuts(counted: LabelHistogram | Refinement, label: int) -> ScoreCuts:
    """Return what both curves of a label are made of; see `roc_curve` for the arguments and errors."""
    num_labels = (counted.histogram if isinstance(counted, Refinement) else counted).num_labels
    if not 0 <= label < num_labels:
        raise ValueError(f"label must be from 0 to {num_labels - 1}, got {label}")
    bins = FilledBins(*(part[0].flip(0) for part in bins_of(counted, label)))
    scores, below = scores_of(bins.least), scores_of(bins.greatest[1:])
    usable = torch.ones_like(scores, dtype=torch.bool)
    usable[:-1] = scores[:-1] > below
    true, false = bins.positives.cumsum(0), bins.negatives.cumsum(0)
    positives, negatives = true[-1:].sum(), false[-1:].sum()
    if not bool(usable.all()):
        scores, true, false = scores[usable], true[usable], false[usable]
    return ScoreCuts(scores, true, false, positives, negatives)
