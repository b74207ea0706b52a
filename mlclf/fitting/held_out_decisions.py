"""From held-out rows to a run: calibration, thresholds, metrics, and the files of the run folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlclf.config.settings import RunFile
from mlclf.data.parquet.plan import Plan
from mlclf.decisions.calibration.calibration import CALIBRATION_BINS, Calibration, fit_calibration
from mlclf.decisions.calibration.choosing import fit_calibrators
from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.histograms.bins import bins_for
from mlclf.decisions.histograms.derived import summed
from mlclf.decisions.histograms.folds import FoldHistograms, fold_of
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.thresholds.thresholds import Thresholds, fallback_thresholds
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.files import write_json
from mlclf.fitting.preparation.fit_data import FitData
from mlclf.fitting.record import run_record
from mlclf.fitting.trained_models import TrainedModels
from mlclf.progress import Progress
from mlclf.run_folder import RunFolder

HISTOGRAM_BYTES = 64 << 20
"""Of a histogram of held-out logits, beside the rows' own budget: 65,536 bins for up to 64 labels."""

LAST_SHARE = 0.1
"""Share of the rows, the last ones, on which hidden layers are checked: the data may have drifted by then."""


@dataclass(frozen=True)
class HeldOutDecisions:
    """Calibrates trained models and tunes their thresholds on the held-out rows, and writes the run."""

    data: FitData
    trained: TrainedModels
    run_file: RunFile
    folder: RunFolder

    @property
    def decides(self) -> bool:
        """Whether any rows are held out for calibration and thresholds."""
        return bool((self.data.hold_out.decide >= 0).any())

    def steps(self) -> Iterator[Progress]:
        """Calibrate, tune thresholds, evaluate the held-out rows, and write the run, its manifest last."""
        data, names = self.data, self.data.statistics.label_names
        if self.decides:
            yield Progress("calibration", note="fitting calibrator and thresholds on held-out rows")
        calibration = self._calibration()
        chosen = self.data.asked.settings.thresholds
        objective, bins = parse_objective(chosen.objective), bins_for(data.num_labels, HISTOGRAM_BYTES)
        tuner = Tuner(objective, data.num_labels, method=chosen.method, num_bins=bins, keeps_folds=True)
        for cells in self._held_out():
            tuner.update(replace(cells, logits=calibration.apply(cells.logits)))
        thresholds = tuner.thresholds() if self.decides else self._fallback()
        if self.decides:
            self._write_metrics(calibration, thresholds, tuner.thresholds_without_folds())
            yield from self._last_rows(calibration)
        head = self.trained.final
        head.rescale(calibration.slope.float(), calibration.intercept.float())
        self.folder.write_schema(data.asked.schema, names, data.prevalences)
        self.folder.write_features(self.trained.inputs.features)
        self.folder.write_model(head, calibration.bounds)
        self.folder.write_histogram(tuner.histogram)
        assert tuner.folds is not None
        self.folder.write_folds(tuner.folds)
        self.folder.write_thresholds(thresholds, names)
        self.folder.write_record(run_record(self.run_file, data, self.trained))
        self.folder.write_manifest(self._training_record())
        for line in self.trained.inputs.features.counted():
            yield Progress.warning("done", line)

    def _calibration(self) -> Calibration:
        log_weights = self.data.pos_weight.log()
        if not self.decides:
            shift = Calibration.none(self.data.num_labels)
            return Calibration(shift.slope, -log_weights, shift.bounds)
        folds = FoldHistograms(self.data.num_labels, num_bins=CALIBRATION_BINS)
        for cells in self._held_out():
            folds.update(cells)
        tunes = self.data.asked.settings.optimizer.l2 == "auto"
        calibrators = fit_calibrators(folds.histograms, richest="platt") if tunes else None
        return fit_calibration(summed(folds.histograms), log_weights, calibrators)

    def _held_out(self, first_row: int = 0) -> Iterator[Cells]:
        """Held-out rows, from a row number on, each with the logits of the model that was not trained on it.

        Rows of a group have one identity.
        """
        if not self.decides:
            return
        heads = [head.eval() for head in self.trained.held_out]
        decide = self.data.hold_out.decide
        for batch in self.trained.inputs.rows.batches((decide >= 0).nonzero()[:, 0].tolist()):
            model = decide[batch.parts.long()]
            if not (model >= 0).any():  # rows that are held in memory
                continue
            with torch.inference_mode():
                logits = torch.stack([head.scoring_logits(batch) for head in heads])
            rows = ((model >= 0) & (batch.rows >= first_row)).nonzero()[:, 0]
            yield Cells(
                logits[model[rows], rows].clone(),
                batch.labels[rows],
                row_identities(batch.rows[rows]) if batch.groups is None else batch.groups[rows],
                None if batch.label_mask is None else batch.label_mask[rows],
                batch.weights[rows].double(),
            )

    def _last_rows(self, calibration: Calibration) -> Iterator[Progress]:
        """Warn where hidden layers predict the last tenth of the rows worse than a constant."""
        asked = self.data.asked
        if asked.settings.model.hidden and asked.valid_plan is None:
            last = self._held_out(first_row=math.ceil((1 - LAST_SHARE) * asked.plan.rows))
            line = caution(log_loss_sums(last, calibration.apply, torch.logit(self.data.prevalences)))
            if line is not None:
                yield Progress.warning("calibration", line)

    def _fallback(self) -> Thresholds:
        support = torch.from_numpy(self.data.statistics.counts.positive_rows.sum(0))
        return fallback_thresholds(
            self.data.num_labels, support, str(parse_objective(self.data.asked.settings.thresholds.objective))
        )

    def _write_metrics(self, calibration: Calibration, thresholds: Thresholds, without_folds: Tensor | None) -> None:
        """Write the metrics of the held-out rows; each fold is decided by thresholds tuned on the other folds."""
        bins = bins_for(self.data.num_labels, HISTOGRAM_BYTES)

        def decide_rows(scores: Tensor, identities: Tensor) -> Tensor:
            assert without_folds is not None
            return scores >= without_folds[fold_of(identities, len(without_folds))]

        evaluation = Evaluation(
            thresholds.thresholds,
            bins,
            decide=thresholds.decide,
            decide_rows=None if without_folds is None else decide_rows,
        )
        for cells in self._held_out():
            logits = calibration.apply(cells.logits)
            evaluation.update(replace(cells, logits=logits), scores_of(logits))
        report = evaluation.report(list(self.data.statistics.label_names), self.data.prevalences)
        nested = {} if without_folds is None else {"decisions": "nested"}
        write_json(self.folder.file("metrics.json"), report | {"data": "validation"} | nested)

    def _training_record(self) -> dict[str, Any]:
        plan, valid = self.data.asked.plan, self.data.asked.valid_plan
        record = {"rows": plan.rows, "plan": plan.digest, "files": _files_of(plan)}
        if valid is not None:
            record["valid_files"] = _files_of(valid)
        if self.trained.certificate is not None:
            record["certificate"] = self.trained.certificate
        return record | {"algorithm": self.trained.algorithm}


