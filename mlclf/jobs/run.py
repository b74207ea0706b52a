"""A run: a fitted model that evaluates, predicts and calibrates."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mlclf.config.settings import Settings
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.agreement import check_shards
from mlclf.data.schema.schema import Schema
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.other_thresholds import rejudged
from mlclf.decisions.scorer import Scorer
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.errors import ConfigError
from mlclf.jobs import calibrate, evaluate
from mlclf.jobs.calibrate import DEFAULT_CONFIDENCE, CalibrateOptions, calibrate_steps
from mlclf.jobs.evaluate import EvaluateOptions, Judged, evaluate_steps
from mlclf.jobs.parquet_parts import Parts, digest_of_json, empty_keys
from mlclf.jobs.predict import DEFAULT_TOP, WIDE_LABELS, score_table, top_columns, wide_columns
from mlclf.jobs.run_data import HeldOutRows, RunData
from mlclf.names import Names, names_of
from mlclf.outputs.documents import check_document, write_document
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain
from mlclf.run_folder import MODEL, RunFolder


@dataclass
class Run:
    """A fitted model with its features, thresholds and histograms.

    Attributes:
        path: the run folder.
        label_names: [K], in the order of every array.
        thresholds: of the run; `calibrate` replaces them.
        hashes: SHA-256 of the files that were opened, by their names.
        folder: the files as they were read when the run was opened.
    """

    path: Path
    settings: Settings
    schema: Schema
    features: FeatureEncoder
    label_names: tuple[str, ...]
    train_prevalences: Tensor
    thresholds: Thresholds
    scorer: Scorer
    training: Mapping[str, Any]
    hashes: Mapping[str, str]
    folder: RunFolder

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder; every file's hash is checked.

        Raises:
            RunError: there is no finished run, a file has changed, or the format is unknown.
        """
        folder, manifest = RunFolder(Path(path)).opened()
        schema, names, prevalences = folder.read_schema()
        head, bounds = folder.read_model()
        return cls(
            Path(path),
            folder.read_settings(),
            schema,
            folder.read_features(),
            names,
            prevalences,
            folder.read_thresholds(names),
            Scorer(head, bounds, torch.device("cpu")),
            manifest.get("training", {}),
            manifest["files"],
            folder.without(MODEL, "features.safetensors"),
        )

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Metrics of the held-out rows of the fit at the thresholds in force; None where none were held out.

        `calibrate` counts the decisions again from the histograms of the fit: see `rejudged`.
        """
        document = self.folder.read_metrics(self.label_names)
        if document is None or _are_at(document, self.thresholds):
            return document
        return rejudged(document, self.folder.read_histogram(), self.thresholds)

    # ── evaluate ────────────────────────────────────────────────────────────────────────────────────────────────────

    def evaluate(
        self,
        data: Names,
        out: str | Path | None = None,
        *,
        by: str | None = None,
        bootstrap: int = 0,
        exact: bool = False,
    ) -> dict[str, Any]:
        """Metrics of labelled data at the run's thresholds, as the document of `metrics.json`.

        Args:
            data: labelled data.
            out: file for the document.
            by: column of the data whose values get metrics of their own.
            bootstrap: replicates for intervals; 0 for none.
            exact: AUROC and average precision from sorted scores, label by label.

        Raises:
            ConfigError, DataError: an argument is out of range, or the data is not of the kind that was fitted.
        """
        return drain(self.evaluate_steps(data, out, EvaluateOptions(by, bootstrap, exact)))

    def evaluate_steps(
        self, data: Names, out: str | Path | None, asked: EvaluateOptions
    ) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `evaluate`, yielding progress; returns the document."""
        check_document(out, evaluate.DOCUMENT_FIELD)
        thresholds, names = self.thresholds, list(self.label_names)
        judged = Judged(names, thresholds.thresholds, thresholds.decide, thresholds.thresholds, self.train_prevalences)
        return (yield from evaluate_steps(RunData(self, names_of(data)), judged, asked, out))

    # ── predict ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def predict(
        self, data: Names, out: str | Path, top: int | None = None, *, resume: bool = False, overwrite: bool = False
    ) -> Path:
        """Write scores and decisions of every row as Parquet parts that mirror the input's, and return the folder.

        Args:
            data: files, folders, globs or URIs.
            out: folder for the parts.
            top: only the best labels of each row, so many, as lists; None for all up to 1,000 labels.
            resume: keep the parts that are there and write the others.
            overwrite: replace the scores that are there.

        Raises:
            ConfigError, DataError: an argument is out of range, or the data is not of the kind that was fitted.
        """
        return drain(self.predict_steps(data, out, top, resume=resume, overwrite=overwrite))

    def predict_steps(
        self, data: Names, out: str | Path, top: int | None = None, *, resume: bool = False, overwrite: bool = False
    ) -> Generator[Progress, None, Path]:
        """The job of `predict`, yielding progress; returns the folder."""
        if top is not None and top < 1:
            raise ConfigError(f"--top must be 1 or more, got {top}")
        data = names_of(data)
        with claimed(out, "predict", arguments=data, resume=resume, overwrite=overwrite, resumable=True) as output:
            rows = RunData(self, data, every_row=True)
            plan = rows.plan
            output.keep_apart(plan.local_files())
            check_shards(plan, rows.schema, with_labels=False)
            parts = Parts(output, plan, resume=resume, bound=self._made_of({"top": top}))
            for note in [*output.said(), *parts.notes]:
                yield Progress.warning("out", note)
            output.needs_bytes = 5 * plan.rows * min(len(self.label_names), top or WIDE_LABELS)
            yield from parts.write(
                "predict",
                lambda index: self._score_tables(rows, index, top),
                lambda index: self._no_scores(rows, index, top),
            )
            for note in output.said():
                yield Progress.warning("out", note)
        yield from rows.notes()
        return Path(out)

    def _made_of(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What scores depend on beside the rows: model, thresholds and arguments."""
        thresholds = self.thresholds.to_json(list(self.label_names))
        return {
            "run": digest_of_json(dict(self.hashes)),
            "thresholds": digest_of_json(thresholds),
            "arguments": dict(arguments),
        }

    def _score_tables(self, rows: RunData, index: int, top: int | None) -> Iterator[pa.Table]:
        """Keys, scores and decisions of the rows of one file."""
        part = Plan(rows.plan.shards, tuple(unit for unit in rows.plan.units if unit.shard == index))
        for batch in rows.batches(labelled=False, plan=part):
            keys = {} if batch.keys is None else {name: batch.keys.column(name) for name in batch.keys.column_names}
            yield score_table(keys, self._score_columns(scores_of(self.scorer.logits(batch)), top))

    def _no_scores(self, rows: RunData, index: int, top: int | None) -> pa.Table:
        """The same columns without a row."""
        keys = empty_keys(rows.plan.shards[index], self.schema.key)
        return score_table(keys, self._score_columns(torch.zeros(0, len(self.label_names)), top))

    def _score_columns(self, scores: Tensor, top: int | None) -> dict[str, pa.Array]:
        decisions = self.thresholds.decide(scores)
        if top is None and len(self.label_names) <= WIDE_LABELS:
            return wide_columns(scores, decisions, self.label_names)
        return top_columns(scores, decisions, top or DEFAULT_TOP, self.label_names)

    # ── calibrate ───────────────────────────────────────────────────────────────────────────────────────────────────

    def calibrate(
        self,
        data: Names,
        objective: str = "f1",
        out: str | Path | None = None,
        *,
        confidence: float | None = DEFAULT_CONFIDENCE,
        across_labels: str | None = None,
        prior: str | Path | None = None,
        unlabelled: Names = (),
        prevalence: str | Path | None = None,
    ) -> dict[str, Any]:
        """Tune thresholds on labelled data; they replace the run's unless `out` names a file for them.

        Args:
            data: labelled data; none for the held-out rows of the fit, whose histograms the run keeps.
            objective: such as `f1` or `recall:0.9`.
            out: file for the document of `thresholds.json`; None for the run's own.
            confidence: what constraints are to hold with; None makes no claim.
            across_labels: `fdr` controls a set of labels, None each on its own.
            prior: file of earlier thresholds, toward which these are shrunk.
            unlabelled: data without labels, in which they may occur more or less often: thresholds are for these rows.
            prevalence: JSON file `{label: share}` of known prevalences that the thresholds are for.

        Returns:
            The document of `thresholds.json`.

        Raises:
            ConfigError, DataError: an option does not exist, or the data is not of the kind that was fitted.
        """
        asked = CalibrateOptions(objective, confidence, across_labels, prior, unlabelled, prevalence)
        return drain(self.calibrate_steps(data, out, asked))

    def calibrate_steps(
        self, data: Names, out: str | Path | None, asked: CalibrateOptions
    ) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `calibrate`, yielding progress; returns the document of `thresholds.json`."""
        check_document(out, calibrate.DOCUMENT_FIELD)
        data = names_of(data)
        with nullcontext() if out is not None else claimed(self.path, "calibrate", adds=True) as output:
            rows = RunData(self, data) if data else HeldOutRows(self)
            thresholds = yield from calibrate_steps(rows, asked, self.settings.thresholds.method)
            document = thresholds.to_json(list(self.label_names)) | {"model": self.hashes[MODEL]}
            if output is None:
                write_document(out or "", document, calibrate.DOCUMENT_FIELD)
                return document
            output.rewrite_json("thresholds.json", document)
            self.thresholds = thresholds
            metrics = self.metrics
            if metrics is not None:
                if not data:
                    metrics.setdefault("decisions", "in_sample")
                output.rewrite_json("metrics.json", metrics)
                self.folder = self.folder.without("metrics.json")
        return document


def _are_at(metrics: Mapping[str, Any], thresholds: Thresholds) -> bool:
    """Whether metrics were computed at these thresholds."""
    now = [None if math.isnan(threshold) else threshold for threshold in thresholds.thresholds.tolist()]
    return [entry.get("threshold") for entry in metrics["labels"].values()] == now
