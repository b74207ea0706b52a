"""Sampling intervals of every metric, from the replicates of a bootstrap."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice
from mlclf.decisions.evaluation.bootstrap import LEVEL, DistinctCount, ReplicateSums, drawn_weights, percentile_interval
from mlclf.decisions.evaluation.bootstrap_histograms import ReplicateHistograms
from mlclf.decisions.metrics.confusion import decision_metrics, hamming_loss, right_rows
from mlclf.decisions.metrics.label_ranking import RANKINGS
from mlclf.decisions.metrics.log_loss import constant_log_loss

_IN_ALL: tuple[str, ...] = ("f1", "f1_at_half")

LEAST_REPLICATES, MOST_REPLICATES = 40, 10_000
"""Fewer say nothing of the tails of a 95% interval; more change nothing that anybody reads."""


class Replicates:
    """What a Poisson bootstrap over identities keeps: sums, coarse histograms, and how many identities there are.

    Memory is at most twice the budget, whatever the rows and labels. Where the replicates of all labels do not fit,
    those of all labels pooled are kept, and averages over labels have no interval.
    """

    def __init__(self, num_labels: int, num_replicates: int, budget_bytes: int, device: torch.device) -> None:
        """Start empty.

        Raises:
            ValueError: There are fewer than 40 replicates, too few for the tails of a 95% interval.
        """
        if num_replicates < LEAST_REPLICATES:
            raise ValueError(f"replicates must be 0 or at least {LEAST_REPLICATES}, got {num_replicates}; 200 is usual")
        self.num_labels, self.num_replicates = num_labels, num_replicates
        num_row_values = 1 + len(RANKINGS)
        self.sums = ReplicateSums(num_labels, num_row_values, num_replicates, budget_bytes).to(device)
        self.histograms = ReplicateHistograms(num_labels, num_replicates, budget_bytes).to(device)
        self.clusters = DistinctCount().to(device)

    def metrics(self) -> list[Metric]:
        """Return the parts, for whoever moves or gathers their states."""
        return [self.sums, self.histograms, self.clusters]

    def update(self, part: CellSlice, decisions: Tensor, rankings: Tensor) -> None:
        """Add a slice of rows, the decisions taken on it, [b, K] bool, and its `row_rankings`, [b, 9] float64."""
        drawn = drawn_weights(part, self.num_replicates)
        right = (right_rows(part, decisions) & part.labelled()).double()
        self.sums.update(part, decisions, torch.cat([right[:, None], rankings], 1), drawn)
        self.histograms.update(part, drawn)
        self.clusters.update(part.identities)

    def intervals(
        self, per_label: dict[str, Tensor], micro: dict[str, Tensor], train_prevalences: Tensor
    ) -> dict[str, Any]:
        """Return the percentile intervals at 95%, each [low, high], None where a metric is undefined.

        Those of AUROC and average precision come from coarse bins and are moved by what these bins change in the value
        itself, so that they are intervals of the value reported.

        Args:
            per_label: metrics by name, [K] float64.
            micro: the same of the pooled cells, [] or [1] float64.
            train_prevalences: [K] float64, the constant predictions that `gain` compares with.

        Returns:
            `level`, `replicates`, `clusters` (distinct identities), `macro`, `micro`, `macro_all`, `ranking`, single
            metrics by name, `without` (what has none for want of memory), and `labels`, one dictionary a label.
        """
        counts = self.sums.counts()
        pooled = decision_metrics(counts.sum(-1)) | self._ranked(self.histograms.pooled(), micro)
        labelled = decision_metrics(counts) if self.sums.per_label else {}
        if self.histograms.per_label:
            labelled = self._ranked(self.histograms, per_label) | labelled
        macro = {name: values.nanmean(1) for name, values in labelled.items()}
        macro_all = {name: labelled[name].nan_to_num().mean(1) for name in _IN_ALL if name in labelled}
        rows = self.sums.rows / self.sums.labelled_rows[:, None]
        whole = {"hamming_loss": hamming_loss(counts[0]), "subset_accuracy": rows[:, 0]}
        if self.sums.per_label:
            whole |= self._losses(train_prevalences)
        return {
            "level": LEVEL,
            "replicates": self.num_replicates,
            "clusters": self.clusters.count(),
            **_intervals(whole),
            "macro": _intervals(macro),
            "micro": _intervals(pooled),
            "macro_all": _intervals(macro_all),
            "ranking": _intervals(dict(zip(RANKINGS, rows[:, 1:].t(), strict=True))),
            "without": self._without(),
            "labels": _label_intervals(labelled, self.num_labels),
        }

    def _ranked(self, histograms: ReplicateHistograms, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """AUROC and average precision of the replicates, [R + 1, K], moved to where the values [K] are."""
        binned = {"auroc": histograms.aurocs(), "average_precision": histograms.average_precisions()}
        moved = {name: found + (values[name] - found[0]) for name, found in binned.items()}
        return {name: found.clamp(0, 1) for name, found in moved.items()}

    def _losses(self, train_prevalences: Tensor) -> dict[str, Tensor]:
        weights, positives = self.sums.sums("weights"), self.sums.sums("positives")
        loss = (self.sums.sums("loss") / weights).nanmean(1)
        constant = constant_log_loss(positives, weights, train_prevalences).nanmean(1)
        brier = (self.sums.sums("squared_error") / weights).nanmean(1)
        return {"log_loss": loss, "gain": 1 - loss / constant, "brier": brier}

    def _without(self) -> list[str]:
        left = [] if self.sums.per_label else ["macro of decisions", "log_loss", "gain", "brier"]
        return left + ([] if self.histograms.per_label else ["macro of auroc and average_precision"])


def _intervals(replicates: dict[str, Tensor]) -> dict[str, list[float] | None]:
    """Interval of each metric [R + 1], [R + 1, 1]; None where the data, replicate 0, leave it undefined."""
    return {name: _interval(values.reshape(-1)) for name, values in replicates.items()}


def _interval(values: Tensor) -> list[float] | None:
    low, high = percentile_interval(values[1:]).tolist()
    defined = math.isfinite(float(values[0])) and math.isfinite(low) and math.isfinite(high)
    return [low, high] if defined else None


def _label_intervals(replicates: dict[str, Tensor], num_labels: int) -> list[dict[str, list[float] | None]]:
    """Intervals of each label, from metrics [R + 1, K]."""
    found: list[dict[str, list[float] | None]] = [{} for _ in range(num_labels)]
    for name, values in replicates.items():
        bounds = percentile_interval(values[1:])
        defined = values[0].isfinite() & bounds.isfinite().all(0)
        for label, (interval, is_defined) in enumerate(zip(bounds.t().tolist(), defined.tolist(), strict=True)):
            found[label][name] = interval if is_defined else None
    return found
