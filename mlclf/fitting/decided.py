"""Decisions of a fit: calibrator and thresholds from held-out rows, their metrics, and the files of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mlclf.config import Settings
from mlclf.data.batch import Batch
from mlclf.decisions.calibration import CALIBRATION_BINS, Calibration, fit_calibration
from mlclf.decisions.evaluation import Evaluation
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.scores import scores_of
from mlclf.decisions.thresholds import Thresholds, fallback_thresholds, parse_objective, tune_thresholds
from mlclf.files import write_json
from mlclf.fitting.prepared import PreparedData
from mlclf.fitting.trained import Progress, Trained
from mlclf.runs import RunFolder


class Decided:
    """Turns trained models into a finished run folder."""

    def __init__(self, data: PreparedData, settings: Settings, trained: Trained, folder: RunFolder) -> None:
        self.data, self.settings, self.trained, self.folder = data, settings, trained, folder
        self.decides = bool((data.hold_out.decide >= 0).any())

    def steps(self) -> Iterator[Progress]:
        """Calibrate, tune thresholds, evaluate the held-out rows, and write the run, its manifest last."""
        data, names = self.data, self.data.statistics.label_names
        if self.decides:
            yield Progress("calibration", note="fitting calibrator and thresholds on held-out rows")
        calibration = self._calibration()
        histogram = LabelHistogram(data.num_labels)
        for logits, batch, rows in self._held_out():
            histogram.update(calibration.apply(logits), batch.labels[rows], _mask(batch, rows), batch.weights[rows])
        thresholds = self._thresholds(histogram)
        final = data.totals.of(data.hold_out.final())
        prevalences = ((final.positives + 0.5) / (final.totals + 1))[0]
        if self.decides:
            self._write_metrics(calibration, thresholds, prevalences)
        head = self.trained.final
        head.rescale(calibration.slope.float(), calibration.intercept.float())
        self.folder.write_schema(data.schema, names, prevalences)
        self.folder.write_features(data.statistics.features)
        self.folder.write_model(head, calibration.bounds)
        self.folder.write_histogram(histogram)
        self.folder.write_thresholds(thresholds, names)
        self.folder.write_manifest(self._training_record())
        for line in data.statistics.features.counted():
            yield Progress("done", note=line)

    def _calibration(self) -> Calibration:
        log_weights = self.trained.pos_weight.log()
        if not self.decides:
            shift = Calibration.none(self.data.num_labels)
            return Calibration(shift.slope, -log_weights, shift.bounds)
        histogram = LabelHistogram(self.data.num_labels, CALIBRATION_BINS)
        for logits, batch, rows in self._held_out():
            histogram.update(logits, batch.labels[rows], _mask(batch, rows), batch.weights[rows])
        return fit_calibration(histogram, log_weights)

    def _held_out(self) -> Iterator[tuple[Tensor, Batch, Tensor]]:
        """(logits [m, K] of held-out rows by the model that has not seen them, batch, rows [m] of the batch)."""
        if not self.decides:
            return
        heads = [head.eval() for head in self.trained.held_out]
        for batch in self.data.batches():
            model = self.data.hold_out.decide[batch.parts.long()]
            if not (model >= 0).any():
                continue
            with torch.inference_mode():
                logits = torch.stack([head.scoring_logits(batch) for head in heads])
            rows = (model >= 0).nonzero()[:, 0]
            yield logits[model[rows], rows].clone(), batch, rows

    def _thresholds(self, histogram: LabelHistogram) -> Thresholds:
        objective = parse_objective(self.settings.thresholds.objective)
        if not self.decides:
            support = torch.from_numpy(self.data.statistics.counts.positive_rows.sum(0))
            return fallback_thresholds(self.data.num_labels, support, str(objective))
        prior = 0.0 if self.settings.thresholds.method == "plain" else 10.0
        return tune_thresholds(histogram, objective, scores_of, prior)

    def _write_metrics(self, calibration: Calibration, thresholds: Thresholds, prevalences: Tensor) -> None:
        evaluation = Evaluation(thresholds.thresholds, scores_of)
        for logits, batch, rows in self._held_out():
            logits = calibration.apply(logits)
            evaluation.update(logits, scores_of(logits), batch.labels[rows], _mask(batch, rows), batch.weights[rows])
        report = evaluation.report(list(self.data.statistics.label_names), prevalences)
        write_json(self.folder.file("metrics.json"), report | {"data": "validation"})

    def _training_record(self) -> dict[str, Any]:
        plan = self.data.plan
        files = [[shard.source.name, shard.source.size_bytes] for shard in plan.shards]
        return {"rows": plan.rows, "plan": plan.digest, "files": files, "algorithm": self.trained.algorithm}


def _mask(batch: Batch, rows: Tensor) -> Tensor | None:
    return None if batch.label_mask is None else batch.label_mask[rows]