def _files_of(plan: Plan) -> list[list[Any]]:
    """Name, size and fingerprint of every file: by these `calibrate` knows rows that have been used."""
    return [[shard.source.name, shard.source.size_bytes, shard.fingerprint] for shard in plan.shards]


def log_loss_sums(held_out: Iterable[Cells], calibrated: Callable[[Tensor], Tensor], prior: Tensor) -> Tensor:
    """Weighted sums [3] float64: log-losses of the model and of the constant logits `prior` [K], and the weights."""
    sums = torch.zeros(3, dtype=torch.float64)
    for cells in held_out:
        labels = cells.labels.double()
        mass = torch.ones_like(labels) if cells.mask is None else cells.mask.double()
        if cells.weights is not None:
            mass = mass * cells.weights.double()[:, None]
        for place, logits in enumerate((calibrated(cells.logits).double(), prior.double())):
            sums[place] += (mass * (torch.nn.functional.softplus(logits) - labels * logits)).sum()
        sums[2] += mass.sum()
    return sums


def caution(sums: Tensor) -> str | None:
    """A warning if the model is worse than the constant, given `log_loss_sums` of the last rows; None if it is not."""
    model, constant, mass = sums.tolist()
    if not mass or not model > constant:
        return None
    return (
        f"hidden layers predict the last tenth of the rows worse (log-loss {model / mass:.4f}) than a constant does "
        f"({constant / mass:.4f}): if the rows are in the order of time, what they learned does not hold later; hold "
        "out by time with --valid-by time:COLUMN, and compare with --set 'model.hidden=[]'"
    )
