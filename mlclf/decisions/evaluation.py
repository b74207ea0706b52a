"""Every metric of a set of rows in one pass, and the document that reports them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions import metrics
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.metrics import TOP_COUNTS, DecisionCounts, LossSums, PrecisionAtTop
from mlclf.decisions.ranking import auroc, average_precision, has_both_classes

FORMAT_VERSION = 1


class Evaluation:
    """The metrics of all labels over a stream of batches, in memory that does not grow with the rows.

    Decisions are counted row by row, so the thresholds are given before the first batch. Rows of weight 0 are padding
    and absent everywhere.
    """

    def __init__(self, thresholds: Tensor, scores_of: Callable[[Tensor], Tensor], num_bins: int | None = None) -> None:
        """Start empty, on the device of the thresholds.

        Args:
            thresholds: [K] float32; NaN is never positive.
            scores_of: float32 logits to float32 probabilities, element by element; for the calibration error.
            num_bins: of the histogram; None = as many as fit its budget.
        """
        num_labels, device = len(thresholds), thresholds.device
        self.scores_of = scores_of
        self.histogram = LabelHistogram(num_labels, num_bins).to(device)
        self.losses = LossSums(num_labels).to(device)
        self.decisions = DecisionCounts(thresholds).to(device)
        self.top = PrecisionAtTop().to(device)
        self.rows = RowCount().to(device)

    def update(
        self,
        logits: Tensor,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Count a batch.

        Args:
            logits: [B, K] float32, finite wherever a label is observed.
            scores: [B, K] float32, the probabilities of these logits.
            labels: [B, K] bool or uint8 of 0 and 1.
            mask: [B, K] bool, True where the label is observed; None = everywhere.
            weights: [B] floating, not negative, 0 for padding; None = 1 for every row.

        Raises:
            DataError: A logit, score or weight is out of range.
        """
        self.histogram.update(logits, labels, mask, weights)
        self.losses.update(logits, scores, labels, mask, weights)
        self.decisions.update(scores, labels, mask, weights)
        self.top.update(scores, labels, mask, weights)
        self.rows.update(len(labels) if weights is None else int((weights > 0).sum()))

    def metrics(self) -> list[Metric]:
        """Return the parts, for whoever moves or gathers their states."""
        return [self.histogram, self.losses, self.decisions, self.top, self.rows]

    def sync(self) -> None:
        """Replace the states by those of all ranks together; all ranks must call it. Without ranks it does nothing."""
        for metric in self.metrics():
            metric.sync()

    def merge(self, other: Evaluation) -> None:
        """Add what another evaluation, of the same thresholds and bins, has counted."""
        self.histogram.merge(other.histogram)
        for mine, theirs in zip(self.metrics()[1:], other.metrics()[1:], strict=True):
            mine.merge_state(theirs)

    def report(self, label_names: list[str], train_prevalences: Tensor) -> dict[str, Any]:
        """Return the document of `metrics.json`: plain numbers, None where a metric is undefined.

        Args:
            label_names: K names.
            train_prevalences: [K] float64, the constant predictions that `gain` compares with.
        """
        per_label, bounds = self._per_label()
        defined = has_both_classes(self.histogram).tolist()
        losses = self.losses
        return {
            "format_version": FORMAT_VERSION,
            "rows": int(self.rows.rows),
            "log_loss": _number(losses.log_loss().nanmean()),
            "gain": _number(_gain(losses, train_prevalences)),
            "brier": _number(losses.brier().nanmean()),
            "hamming_loss": _number(self.decisions.hamming_loss()),
            "subset_accuracy": _number(self.decisions.subset_accuracy()),
            "scored_labels": sum(defined),
            "undefined_labels": [name for name, is_defined in zip(label_names, defined, strict=True) if not is_defined],
            "macro": {name: _number(values.nanmean()) for name, values in per_label.items()},
            "micro": {name: _number(value) for name, value in self._micro().items()},
            "macro_all": {name: _number(per_label[name].nan_to_num().mean()) for name in ("f1", "f1_at_half")},
            "ranking": {
                f"p_at_{count}": _number(value) for count, value in zip(TOP_COUNTS, self.top.precision(), strict=True)
            },
            "calibration": {
                "ece": _number(metrics.calibration_error(self.histogram, self.scores_of).nanmean()),
                "observed_expected": _number(losses.positives.sum() / losses.expected.sum()),
            },
            "labels": self._labels_document(label_names, per_label, bounds),
        }

    def _per_label(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        areas, area_bounds = auroc(self.histogram)
        precisions, precision_bounds = average_precision(self.histogram)
        per_label = {"auroc": areas, "average_precision": precisions, **_decision_metrics(self.decisions.counts)}
        return per_label, {"auroc": area_bounds, "average_precision": precision_bounds}

    def _micro(self) -> dict[str, Tensor]:
        pooled = self.histogram.pooled()
        decisions = _decision_metrics(self.decisions.counts.sum(-1))
        return {"auroc": auroc(pooled)[0], "average_precision": average_precision(pooled)[0], **decisions}

    def _labels_document(
        self, label_names: list[str], per_label: dict[str, Tensor], bounds: dict[str, Tensor]
    ) -> dict[str, dict[str, Any]]:
        numbers = per_label | {
            "log_loss": self.losses.log_loss(),
            "brier": self.losses.brier(),
            "threshold": self.decisions.thresholds,
        }
        columns: dict[str, list[Any]] = {name: _numbers(values) for name, values in numbers.items()}
        columns["support"] = self.histogram.positive_rows.tolist()
        columns["rows"] = self.histogram.rows.tolist()
        bound_rows = _rows_of({name: _numbers(values) for name, values in bounds.items()})
        columns["error_bound"] = bound_rows
        return dict(zip(label_names, _rows_of(columns), strict=True))


class RowCount(Metric):
    """Rows seen, unweighted; padding is not counted. State: `rows` [] int64, summed over ranks."""

    full_state_update = False
    rows: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, num_rows: int) -> None:
        """Add `num_rows`."""
        self.rows += num_rows

    def compute(self) -> Tensor:
        """Return [] int64."""
        return self.rows


def _decision_metrics(counts: Tensor) -> dict[str, Tensor]:
    """Name the metrics of `counts` [2, 4, …], at the thresholds and at 0.5."""
    functions = {"f1": metrics.f1, "precision": metrics.precision, "recall": metrics.recall}
    at_thresholds = {name: function(counts[0]) for name, function in functions.items()}
    return at_thresholds | {f"{name}_at_half": function(counts[1]) for name, function in functions.items()}


def _gain(losses: LossSums, train_prevalences: Tensor) -> Tensor:
    constant = losses.constant_log_loss(train_prevalences.to(losses.loss))
    return 1 - losses.log_loss().nanmean() / constant.nanmean()


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _numbers(values: Tensor) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in values.tolist()]


def _rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
