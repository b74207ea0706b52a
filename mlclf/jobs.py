"""The public jobs: fit, and a Run that evaluates, predicts and calibrates."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mlclf.config import Arguments, RunFile, Settings, load_run_file
from mlclf.data.batch import Batch
from mlclf.data.features.table import Features
from mlclf.data.labels import TagList, make_labels
from mlclf.data.loader import BatchStream
from mlclf.data.pool import pool_shape
from mlclf.data.rows import RowEncoder
from mlclf.data.schema import Schema, check_shards, drift
from mlclf.data.shards import Plan, Shard, make_plan
from mlclf.decisions.evaluation import Evaluation
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.objectives import parse_objective
from mlclf.decisions.score_files import KIND_KEY, PROBABILITY, between, open_score_files
from mlclf.decisions.scores import Scorer, scores_of
from mlclf.decisions.thresholds import Thresholds
from mlclf.decisions.tuning import tune_thresholds
from mlclf.errors import ConfigError, DataError
from mlclf.files import committed, folder_is_empty, read_json, write_json, write_text
from mlclf.fitting import FitJob, Progress
from mlclf.runs import RunFolder

T = TypeVar("T")
Names = str | Sequence[str]

WIDE_LABELS = 1000
"""Up to this many labels `predict` writes a column for each; above it the best ones as lists."""

DEFAULT_TOP = 100
BATCH_CELLS = 1 << 22


def fit(
    data: Names,
    labels: Names,
    out: str | Path,
    *,
    valid: Names | None = None,
    valid_fraction: float | None = None,
    valid_by: str | None = None,
    folds: int | None = None,
    features: Names = (),
    exclude: Names = (),
    weight: str | None = None,
    key: str | None = None,
    group: str | None = None,
    settings: Mapping[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Fit a calibrated model with thresholds on Parquet data and write its run folder.

    Args:
        data: files, folders, globs or URIs.
        labels: label columns or globs, or one list column of tags.
        out: the run folder.
        valid, valid_fraction, valid_by, folds: which rows are held out, one way at most; the default is 5 folds up to
            200,000 rows, a tenth of the rows above.
        features, exclude: columns or globs that are, or are not, inputs; the default is every other column.
        weight, key, group: columns of row weights, row identity, clusters.
        settings: dotted name → value, such as {"optimizer.l2": 0.1}.

    Raises:
        ConfigError, DataError: an argument or the data is not what it has to be; nothing is written.
    """
    arguments = {
        "train": _names(data),
        "labels": _names(labels),
        "valid": None if valid is None else _names(valid),
        "valid_fraction": valid_fraction,
        "valid_by": valid_by,
        "folds": folds,
        "columns": _names(features) or None,
        "exclude": _names(exclude) or None,
        "weight": weight,
        "key": key,
        "group": group,
        "out": str(out),
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    sets = [f"{name}={_as_text(value)}" for name, value in (given | dict(settings or {})).items()]
    return drain(fit_steps(load_run_file(None, sets), resume=resume, overwrite=overwrite))


def fit_steps(run_file: RunFile, *, resume: bool = False, overwrite: bool = False) -> Generator[Progress, None, Run]:
    """The job of `fit`, yielding progress; returns the run."""
    out = run_file.arguments.out
    if not out:
        raise ConfigError("fit needs --out, the folder that the run is written to")
    folder = RunFolder(Path(out))
    if resume:
        run_file = resumed_run_file(folder, run_file)
        if folder.finished:
            yield Progress("done", note=f"{out}: this run has finished; nothing is left to do")
            return Run.open(out)
    yield from FitJob(run_file, resume=resume, overwrite=overwrite).steps()
    return Run.open(out)


def resumed_run_file(folder: RunFolder, given: RunFile) -> RunFile:
    """The arguments and settings of a started run; any that were given must match.

    Raises:
        ConfigError: there is nothing to resume, or an argument or setting differs; all that differ are named.
    """
    if not folder.started:
        raise ConfigError(f"{folder.path}: there is no run to resume here; fit without --resume")
    stored = load_run_file(folder.file("config.yaml"), [])
    default = RunFile(Arguments(), Settings())
    problems = []
    for part, (new, old, plain) in enumerate(zip(given, stored, default, strict=True)):
        for name, value in _flat(new.model_dump(mode="json")).items():
            was, usual = (_flat(model.model_dump(mode="json")).get(name) for model in (old, plain))
            if value != usual and value != was and name != "out":
                flag = f"--{name.replace('_', '-')}" if part == 0 else name
                problems.append(f"{flag}: the run has {was!r}, given is {value!r}")
    if problems:
        raise ConfigError("\n".join(problems) + "\na resumed run keeps its data and settings; leave these out")
    return RunFile(stored.arguments.model_copy(update={"out": str(folder.path)}), stored.settings)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def _names(value: Names) -> list[str]:
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]


