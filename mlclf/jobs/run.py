"""A run: a fitted model that evaluates, predicts and calibrates."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.data.features.features import Features
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.agreement import check_shards, drift
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.data.streaming.memory_budget import pool_shape
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.decisions.cells.cells import Cells, row_identities, value_identities, with_rows_alone
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.other_thresholds import rejudged
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.score_files.file_thresholds import read_prior
from mlclf.decisions.scorer import Scorer
from mlclf.decisions.thresholds.objectives import Objective, parse_objective
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.decisions.tuner import Tuner
from mlclf.errors import ConfigError
from mlclf.jobs.evaluate import EvaluateOptions, Judged, ScoredBatch, check_column, evaluation_steps
from mlclf.jobs.kept_rows import KeptRows
from mlclf.jobs.make_tuner import DEFAULT_CONFIDENCE, make_tuner
from mlclf.jobs.parquet_parts import Parts, digest_of_json, empty_keys
from mlclf.jobs.predict import DEFAULT_TOP, WIDE_LABELS, score_table, top_columns, wide_columns
from mlclf.jobs.prevalence_shift import read_prevalences, shifted_thresholds
from mlclf.names import Names, names_of
from mlclf.outputs.documents import check_document, write_document
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain
from mlclf.run_folder import MODEL, RunFolder

ID_BYTES = 12
"""Of encoded ids for each byte of a decoded row, at most: an id of 4 bytes and its value, an end of 4."""

IN_ORDER = 4
"""Rows that are read in order need few slabs of a pool; where their bytes are known, larger ones are no faster."""

PREDICT = "predict"
"""The stage in which every row counts, whatever `data.where` of the fit says."""

BATCH_ROWS, BATCH_CELLS = 32_768, 1 << 22


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
    features: Features
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

    def evaluate(self, data: Names, out: str | Path | None = None, **options: Any) -> dict[str, Any]:
        """Metrics of labelled data at the run's thresholds, as the document of `metrics.json`; written to `out`.

        The options are those of `evaluate_steps`.
        """
        return drain(self.evaluate_steps(data, out, **options))

    def evaluate_steps(
        self,
        data: Names,
        out: str | Path | None = None,
        *,
        by: str | None = None,
        bootstrap: int = 0,
        exact: bool = False,
    ) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `evaluate`, yielding progress; returns the document.

        Args:
            data: labelled data.
            out: file for the document.
            by: column of the data whose values get metrics of their own.
            bootstrap: replicates for intervals; 0 for none.
            exact: AUROC and average precision from sorted scores, label by label.
        """
        options = EvaluateOptions(by, bootstrap, exact)
        check_document(out, "log_loss")
        plan = self._plan(names_of(data))
        check_column(plan, by)
        identity = self._identity(plan) if bootstrap else None
        carried = tuple(dict.fromkeys(name for name in (identity, by) if name))

        def passes() -> Iterator[ScoredBatch]:
            self.features.counted()  # of an earlier pass: counts are of rows
            for batch, progress in self._batches(plan, "evaluate", with_labels=True, carried=carried):
                cells = self._cells(batch, progress.done - len(batch), identity)
                values = None if by is None or batch.keys is None else batch.keys.column(by)
                yield ScoredBatch(cells, scores_of(cells.logits), values)

        judged = Judged(self.thresholds.thresholds, self.thresholds.decide, list(self.label_names))
        evaluation, sliced = yield from evaluation_steps(passes, judged, options, self._num_rows(plan))
        yield from self._notes(plan)
        report = evaluation.report(judged.label_names, self.train_prevalences)
        if sliced is not None:
            report |= sliced.report(judged.label_names, self.train_prevalences)
        if out is not None:
            write_document(out, report, "log_loss")
        return report

    # ── predict ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def predict(
        self,
        data: Names,
        out: str | Path,
        top: int | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write scores and decisions of every row as Parquet parts that mirror the input's, and return the folder."""
        return drain(self.predict_steps(data, out, top, resume=resume, overwrite=overwrite))

    def predict_steps(
        self,
        data: Names,
        out: str | Path,
        top: int | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Generator[Progress, None, Path]:
        """The job of `predict`, yielding progress; returns the folder."""
        if top is not None and top < 1:
            raise ConfigError(f"--top must be 1 or more, got {top}")
        data = names_of(data)
        with claimed(out, "predict", arguments=data, resume=resume, overwrite=overwrite, resumable=True) as output:
            plan = self._plan(data)
            output.keep_apart(plan.local_files())
            check_shards(plan, self._applied_schema(plan), with_labels=False)
            parts = Parts(output, plan, resume=resume, bound=self._made_of({"top": top}))
            for note in [*output.said(), *parts.notes]:
                yield Progress.warning("out", note)
            output.needs_bytes = 5 * plan.rows * min(len(self.label_names), top or WIDE_LABELS)
            with parts.opened() as missing:
                for index, done in missing:
                    yield from self._predict_shard(parts, index, top, done)
                    yield Progress(PREDICT, done + plan.shards[index].rows, plan.rows)  # the part has its name now
            for note in output.said():
                yield Progress.warning("out", note)
        yield from self._notes(plan)
        return Path(out)

    def _made_of(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What scores of this run are made of, beside the rows."""
        thresholds = self.thresholds.to_json(list(self.label_names))
        return {
            "run": digest_of_json(dict(self.hashes)),
            "thresholds": digest_of_json(thresholds),
            "arguments": dict(arguments),
        }

    def _predict_shard(self, parts: Parts, index: int, top: int | None, done: int) -> Iterator[Progress]:
        plan = parts.plan
        part = Plan(plan.shards, tuple(unit for unit in plan.units if unit.shard == index))
        with parts.written(index) as writer:
            for batch, progress in self._batches(part, PREDICT, with_labels=False):
                scores = scores_of(self.scorer.logits(batch))
                keys = {} if batch.keys is None else {name: batch.keys.column(name) for name in batch.keys.column_names}
                writer.write(score_table(keys, self._score_columns(scores, top)))
                yield Progress("predict", done + progress.done, plan.rows)
            if writer.is_empty:
                nothing = self._score_columns(torch.zeros(0, len(self.label_names)), top)
                writer.write(score_table(empty_keys(plan.shards[index], self.schema.key), nothing))

    def _score_columns(self, scores: Tensor, top: int | None) -> dict[str, pa.Array]:
        decisions = self.thresholds.decide(scores)
        if top is None and len(self.label_names) <= WIDE_LABELS:
            return wide_columns(scores, decisions, self.label_names)
        return top_columns(scores, decisions, top or DEFAULT_TOP, self.label_names)

    # ── calibrate ───────────────────────────────────────────────────────────────────────────────────────────────────

    def calibrate(
        self, data: Names, objective: str = "f1", out: str | Path | None = None, **options: Any
    ) -> dict[str, Any]:
        """Tune thresholds on labelled data; they replace the run's unless `out` names a file for them.

        The options are those of `calibrate_steps`.
        """
        return drain(self.calibrate_steps(data, objective, out, **options))

    def calibrate_steps(
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
    ) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `calibrate`, yielding progress; returns the document of `thresholds.json`.

        Args:
            data: labelled data; none for the held-out rows of the fit, whose histograms the run keeps.
            objective: such as `f1` or `recall:0.9`.
            out: file for the document; None for the run's own.
            confidence: what constraints are to hold with; None makes no claim.
            across_labels: `fdr` controls a set of labels, None each on its own.
            prior: thresholds of earlier, toward which these are shrunk.
            unlabelled: data without labels, in which they may occur more or less often: thresholds are for these rows.
            prevalence: JSON file `{label: share}` of prevalences that are known, for which thresholds are to be.
        """
        check_document(out, "objective")
        data = names_of(data)
        with nullcontext() if out is not None else claimed(self.path, "calibrate", adds=True) as output:
            tuned = self._tuned(data, objective, confidence, across_labels, prior, unlabelled, prevalence)
            thresholds = yield from tuned
            document = thresholds.to_json(list(self.label_names)) | {"model": self.hashes[MODEL]}
            if output is None:
                write_document(out or "", document, "objective")
            else:
                output.rewrite_json("thresholds.json", document)
                self.thresholds = thresholds
                metrics = self.metrics
                if metrics is not None:
                    if not data:
                        metrics.setdefault("decisions", "in_sample")
                    output.rewrite_json("metrics.json", metrics)
                    self.folder = self.folder.without("metrics.json")
        return document

    def _tuned(
        self,
        data: Sequence[str],
        objective: str,
        confidence: float | None,
        across_labels: str | None,
        prior: str | Path | None,
        unlabelled: Names,
        prevalence: str | Path | None,
    ) -> Generator[Progress, None, Thresholds]:
        """Thresholds as `calibrate_steps` says."""
        wanted = parse_objective(objective)
        options: dict[str, Any] = {
            "across_labels": across_labels,
            "prior": None if prior is None else read_prior(Path(prior), self.label_names),
            "method": self.settings.thresholds.method,
        }
        make_tuner(wanted, len(self.label_names), confidence=confidence, **options)  # refuses before data is read
        if data:
            tuner = yield from self._tuned_on(data, wanted, confidence, options)
        else:
            tuner = yield from self._tuned_again(wanted, confidence, options)
        known = None if prevalence is None else read_prevalences(prevalence, self.label_names)
        fresh = None
        if names_of(unlabelled):
            fresh = yield from self._counted(names_of(unlabelled))
        shifted = known is not None or fresh is not None
        return shifted_thresholds(tuner, known, fresh) if shifted else tuner.thresholds()

    def _tuned_again(
        self, objective: Objective, confidence: float | None, options: Mapping[str, Any]
    ) -> Generator[Progress, None, Tuner]:
        """A tuner with the histograms of the fit, without scoring."""
        folder = self.folder
        tuner = make_tuner(objective, len(self.label_names), confidence=None, **options)
        tuner.count_again(folder.read_histogram(), folder.read_folds())
        if not bool((tuner.histogram.rows > 0).any()):
            raise ConfigError(f"{self.path}: no rows were held out in this fit; give labelled data to calibrate on")
        note = "tuned on the held-out rows of the fit"
        if objective.is_constraint and confidence is not None:
            note += ", which also chose other things: no confidence is claimed; for a claim give rows used for nothing"
        yield Progress("calibrate", note=note)
        return tuner

    def _tuned_on(
        self, data: Sequence[str], objective: Objective, confidence: float | None, options: Mapping[str, Any]
    ) -> Generator[Progress, None, Tuner]:
        plan = self._plan(data)
        claims = objective.is_constraint and confidence is not None
        note = None
        if self._used(plan, "files"):
            note = "these rows were trained on: thresholds tuned on them promise too much; use rows held out"
            note += "; no confidence is claimed" if claims else ""
        elif claims and self._used(plan, "valid_files"):
            note = "these rows chose model and thresholds in the fit, as --valid: no confidence is claimed; for a claim"
            note += " give rows used for nothing"
        if note is not None:
            yield Progress.warning("calibrate", note)
            confidence, claims = None, False
        weighted = claims and self._applied_schema(plan).weight is not None
        tuner = make_tuner(
            objective,
            len(self.label_names),
            confidence=confidence,
            clustered=self._identity(plan) is not None and self._identity(plan) == self.schema.group,
            greatest_weight=self._greatest_weight(plan) if weighted else None,
            **options,
        )
        identity = self._identity(plan)
        carried = () if identity is None else (identity,)
        for batch, progress in self._batches(plan, "calibrate", with_labels=True, carried=carried):
            tuner.update(self._cells(batch, progress.done - len(batch), identity))
            yield progress
        yield from self._notes(plan)
        return tuner

    def _counted(self, data: Sequence[str]) -> Generator[Progress, None, LabelHistogram]:
        """The logits of unlabelled rows."""
        histogram = LabelHistogram(len(self.label_names))
        plan = self._plan(data)
        for batch, progress in self._batches(plan, "unlabelled", with_labels=False):
            logits = self.scorer.logits(batch)
            histogram.update(logits, torch.zeros_like(logits, dtype=torch.uint8))
            yield progress
        yield from self._notes(plan)
        return histogram

    def _greatest_weight(self, plan: Plan) -> float:
        """The greatest weight of a row; reads all rows."""
        batches = self._batches(plan, "calibrate", with_labels=True)
        greatest = max((float(batch.weights.max()) for batch, _ in batches if len(batch)), default=0.0)
        self.features.counted()  # the pass that tunes counts these rows again
        return greatest

    def _plan(self, data: Sequence[str]) -> Plan:
        """The plan of data that is scored, the columns of its folders as in training."""
        return make_plan(data).with_folder_types(self.features.folder_types)

    def _identity(self, plan: Plan) -> str | None:
        """The column that tells what a row is, where the data has it: the run's group, or its key."""
        names = set(plan.shards[0].schema.names)
        return next((name for name in (self.schema.group, self.schema.key) if name in names), None)

    def _cells(self, batch: Batch, first_row: int, identity: str | None) -> Cells:
        rows = torch.arange(first_row, first_row + len(batch))
        if identity is not None and batch.keys is not None:
            identities = with_rows_alone(value_identities(batch.keys.column(identity)), rows)
        else:
            identities = row_identities(rows)
        return Cells(self.scorer.logits(batch), batch.labels, identities, batch.label_mask, batch.weights)

    def _used(self, plan: Plan, key: str) -> bool:
        """Whether a file of the plan is, by its size and its name or footer, one that the fit lists under `key`."""
        known = {
            (sign, size) for name, size, *footer in self.training.get(key, []) for sign in (Path(name).name, *footer)
        }
        sizes = [(shard, shard.source.size_bytes) for shard in plan.shards]
        signs = [(sign, size) for shard, size in sizes for sign in (Path(shard.source.name).name, shard.fingerprint)]
        return not known.isdisjoint(signs)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _applied_schema(self, plan: Plan) -> Schema:
        """The schema of the run, without inputs that the fit left out, weight and key where the data lacks them."""
        names = set(plan.shards[0].schema.names)
        key = self.schema.key if self.schema.key in names else None
        weight = self.schema.weight if self.schema.weight in names else None
        return replace(self.schema.without(self.features.unused), weight=weight, key=key, group=None)

    def _kept_rows(self, plan: Plan) -> KeptRows | None:
        """The rows that `data.where` of the fit keeps, counted once for each plan; None where it keeps all."""
        if self.settings.data.where is None:
            return None
        if self._kept is None or self._kept.plan is not plan:
            self._kept = KeptRows.of(plan, self.settings.data.where, self.settings.runtime.threads)
        return self._kept

    def _num_rows(self, plan: Plan) -> int:
        kept = self._kept_rows(plan)
        return plan.rows if kept is None else kept.rows

    def _batches(
        self, plan: Plan, stage: str, *, with_labels: bool, carried: Sequence[str] = ()
    ) -> Iterator[tuple[Batch, Progress]]:
        schema = self._applied_schema(plan)
        if with_labels:
            check_shards(plan, schema)
        values = self.settings.data.label_values
        labels = make_labels(self.schema, values, self.label_names) if with_labels else None
        keys = tuple(carried) if with_labels else tuple(name for name in (schema.key,) if name)
        weight = schema.weight if with_labels else None
        kept = None if stage == PREDICT else self._kept_rows(plan)
        encoder = RowEncoder(
            schema,
            self.features,
            labels,
            len(self.label_names),
            weight=weight,
            key_columns=keys,
            numbered=kept is not None,
        )
        row_bytes, budget = encoder.layout.row_bytes, self.settings.runtime.memory_budget
        if encoder.layout.num_tokens is None:
            row_bytes += ID_BYTES * plan.row_bytes
        else:
            budget //= IN_ORDER
        if keys:
            row_bytes += plan.row_bytes
        budget = max(budget, int(row_bytes + plan.row_bytes) << 12)
        pool = pool_shape(budget, row_bytes, plan.row_bytes, unit_rows=plan.largest_unit_rows)
        batch_rows = max(1, min(pool.slab_rows, BATCH_ROWS, BATCH_CELLS // len(self.label_names)))
        done, rows = 0, plan.rows if kept is None else kept.rows
        selection = None if kept is None else kept.selection
        stream = BatchStream(plan, encoder, pool, batch_rows=batch_rows, shuffle=False, selection=selection)
        for batch in stream:
            done += len(batch)
            yield batch, Progress(stage, done, rows)
        if isinstance(labels, TagList):
            self.unseen_tags = labels.unseen_tags

    unseen_tags: int = 0
    _kept: KeptRows | None = None

    def _notes(self, plan: Plan) -> Iterator[Progress]:
        """Warnings of the plan, counts of what encoding repaired, and what became of the condition of the fit."""
        condition = self.settings.data.where
        if condition is not None and self._kept is not None and self._kept.plan is plan:
            kept = f"{self._kept.rows:,} of {plan.rows:,} rows"
            yield Progress("rows", note=f"data.where of the fit keeps {kept}: {condition}")
        elif condition is not None:
            yield Progress("rows", note=f"every row is scored: data.where of the fit is not applied ({condition})")
        lines = [*plan.warnings, *self.features.counted()]
        if self.unseen_tags:
            lines.append(f"{self.unseen_tags:,} tags were not in training; they are ignored (unseen_tags)")
            self.unseen_tags = 0
        unknown = drift(plan, self.schema)
        if unknown:
            lines.append(f"{len(unknown)} columns were not there in training and are not used: {unknown[:5]}")
        for line in lines:
            yield Progress.warning("rows", line)


def _are_at(metrics: Mapping[str, Any], thresholds: Thresholds) -> bool:
    """Whether metrics were measured at these thresholds."""
    now = [None if math.isnan(threshold) else threshold for threshold in thresholds.thresholds.tolist()]
    return [entry.get("threshold") for entry in metrics["labels"].values()] == now
