"""Decisions, right and wrong, counted row by row; and the metrics of such counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice
from mlclf.decisions.cells.scores import at_least


class Tally(NamedTuple):
    """What decisions come to, sums of weights of any shape: true positives, flagged rows, positives, all rows."""

    true: Tensor
    flagged: Tensor
    positives: Tensor
    rows: Tensor

    @classmethod
    def of_cuts(cls, positives: Tensor, flagged: Tensor) -> Tally:
        """Of cuts from the strictest on, [k, T], the last of which flags all rows; totals are [k, 1]."""
        return cls(positives, flagged, positives[:, -1:], flagged[:, -1:])

    @property
    def false(self) -> Tensor:
        """False positives."""
        return self.flagged - self.true

    @property
    def negatives(self) -> Tensor:
        """Rows that are not positive."""
        return self.rows - self.positives


def f_measure(true: Tensor, flagged: Tensor, positives: Tensor, beta_squared: float = 1.0) -> Tensor:
    """(1 + β²) TP / (β² P + flagged); NaN only where that sum is 0."""
    return (1 + beta_squared) * true / (beta_squared * positives + flagged)


def correlation(tally: Tally) -> Tensor:
    """Matthews' correlation (Matthews 1975); NaN where a class or a decision is missing."""
    true, flagged, positives, rows = tally
    spread = (flagged * (rows - flagged) * positives * tally.negatives).sqrt()
    return (true * rows - positives * flagged) / spread


class DecisionSums(NamedTuple):
    """What some rows add to the states of `DecisionCounts`."""

    counts: Tensor
    right_rows: Tensor
    labelled_rows: Tensor


class DecisionCounts(Metric):
    """Right and wrong decisions of each label, as they were taken and at 0.5, counted row by row.

    States, float64, weighted, summed over ranks:
        counts: [2, 4, K]; as taken and at 0.5, the true positives, false positives, false negatives and true
            negatives.
        right_rows: [], rows where the decisions taken are right for every observed label.
        labelled_rows: [], rows with an observed label.
    """

    full_state_update = False
    counts: Tensor
    right_rows: Tensor
    labelled_rows: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.add_state("counts", torch.zeros(2, 4, num_labels, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("right_rows", "labelled_rows"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: CellSlice, decisions: Tensor) -> None:
        """Add a slice of rows and the decisions taken on it, [b, K] bool; those of unseen cells do not count."""
        self.add(decision_sums(part, decisions))

    def add(self, sums: DecisionSums) -> None:
        """Add what `decision_sums` says of a slice of rows."""
        self.counts += sums.counts
        self.right_rows += sums.right_rows
        self.labelled_rows += sums.labelled_rows

    def compute(self) -> dict[str, Tensor]:
        """Return `subset_accuracy` and `hamming_loss`, each [] float64."""
        return {"subset_accuracy": self.subset_accuracy(), "hamming_loss": self.hamming_loss()}

    def subset_accuracy(self) -> Tensor:
        """Return [] float64, the share of rows with an observed label that are right in all those; NaN without one."""
        return self.right_rows / self.labelled_rows

    def hamming_loss(self) -> Tensor:
        """Return [] float64, the share of observed cells decided wrongly; NaN without one."""
        return hamming_loss(self.counts[0])


def decision_sums(part: CellSlice, decisions: Tensor) -> DecisionSums:
    """Count the decisions [b, K] bool taken on a slice of rows, and those at 0.5."""
    positives, weights, labelled = part.label_sums(part.labels), part.weight_sums(), part.labelled()
    counts = [
        confusion(part.label_sums(part.observed(flags)), part.label_sums(flags & part.labels), positives, weights)
        for flags in (decisions, at_half(part.scores))
    ]
    right = part.row_sums(right_rows(part, decisions) & labelled)
    return DecisionSums(torch.stack(counts), right, part.row_sums(labelled))


def at_half(scores: Tensor) -> Tensor:
    """Decisions at 0.5: [b, K] bool of [b, K] float32; 0.5 itself is positive."""
    return at_least(scores, 0.5)


def right_rows(part: CellSlice, decisions: Tensor) -> Tensor:
    """Rows without a wrong decision on a seen cell: [b] bool."""
    wrong = part.observed(decisions ^ part.labels)
    return wrong.view(torch.uint8).sum(1, dtype=torch.int32) == 0


def confusion(flagged: Tensor, hits: Tensor, positives: Tensor, weights: Tensor) -> Tensor:
    """Return TP, FP, FN, TN, [4, …], from the sums […] of what is flagged, rightly flagged, positive, and of all."""
    return torch.stack([hits, flagged - hits, positives - hits, weights - positives - flagged + hits])


def precision(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP) of `counts` [4, …] (TP, FP, FN, TN); NaN where nothing is flagged."""
    return counts[0] / (counts[0] + counts[1])


def recall(counts: Tensor) -> Tensor:
    """Return TP / (TP + FN) of `counts` [4, …] (TP, FP, FN, TN); NaN without positives."""
    return counts[0] / (counts[0] + counts[2])


def specificity(counts: Tensor) -> Tensor:
    """Return TN / (TN + FP) of `counts` [4, …] (TP, FP, FN, TN); NaN without negatives."""
    return counts[3] / (counts[3] + counts[1])


def f1(counts: Tensor) -> Tensor:
    """Return 2 TP / (2 TP + FP + FN) of `counts` [4, …] (TP, FP, FN, TN); NaN only where that sum is 0."""
    return f_measure(counts[0], counts[:2].sum(0), counts[0] + counts[2])


def balanced_accuracy(counts: Tensor) -> Tensor:
    """Return the mean of recall and specificity of `counts` [4, …]; NaN without positives or without negatives."""
    return (recall(counts) + specificity(counts)) / 2


def mcc(counts: Tensor) -> Tensor:
    """Return Matthews' correlation of `counts` [4, …] (TP, FP, FN, TN); see `correlation`."""
    return correlation(Tally(counts[0], counts[:2].sum(0), counts[0] + counts[2], counts.sum(0)))


def hamming_loss(counts: Tensor) -> Tensor:
    """Return the share of wrong cells of `counts` [4, …, K] over all labels: […]; NaN without a cell."""
    return counts[1:3].sum((0, -1)) / counts.sum((0, -1))


def mean_by_support(values: Tensor, support: Tensor) -> Tensor:
    """Return the mean of a metric [K] over the labels where it is defined, weighted by their positives [K]."""
    support = support.where(values.isfinite(), 0.0)
    return support @ values.nan_to_num() / support.sum()


DECISION_METRICS = {
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
}


def decision_metrics(counts: Tensor) -> dict[str, Tensor]:
    """Name the metrics of `counts` [2, 4, …], as decided and at 0.5: each […] float64."""
    as_taken = {name: function(counts[0]) for name, function in DECISION_METRICS.items()}
    return as_taken | {f"{name}_at_half": function(counts[1]) for name, function in DECISION_METRICS.items()}