def _as_text(value: object) -> str:
    """A setting as `--set` takes it."""
    if isinstance(value, str):
        return json.dumps(value) if not value or value[0] in "[{\"'~" or value == "null" else value
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value)


def drain(steps: Generator[Any, None, T]) -> T:
    """Run a job to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


@dataclass
class Run:
    """A fitted model with its features, thresholds and histograms.

    Attributes:
        path: the run folder.
        label_names: [K], in the order of every array.
        thresholds: of the run; `calibrate` replaces them.
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

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder; every file's hash is checked.

        Raises:
            RunError: there is no finished run, a file has changed, or the format is unknown.
        """
        folder = RunFolder(Path(path))
        manifest = folder.check()
        settings = load_run_file(folder.file("config.yaml"), []).settings
        schema, names, prevalences = folder.read_schema()
        head, bounds = folder.read_model()
        return cls(
            Path(path),
            settings,
            schema,
            folder.read_features(),
            names,
            prevalences,
            folder.read_thresholds(names),
            Scorer(head, bounds, torch.device("cpu")),
            manifest.get("training", {}),
        )

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Metrics of the held-out rows of the fit; None where none were held out."""
        path = self.path / "metrics.json"
        return read_json(path, 1, "metrics") if path.exists() else None

    # ── evaluate ────────────────────────────────────────────────────────────────────────────────────────────────────

    def evaluate(self, data: Names, out: str | Path | None = None) -> dict[str, Any]:
        """Metrics of labelled data at the run's thresholds, as the document of `metrics.json`; written to `out`."""
        return drain(self.evaluate_steps(data, out))

    def evaluate_steps(self, data: Names, out: str | Path | None = None) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `evaluate`, yielding progress; returns the document."""
        plan = make_plan(_names(data))
        evaluation = Evaluation(self.thresholds.thresholds, scores_of)
        for batch, progress in self._batches(plan, "evaluate", with_labels=True):
            logits = self.scorer.logits(batch)
            evaluation.update(logits, scores_of(logits), batch.labels, batch.label_mask, batch.weights)
            yield progress
        yield from self._notes(plan)
        report = evaluation.report(list(self.label_names), self.train_prevalences)
        if out is not None:
            write_json(Path(out), report)
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
        folder = Path(out)
        if top is not None and top < 1:
            raise ConfigError(f"--top must be 1 or more, got {top}")
        if not folder_is_empty(folder) and not (resume or overwrite):
            raise ConfigError(f"{folder}: the folder is not empty; give another --out, or --resume or --overwrite")
        plan = make_plan(_names(data))
        check_shards(plan, self._applied_schema(plan), with_labels=False)
        parts = _part_names(plan)
        if overwrite:
            _clear_scores(folder)
        done = 0
        for index, (shard, name) in enumerate(zip(plan.shards, parts, strict=True)):
            path = folder / name
            if not (resume and path.exists()):
                yield from self._predict_shard(plan, index, shard, path, top, done)
            done += shard.rows
        yield from self._notes(plan)
        write_text(folder / "_SUCCESS", "")
        return folder

    def _predict_shard(
        self, plan: Plan, index: int, shard: Shard, path: Path, top: int | None, done: int
    ) -> Iterator[Progress]:
        part = Plan(plan.shards, tuple(unit for unit in plan.units if unit.shard == index))
        wide = top is None and len(self.label_names) <= WIDE_LABELS
        with committed(path) as temporary:
            writer: pq.ParquetWriter | None = None
            try:
                for batch, progress in self._batches(part, "predict", with_labels=False):
                    scores = scores_of(self.scorer.logits(batch))
                    columns = self._wide_columns(scores) if wide else self._top_columns(scores, top or DEFAULT_TOP)
                    table = _with_keys(batch, columns)
                    if writer is None:
                        writer = pq.ParquetWriter(temporary, table.schema, write_page_checksum=True)
                    writer.write_table(table)
                    yield Progress("predict", done + progress.done, plan.rows)
                if writer is None:
                    pq.write_table(self._empty_scores(shard, wide), temporary)
            finally:
                if writer is not None:
                    writer.close()

    def _wide_columns(self, scores: Tensor) -> dict[str, pa.Array]:
        decisions = scores >= self.thresholds.thresholds
        columns: dict[str, pa.Array] = {}
        for index, name in enumerate(self.label_names):
            columns[f"score_{name}"] = pa.array(scores[:, index].numpy())
        for index, name in enumerate(self.label_names):
            columns[f"decision_{name}"] = pa.array(decisions[:, index].numpy())
        return columns

    def _top_columns(self, scores: Tensor, top: int) -> dict[str, pa.Array]:
        count = min(top, scores.shape[1])
        order = torch.sort(scores, dim=1, descending=True, stable=True)
        names = pa.array(self.label_names, pa.string()).take(pa.array(order.indices[:, :count].reshape(-1).numpy()))
        offsets = pa.array(range(0, (len(scores) + 1) * count, count), pa.int32())
        values = pa.array(order.values[:, :count].reshape(-1).numpy())
        return {
            "top_labels": pa.ListArray.from_arrays(offsets, names),
            "top_scores": pa.ListArray.from_arrays(offsets, values),
        }

    def _empty_scores(self, shard: Shard, wide: bool) -> pa.Table:
        nothing = torch.zeros(0, len(self.label_names))
        columns = self._wide_columns(nothing) if wide else self._top_columns(nothing, 1)
        keys = [name for name in (self.schema.key,) if name and name in shard.schema.names]
        empty = {name: pa.array([], shard.schema.field(name).type) for name in keys}
        return pa.table(empty | columns)

    # ── calibrate ───────────────────────────────────────────────────────────────────────────────────────────────────

    def calibrate(self, data: Names, objective: str = "f1", out: str | Path | None = None) -> dict[str, Any]:
        """Tune thresholds on labelled data; they replace the run's unless `out` names a file for them."""
        return drain(self.calibrate_steps(data, objective, out))

    def calibrate_steps(
        self, data: Names, objective: str = "f1", out: str | Path | None = None
    ) -> Generator[Progress, None, dict[str, Any]]:
        """The job of `calibrate`, yielding progress; returns the document of `thresholds.json`."""
        wanted = parse_objective(objective)
        plan = make_plan(_names(data))
        if self._trained_on(plan):
            yield Progress(
                "calibrate",
                note="these rows were trained on: thresholds tuned on them promise too much; use rows held out",
            )
        histogram = LabelHistogram(len(self.label_names))
        for batch, progress in self._batches(plan, "calibrate", with_labels=True):
            histogram.update(self.scorer.logits(batch), batch.labels, batch.label_mask, batch.weights)
            yield progress
        yield from self._notes(plan)
        prior = 0.0 if self.settings.thresholds.method == "plain" else 10.0
        thresholds = tune_thresholds(histogram, wanted, scores_of, prior)
        document = thresholds.to_json(list(self.label_names))
        write_json(Path(out) if out is not None else self.path / "thresholds.json", document)
        if out is None:
            self.thresholds = thresholds
        return document

    def _trained_on(self, plan: Plan) -> bool:
        """Whether a file of the plan has the name and size of one that was trained on."""
        known = {(Path(name).name, size) for name, size in self.training.get("files", [])}
        return any((Path(shard.source.name).name, shard.source.size_bytes) in known for shard in plan.shards)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _applied_schema(self, plan: Plan) -> Schema:
        """The schema of the run, without weight and key where the data does not have them."""
        names = set(plan.shards[0].schema.names)
        key = self.schema.key if self.schema.key in names else None
        weight = self.schema.weight if self.schema.weight in names else None
        return Schema(self.schema.features, self.schema.labels, self.schema.tags, weight, key, None)

    def _batches(self, plan: Plan, stage: str, *, with_labels: bool) -> Iterator[tuple[Batch, Progress]]:
        schema = self._applied_schema(plan)
        if with_labels:
            check_shards(plan, schema)
        values = self.settings.data.label_values
        labels = make_labels(self.schema, values, self.label_names) if with_labels else None
        keys = (schema.key,) if schema.key and not with_labels else ()
        weight = schema.weight if with_labels else None
        encoder = RowEncoder(schema, self.features, labels, len(self.label_names), weight=weight, key_columns=keys)
        row_bytes = 4 * self.features.num_dense + 12 * plan.row_bytes + len(self.label_names) + 64
        budget = max(self.settings.runtime.memory_budget, int(row_bytes) << 12)
        pool = pool_shape(budget, row_bytes, plan.row_bytes, unit_rows=plan.largest_unit_rows)
        batch_rows = max(1, min(pool.slab_rows, BATCH_CELLS // len(self.label_names)))
        done = 0
        for batch in BatchStream(plan, encoder, pool, batch_rows=batch_rows, shuffle=False):
            done += len(batch)
            yield batch, Progress(stage, done, plan.rows)
        if isinstance(labels, TagList):
            self.unseen_tags = labels.unseen_tags

    unseen_tags: int = 0

    def _notes(self, plan: Plan) -> Iterator[Progress]:
        """Warnings of the plan and counts of what encoding repaired."""
        lines = [*plan.warnings, *self.features.counted()]
        if self.unseen_tags:
            lines.append(f"{self.unseen_tags:,} tags were not in training; they are ignored (unseen_tags)")
            self.unseen_tags = 0
        unknown = drift(plan, self.schema)
        if unknown:
            lines.append(f"{len(unknown)} columns were not there in training and are not used: {unknown[:5]}")
        for line in lines:
            yield Progress("rows", note=line)


def calibrate_scores_steps(
    data: Names,
    objective: str,
    out: str | Path | None,
    *,
    scores: Names = "score_*",
    score_kind: str | None = None,
    labels: Names = "label_*",
    label_data: Names = (),
    key: str | None = None,
    weight: str | None = None,
) -> Generator[Progress, None, dict[str, Any]]:
    """Tune thresholds on the scores of any model, yielding progress; returns the document of `thresholds.json`.

    Args:
        data: Parquet files with score columns.
        out: file for the document.
        scores, labels: columns or globs; `score_X` belongs to label X.
        score_kind: probability or logit; None where the files say it.
        label_data, key: where the labels are, if not beside the scores, and the column that joins them.
    """
    if out is None:
        raise ConfigError("calibrating score files needs --out, the file for the thresholds")
    wanted = parse_objective(objective)
    plan = make_plan(_names(data))
    label_plan = make_plan(_names(label_data)) if label_data else None
    files = open_score_files(
        plan, _names(scores), _names(labels), score_kind, label_plan=label_plan, key=key, weight=weight
    )
    histogram, done = LabelHistogram(len(files.label_names)), 0
    for piece in files.pieces():
        histogram.update(piece.logits, piece.labels, piece.mask, piece.weights)
        done += len(piece.logits)
        yield Progress("calibrate", done, plan.rows)
    if files.unmatched:
        yield Progress("calibrate", note=f"{files.unmatched:,} rows of scores have no labels by {key!r}; left out")
    if not done:
        raise DataError("no row has both scores and labels; check --key and the files")
    thresholds = between(tune_thresholds(histogram, wanted, scores_of), files.kind)
    document = thresholds.to_json(list(files.label_names))
    write_json(Path(out), document)
    return document


def _part_names(plan: Plan) -> list[str]:
    """Where the scores of each shard go, below the output folder: the input's own relative path, made distinct."""
    names: list[str] = []
    for index, shard in enumerate(plan.shards):
        parts = [part for part in Path(shard.source.relative).parts if part not in ("..", "/", ".")]
        name = str(Path(*parts).with_suffix(".parquet"))
        names.append(name if name not in names else f"{index:05d}/{name}")
    return names


def _clear_scores(folder: Path) -> None:
    """Remove an earlier output: its mark first, then its parts."""
    (folder / "_SUCCESS").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*.parquet")):
        path.unlink()


def _with_keys(batch: Batch, columns: Mapping[str, pa.Array]) -> pa.Table:
    keys = {} if batch.keys is None else {name: batch.keys.column(name) for name in batch.keys.column_names}
    return pa.table(keys | dict(columns), metadata={KIND_KEY: PROBABILITY})
