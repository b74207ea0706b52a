"""Every metric of a set of rows in one pass, and the document that reports them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice, cell_slices
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import at_least
from mlclf.decisions.evaluation.intervals import Replicates
from mlclf.decisions.histograms.derived import pooled_labels
from mlclf.decisions.histograms.filled_bins import over_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc_measure
from mlclf.decisions.metrics.average_precision import Ranking, average_precision_measure, ranking
from mlclf.decisions.metrics.binned_metric import has_both_classes
from mlclf.decisions.metrics.calibration_error import errors_measure, recalibration, recalibration_measure
from mlclf.decisions.metrics.confusion import (
    DecisionCounts,
    DecisionSums,
    decision_metrics,
    decision_sums,
    mean_by_support,
)
from mlclf.decisions.metrics.label_ranking import RANKINGS, RowRankings, row_rankings
from mlclf.decisions.metrics.log_loss import LossSums, loss_sums
from mlclf.machine.workers import in_order

FORMAT_VERSION = 1
INTERVAL_BYTES = 128 << 20


class _Judged(NamedTuple):
    """A slice of rows, what was decided, how it ranks its labels, and what it adds to the sums."""

    part: CellSlice
    decisions: Tensor  # [b, K] bool
    rankings: Tensor  # [b, 9] float64
    losses: Tensor
    counts: DecisionSums
    ranking_sums: Tensor


class Evaluation:
    """The metrics of all labels over a stream of batches, in memory that does not grow with the rows.

    Decisions are counted row by row, so the thresholds are given before the first batch. Rows of weight 0 are padding
    and absent everywhere, as are cells that are hidden or of label weight 0. What is counted per label has the weight
    of the cell; what is counted per row, as precision at k or subset accuracy, that of the row.
    """

    def __init__(
        self,
        thresholds: Tensor,
        num_bins: int | None = None,
        *,
        decide: Callable[[Tensor], Tensor] | None = None,
        decide_rows: Callable[[Tensor, Tensor], Tensor] | None = None,
        replicates: int = 0,
        interval_bytes: int = INTERVAL_BYTES,
        ends_dtype: torch.dtype = torch.float32,
        recalibrated_within: float = math.inf,
    ) -> None:
        """Start empty, on the device of the thresholds.

        Args:
            thresholds: [K] float32; NaN is never positive.
            num_bins: of the histogram; None = as many as fit its budget.
            decide: scores [n, K] float32 to decisions [n, K] bool, row by row; None = ``scores >= thresholds``.
            decide_rows: the same of scores and identities [n], in place of `decide`, where thresholds differ by row.
            replicates: of the bootstrap that makes intervals, 200 say; 0 = no intervals.
            interval_bytes: budget of the bootstrap's sums, and again of its histograms.
            ends_dtype: float64 where AUROC and average precision tell logits apart that float32 does not.
            recalibrated_within: the largest logit that recalibration takes; one beyond counts as it.
        """
        num_labels, device = len(thresholds), thresholds.device
        self.thresholds = thresholds.to(torch.float32)
        self.decide_rows = decide_rows
        self.decide = decide if decide is not None else self._at_least
        self.histogram = LabelHistogram(num_labels, num_bins, ends_dtype=ends_dtype).to(device)
        self.recalibrated_within = recalibrated_within
        self.losses = LossSums(num_labels).to(device)
        self.decisions = DecisionCounts(num_labels).to(device)
        self.rankings = RowRankings().to(device)
        self.rows = RowCount().to(device)
        self.replicates = Replicates(num_labels, replicates, interval_bytes, device) if replicates else None

        self._ranking: Ranking | None = None
        self._micro_ranking: Ranking | None = None

    def rank_by(self, labels: Ranking | None, micro: Ranking | None = None) -> None:
        """Report these AUROC and average precisions, not those of the histogram, unless they are None.

        Args:
            labels: of each label, [K].
            micro: of all cells pooled, [1].
        """
        self._ranking, self._micro_ranking = labels, micro

    def _at_least(self, scores: Tensor) -> Tensor:
        return at_least(scores, self.thresholds)

    def update(self, cells: Cells, scores: Tensor) -> None:
        """Count a batch.

        Args:
            cells: n rows of K labels; rows of weight 0 are padding.
            scores: [n, K] float32, the probabilities of the logits.

        Raises:
            DataError: A logit, score or weight is out of range. Nothing is counted then.
        """
        width = 1 if self.replicates is None else self.replicates.num_replicates // 8
        parts = cell_slices(cells, scores, width)
        first = next(parts, None)  # all scores and weights are checked before it comes
        self.histogram.update(cells.ranked_by(), cells.labels, cells.mask, cells.cell_weights())
        if first is None:
            return
        num_parts = -(-len(cells) // len(first.labels)) if scores.device.type == "cpu" else 1
        for found in in_order(self._judged, chain([first], parts), num_parts):
            self._add(found)

    def _judged(self, part: CellSlice) -> _Judged:
        decide, rankings = self.decide_rows, row_rankings(part)
        decisions = self.decide(part.scores) if decide is None else decide(part.scores, part.identities)
        return _Judged(
            part,
            decisions,
            rankings,
            loss_sums(part),
            decision_sums(part, decisions),
            part.row_sums(rankings),
        )

    def _add(self, found: _Judged) -> None:
        self.losses.add(found.losses)
        self.decisions.add(found.counts)
        self.rankings.add(found.ranking_sums, found.counts.labelled_rows)
        self.rows.update(len(found.part.labels))
        if self.replicates is not None:
            self.replicates.update(found.part, found.decisions, found.rankings)

    def metrics(self) -> list[Metric]:
        """Return the parts, for whoever moves or gathers their states."""
        parts = [self.histogram, self.losses, self.decisions, self.rankings, self.rows]
        return parts + (self.replicates.metrics() if self.replicates is not None else [])

    def sync(self) -> None:
        """Replace the states by those of all ranks together; all ranks must call it. Without ranks it does nothing."""
        for metric in self.metrics():
            metric.sync()

    def merge(self, other: Evaluation) -> None:
        """Add what another evaluation, of the same thresholds, bins and replicates, has counted."""
        self.histogram.merge(other.histogram)
        for mine, theirs in zip(self.metrics()[1:], other.metrics()[1:], strict=True):
            mine.merge_state(theirs)

    def report(self, label_names: list[str], train_prevalences: Tensor) -> dict[str, Any]:
        """Return the document of `metrics.json`: plain numbers, None where a metric is undefined.

        `macro` is the mean over the labels where a metric is defined, `weighted` the same weighted by the positives of
        the label, `micro` that of all cells pooled; `undefined` counts the labels that are left out. The losses and
        calibration errors are means over labels; `slope`, `intercept` and `observed_expected` are those of all cells.

        Args:
            label_names: K names.
            train_prevalences: [K] float64, the constant predictions that `gain` compares with.
        """
        losses, train_prevalences = self.losses, train_prevalences.to(self.losses.loss)
        ranked, calibration = self._of_bins()
        per_label, bounds = self._per_label(ranked)
        pooled = pooled_labels(self.histogram)
        micro, micro_bounds = self._micro(pooled)
        constant = losses.constant_log_loss(train_prevalences)
        one_by_one = {
            **per_label,
            "log_loss": losses.log_loss(),
            "gain": 1 - losses.log_loss() / constant,
            "brier": losses.brier(),
            "threshold": self.thresholds,
        }
        top = {
            "log_loss": losses.log_loss().nanmean(),
            "gain": 1 - losses.log_loss().nanmean() / constant.nanmean(),
            "brier": losses.brier().nanmean(),
            "hamming_loss": self.decisions.hamming_loss(),
            "subset_accuracy": self.decisions.subset_accuracy(),
        }
        rankings = dict(zip(RANKINGS, self.rankings.means(), strict=True))
        macro_all = {name: per_label[name].nan_to_num().mean() for name in ("f1", "f1_at_half")}
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "rows": int(self.rows.rows),
            **_named_numbers(top),
            **self._scored(label_names),
            "macro": _named_numbers({name: values.nanmean() for name, values in per_label.items()}),
            "micro": _named_numbers(micro),
            "micro_error_bound": _named_numbers(micro_bounds),
            "weighted": _named_numbers(
                {name: mean_by_support(values, losses.positives) for name, values in per_label.items()}
            ),
            "macro_all": _named_numbers(macro_all),
            "undefined": {name: int(values.isnan().sum()) for name, values in per_label.items()},
            "ranking": _named_numbers(rankings),
            "calibration": self._pooled_calibration(pooled, calibration),
            "labels": self._labels_document(label_names, one_by_one, bounds, calibration),
        }
        if self.replicates is not None:
            intervals = self.replicates.intervals(per_label, micro, train_prevalences)
            for name, interval in zip(label_names, intervals.pop("labels"), strict=True):
                document["labels"][name]["interval"] = interval
            document["intervals"] = intervals
        return document

    def _scored(self, label_names: list[str]) -> dict[str, Any]:
        defined = has_both_classes(self.histogram).tolist()
        missing = [name for name, is_defined in zip(label_names, defined, strict=True) if not is_defined]
        return {"scored_labels": sum(defined), "undefined_labels": missing}

    def _of_bins(self) -> tuple[Ranking, dict[str, Tensor]]:
        """How each label is ranked, unless `rank_by` has said so, and calibrated: what its histogram says."""
        histogram = self.histogram
        recalibrated = recalibration_measure(self.recalibrated_within)
        measures = [errors_measure(self.losses.effective_rows()), recalibrated]
        if self._ranking is None:
            measures += [auroc_measure(histogram), average_precision_measure(histogram)]
        errors, (intercept, slope), *ranked = over_labels(histogram, *measures)
        calibration = {
            **dict(zip(("ece", "ece_debiased", "rms_debiased", "max_error"), errors, strict=True)),
            "slope": slope,
            "intercept": intercept,
            "observed_expected": self.losses.observed_expected(),
        }
        if self._ranking is not None:
            return self._ranking, calibration
        (area, area_bound), (precision, precision_bound) = ranked
        return ((area, area_bound), (precision, precision_bound)), calibration

    def _per_label(self, ranked: Ranking) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        (areas, area_bounds), (precisions, precision_bounds) = ranked
        per_label = {"auroc": areas, "average_precision": precisions, **decision_metrics(self.decisions.counts)}
        return per_label, {"auroc": area_bounds, "average_precision": precision_bounds}

    def _micro(self, pooled: LabelHistogram) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        (area, area_bound), (precision, precision_bound) = self._micro_ranking or ranking(pooled)
        decisions = decision_metrics(self.decisions.counts.sum(-1))
        bounds = {"auroc": area_bound, "average_precision": precision_bound}
        return {"auroc": area, "average_precision": precision, **decisions}, bounds

    def _pooled_calibration(self, pooled: LabelHistogram, per_label: dict[str, Tensor]) -> dict[str, Any]:
        logistic = recalibration(pooled, self.recalibrated_within)
        of_cells = {
            "slope": logistic.slope,
            "intercept": logistic.intercept,
            "observed_expected": self.losses.positives.sum() / self.losses.expected.sum(),
        }
        return _named_numbers({name: of_cells.get(name, values.nanmean()) for name, values in per_label.items()})

    def _labels_document(
        self,
        label_names: list[str],
        numbers: dict[str, Tensor],
        bounds: dict[str, Tensor],
        calibration: dict[str, Tensor],
    ) -> dict[str, dict[str, Any]]:
        columns: dict[str, list[Any]] = {name: _numbers(values) for name, values in numbers.items()}
        columns["support"] = self.histogram.positive_rows.tolist()
        columns["rows"] = self.histogram.rows.tolist()
        for name, nested in (("error_bound", bounds), ("calibration", calibration)):
            columns[name] = _rows_of({key: _numbers(values) for key, values in nested.items()})
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


def _named_numbers(values: dict[str, Tensor]) -> dict[str, float | None]:
    return {name: _number(float(value)) for name, value in values.items()}


def _number(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(number) for number in values.tolist()]


def _rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
