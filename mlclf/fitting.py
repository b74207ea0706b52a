"""The fit job: data and settings → a run folder. Each stage is a method, in the order in which they happen."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlclf.config import Arguments, RunFile, Settings
from mlclf.data.batch import Batch
from mlclf.data.loader import ParquetLoader, PoolShape, lanes_for, pool_shape, reader_bytes
from mlclf.data.rows import RowEncoder
from mlclf.data.schema import Schema, check_shards, find_schema
from mlclf.data.shards import Plan, make_plan
from mlclf.data.splits import CHOICE, Split
from mlclf.data.statistics import Statistics, fit_statistics, time_cut
from mlclf.decisions.calibration import CALIBRATION_BINS, Calibration, calibrated_loss, fit_calibration
from mlclf.decisions.evaluation import Evaluation
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.scores import scores_of
from mlclf.decisions.thresholds import Thresholds, fallback_thresholds, parse_objective, tune_thresholds
from mlclf.errors import ConfigError
from mlclf.files import append_line, folder_is_empty, swap_folder, write_json, write_text
from mlclf.runs import RunFolder, log_line
from mlclf.training.candidates import FullBatchFit, HoldOut, LabelTotals, l2_grid
from mlclf.training.checkpoint import load_checkpoint, save_checkpoint
from mlclf.training.losses import pos_weights
from mlclf.training.models import LinearHead, head_from_columns
from mlclf.training.solvers import Chunk
from mlclf.training.steps import Candidate, CandidateHeads, StepRecord, Training

FOLDS_UP_TO_ROWS = 200_000
DEFAULT_FOLDS = 5
DEFAULT_FRACTION = 0.1
CHUNK_ROWS = 65_536
RESIDENT_SHARE = 4
"""Data is held in memory where its encoded rows take less than the budget divided by this."""

MINI_BATCH_CS = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""C of the candidates of l2 that mini-batch training runs beside each other."""

MAX_CANDIDATE_CELLS = 1 << 23
TARGET_STEPS = 20_000
MAX_EPOCHS = 50


@dataclass(frozen=True)
class Progress:
    """Where a job is: `done` of `total` rows (0: unknown) of a stage, and a line to show, if any."""

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass
class Trained:
    """What training leaves.

    Attributes:
        held_out: the R models that saw only some parts; they score the held-out rows.
        final: the model of the run.
        pos_weight: [K] float64.
    """

    held_out: Sequence[LinearHead]
    final: LinearHead
    pos_weight: Tensor


def resolve_split(arguments: Arguments, settings: Settings, plan: Plan, has_valid: bool) -> Split:
    """The split that the arguments ask for, or the default for this number of rows."""
    seed = settings.training.seed
    if has_valid:
        return Split(kind="none")
    if arguments.valid_by is not None:
        kind, _, column = arguments.valid_by.partition(":")
        column_of = {
            "group": column if kind == "group" else arguments.group,
            "time": column if kind == "time" else None,
        }
        return Split("held_out", fraction=DEFAULT_FRACTION, seed=seed, group=column_of["group"], time=column_of["time"])
    if arguments.folds is not None:
        return Split("folds", num_folds=arguments.folds, seed=seed, group=arguments.group)
    fraction = arguments.valid_fraction
    if fraction is None and plan.rows <= FOLDS_UP_TO_ROWS:
        return Split("folds", num_folds=min(DEFAULT_FOLDS, max(2, plan.rows)), seed=seed, group=arguments.group)
    if fraction == 0:
        return Split(kind="none")
    return Split("held_out", fraction=fraction or DEFAULT_FRACTION, seed=seed, group=arguments.group)


class FitJob:
    """One fit, from arguments to a finished run folder."""

    def __init__(self, run_file: RunFile, *, resume: bool, overwrite: bool) -> None:
        self.arguments, self.settings = run_file
        self.run_file = run_file
        self.resume, self.overwrite = resume, overwrite
        self.device = _device(self.settings.runtime.device)
        self.threads = self.settings.runtime.threads or min(os.cpu_count() or 1, 16)
        self.budget = self.settings.runtime.memory_budget

    def steps(self) -> Iterator[Progress]:
        """Do the job; yields progress, and leaves the run folder finished at `path`."""
        parse_objective(self.settings.thresholds.objective)
        self._refuse_what_is_not_there()
        out = Path(self.arguments.out or "")
        if not (self.resume or self.overwrite) and not folder_is_empty(out):
            raise ConfigError(f"{out}: the folder is not empty; give another --out, or --resume or --overwrite")
        yield from self._prepare()
        self.path = out
        work = out
        if self.overwrite and out.exists():
            _refuse_foreign(out)
            work = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.resolve().parent))
        self.folder = RunFolder(work)
        created = not work.exists()
        try:
            work.mkdir(parents=True, exist_ok=True)
            self.folder.write_config(self.run_file.to_yaml())
            trained = yield from self._train()
            yield from self._decide(trained)
            if work != out:
                swap_folder(work, out)
        except BaseException:
            if work != out or (created and not (work / "checkpoints").exists()):
                shutil.rmtree(work, ignore_errors=True)
            raise

    def _refuse_what_is_not_there(self) -> None:
        """Settings that later releases fill."""
        settings = self.settings
        if settings.data.where is not None:
            raise ConfigError("data.where is not available in this release; filter the rows where the data is written")
        if settings.data.on_corrupt == "skip":
            raise ConfigError("data.on_corrupt=skip is not available in this release; only 'error' is")

    # ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self) -> Iterator[Progress]:
        """Footers, schema, split, and the one pass of statistics."""
        arguments, settings = self.arguments, self.settings
        if not arguments.train or not arguments.labels:
            raise ConfigError("fit needs data and --labels; see 'mlclf fit --help'")
        self.plan = make_plan(list(arguments.train))
        self.valid_plan = make_plan(list(arguments.valid)) if arguments.valid else None
        for plan in filter(None, (self.plan, self.valid_plan)):
            for warning in plan.warnings:
                yield Progress("data", note=warning)
        self.split = resolve_split(arguments, settings, self.plan, self.valid_plan is not None)
        others = [name for name in (self.split.time, self.split.group) if name is not None]
        self.schema = find_schema(
            self.plan,
            list(arguments.labels),
            features=list(arguments.columns or ()),
            exclude=list(arguments.exclude or ()),
            weight=arguments.weight,
            key=arguments.key,
            group=arguments.group,
            roles=settings.features.roles,
            other_columns=others,
        )
        self.schema = _without(self.schema, self.split.group)
        if self.valid_plan is not None:
            check_shards(self.valid_plan, self.schema)
        for name, reason in self.schema.ignored:
            yield Progress("data", note=f"column {name!r} is left out: {reason}")
        if self.split.time is not None:
            cut = time_cut(self.plan, self.split.time, self.split.fraction, self.threads)
            self.split = Split(
                "held_out",
                self.split.part,
                self.split.fraction,
                seed=self.split.seed,
                group=self.split.group,
                time=self.split.time,
                cut=cut,
            )
        self.hold_out = self._hold_out()
        yield from self._statistics()

    def _hold_out(self) -> HoldOut:
        if self.valid_plan is not None:
            return HoldOut.given()
        if self.split.kind == "folds":
            return HoldOut.folds(self.split.num_folds)
        return HoldOut.halves() if self.split.kind == "held_out" else HoldOut.nothing()

    def _statistics(self) -> Iterator[Progress]:
        features = self.settings.features
        passes = fit_statistics(
            self.plan,
            self.schema,
            self.split,
            label_values=self.settings.data.label_values,
            standardize=features.standardize,
            vocabulary_levels=features.vocabulary_levels,
            hash_limit=features.hash_limit,
            hash_buckets=features.hash_buckets,
            threads=self.threads,
            lanes=lanes_for(self.budget, self._reader()),
        )
        statistics: Statistics | None = None
        for rows, statistics in passes:
            yield Progress("statistics", rows, self.plan.rows)
        assert statistics is not None
        self.statistics = statistics
        for warning in statistics.warnings:
            yield Progress("statistics", note=warning)
        counts = statistics.counts
        self.totals = LabelTotals(torch.from_numpy(counts.positives), torch.from_numpy(counts.totals))
        if self.hold_out.trained.shape[1] > counts.positives.shape[0]:
            nothing = torch.zeros_like(self.totals.positives)
            self.totals = LabelTotals(
                torch.cat([self.totals.positives, nothing]), torch.cat([self.totals.totals, nothing])
            )
        self.num_labels = len(statistics.label_names)
        one_class = self.totals.of(self.hold_out.final()).constant()[0].nonzero()[:, 0].tolist()
        if one_class:
            names = ", ".join(repr(statistics.label_names[index]) for index in one_class[:5])
            yield Progress("statistics", note=f"{len(one_class)} labels have one class only in training: {names}")
        self.encoder = self._encoder(self.split)
        self.pool = pool_shape(self.budget, statistics.row_bytes, self.plan.row_bytes, self._reader())

    def _reader(self) -> float:
        return reader_bytes(self.plan, len(self.schema.feature_columns) + len(self.schema.labels))

    def _encoder(self, split: Split) -> RowEncoder:
        return RowEncoder(
            self.schema, self.statistics.features, self.statistics.labels, self.num_labels, split, self.schema.weight
        )

    def _loader(self, batch_rows: int, *, shuffle: bool = False, parts: Sequence[int] | None = None) -> ParquetLoader:
        return ParquetLoader(
            self.plan,
            self.encoder,
            self.pool,
            batch_rows=batch_rows,
            seed=self.settings.training.seed,
            shuffle=shuffle,
            parts=parts,
            threads=self.threads,
        )

    def _stream(self) -> Iterator[Batch]:
        """All rows in plan order, those of given validation data after them as part 1."""
        rows = min(CHUNK_ROWS, max(256, (1 << 25) // self.num_labels))
        yield from self._loader(rows)
        if self.valid_plan is not None:
            encoder = self._encoder(Split(kind="none", part=CHOICE))
            shape = PoolShape(1, self.pool.slab_rows, 0)
            yield from ParquetLoader(self.valid_plan, encoder, shape, batch_rows=rows, shuffle=False)

    def _batches(self) -> Iterable[Batch]:
        """The stream, from memory where it is held there."""
        return self.resident if self.resident is not None else self._stream()

    resident: list[Batch] | None = None

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _train(self) -> Generator[Progress, None, Trained]:
        positives = self.totals.of(self.hold_out.final())
        rule = self.settings.loss.pos_weight
        names = self.statistics.label_names
        self.pos_weight = pos_weights(rule, positives.positives[0], positives.totals[0], names)
        rows = self.plan.rows + (self.valid_plan.rows if self.valid_plan else 0)
        if rows * self.statistics.row_bytes <= self.budget / RESIDENT_SHARE:
            self.resident = list(self._stream())
        self.algorithm = self._algorithm()
        yield Progress("training", note=self._summary())
        return (yield from (self._full_batch() if self.algorithm == "lbfgs" else self._mini_batch()))

    def _summary(self) -> str:
        features = self.statistics.features
        held = (
            "in memory" if self.resident is not None else f"streamed, at most {self.pool.num_bytes >> 20} MiB at once"
        )
        return (
            f"{self.plan.rows:,} rows, {features.num_dense:,} dense inputs, {features.vocabulary_size:,} ids, "
            f"{self.num_labels:,} labels; {self.algorithm}, {held}"
        )

    def _algorithm(self) -> str:
        settings = self.settings
        name, training = settings.optimizer.name, settings.training
        if name != "auto":
            return name
        stepwise = settings.optimizer.lr is not None or training.epochs is not None or settings.model.hidden
        if stepwise or training.batch_rows not in (None, "all"):
            return "adam"
        return "lbfgs" if self.resident is not None or training.batch_rows == "all" else "adam"

    def _total(self) -> float:
        """Mean over labels of the row weights that observe them, of the final model."""
        return float(self.totals.of(self.hold_out.final()).totals.mean())

    def _full_batch(self) -> Generator[Progress, None, Trained]:
        vocabulary = self.statistics.features.vocabulary_size
        chunks = self._chunks(vocabulary)
        num_inputs = self.statistics.features.num_dense + vocabulary + 1
        fit = FullBatchFit(
            chunks,
            self.totals,
            self.hold_out,
            self.pos_weight,
            num_inputs,
            calibrated_loss,
            l1=self.settings.optimizer.l1,
        )
        self._cut_logs(0)
        started = time.perf_counter()
        for number, progress in enumerate(fit.run(self._l2s())):
            seconds = time.perf_counter() - started
            note = f"l2 {progress.l2:.3g}"
            note += f", held-out log-loss {progress.valid_loss:.5f}" if math.isfinite(progress.valid_loss) else ""
            yield Progress("training", note=note)
            self._log(number, number, self.plan.rows, seconds, progress.train_loss, progress.valid_loss)
            started = time.perf_counter()
        assert fit.result is not None
        if not fit.result.converged:
            yield Progress(
                "training",
                note="some labels stopped short of the optimum: their classes can be separated "
                "and optimizer.l2 does not hold them",
            )
        dense = self.statistics.features.num_dense
        held_out = [head_from_columns(model, dense, vocabulary) for model in fit.result.models]
        return Trained(held_out, head_from_columns(fit.result.final, dense, vocabulary), self.pos_weight)

    def _chunks(self, vocabulary: int) -> Callable[[], Iterable[Chunk]]:
        if self.resident is None:
            return lambda: (Chunk.of(batch, vocabulary) for batch in self._stream())
        held = [Chunk.of(batch, vocabulary) for batch in self.resident]
        return lambda: held

    def _l2s(self) -> float | list[float]:
        l2 = self.settings.optimizer.l2
        total = self._total()
        if l2 != "auto":
            return float(l2)
        if not self.hold_out.chooses:
            return 1.0 / max(total, 1e-300)
        search = self.settings.search
        return l2_grid(total, search.c_low, search.c_high, search.steps_per_decade)

    def _log(self, epoch: int, step: int, rows: int, seconds: float, train: float, valid: float) -> None:
        record = {
            "epoch": epoch,
            "step": step,
            "rows": rows,
            "seconds": round(seconds, 6),
            "train_loss": train if math.isfinite(train) else None,
            "valid_loss": valid if math.isfinite(valid) else None,
        }
        append_line(self.folder.file("log.jsonl"), log_line(record))

    def _mini_batch(self) -> Generator[Progress, None, Trained]:
        """Train all candidates beside each other, keep the best, and refit where folds were used."""
        candidates = self._candidates()
        training = self._training(candidates, self.hold_out.trained, "search" if self.hold_out.refit else "final")
        yield from self._epochs(training, self.hold_out.trained, training_parts(self.hold_out.trained))
        best = self._best_candidate(training)
        count = self.hold_out.num_models
        state = training.best or training.heads.state_dict()
        held_out = [training.heads.head(best * count + model, state).cpu() for model in range(count)]
        if not self.hold_out.refit:
            return Trained(held_out, held_out[0], self.pos_weight)
        best_epochs = training.best_epoch[best * count : (best + 1) * count]
        epochs = self.settings.training.epochs or max(1, 1 + max(best_epochs))
        final = self._training(
            [Candidate((1.0,) * self.hold_out.trained.shape[1], candidates[best * count].l2)],
            self.hold_out.final(),
            "final",
            epochs=epochs,
        )
        yield from self._epochs(final, self.hold_out.final(), None, judged=False)
        return Trained(held_out, final.heads.head(0).cpu(), self.pos_weight)

    def _candidates(self) -> list[Candidate]:
        """For each l2, the models of the hold-out: candidate = index of l2 · R + model."""
        l2 = self.settings.optimizer.l2
        total = max(self._total(), 1e-300)
        if l2 != "auto":
            strengths = [float(l2)]
        elif not self.hold_out.chooses:
            strengths = [1 / total]
        else:
            inputs = self.statistics.features.num_dense + self.statistics.features.vocabulary_size
            width = self.num_labels * self.hold_out.num_models * inputs
            count = max(1, min(len(MINI_BATCH_CS), MAX_CANDIDATE_CELLS // max(1, width)))
            middle = len(MINI_BATCH_CS) // 2
            start = max(0, middle - (count - 1) // 2)
            strengths = [1 / (c * total) for c in MINI_BATCH_CS[start : start + count]]
        rows = [tuple(row) for row in self.hold_out.trained.tolist()]
        return [Candidate(row, strength) for strength in strengths for row in rows]

    def _training(self, candidates: list[Candidate], trained: Tensor, name: str, epochs: int | None = None) -> Training:
        settings, features = self.settings, self.statistics.features
        trained = torch.tensor([candidate.trained for candidate in candidates], dtype=torch.float64)
        torch.manual_seed(settings.training.seed)
        heads = CandidateHeads(
            len(candidates), features.num_dense, features.vocabulary_size, self.num_labels, settings.model.hidden
        )
        totals = self.totals.of(trained)
        lr = settings.optimizer.lr
        constant, priors = totals.constant(), totals.prior_logits(self.pos_weight)
        heads.start_biases(torch.where(constant | (lr is None), priors, 0.0).float())
        parts = training_parts(trained)
        drawn = sum(count for part, count in self.statistics.rows.items() if parts is None or part in parts)
        full_batch = settings.training.batch_rows == "all"
        self.batch_rows = self._batch_rows(drawn, len(candidates))
        self.max_epochs = epochs or settings.training.epochs or self._default_epochs(drawn, full_batch)
        steps = self.max_epochs * (1 if full_batch else math.ceil(drawn / self.batch_rows))
        scale = torch.where(totals.totals > 0, drawn / totals.totals.clamp_min(1e-300), 0.0)
        training = Training(
            heads,
            candidates,
            self.pos_weight,
            scale,
            constant,
            self.algorithm if self.algorithm != "lbfgs" else "adam",
            lr,
            settings.optimizer.l1,
            steps if lr is None else None,
            drawn,
            self.device,
            self._precision(),
            full_batch,
        )
        self.checkpoints = self.folder.file("checkpoints") / name
        return training

    def _default_epochs(self, drawn: int, full_batch: bool) -> int:
        steps_per_epoch = 1 if full_batch else math.ceil(drawn / self.batch_rows)
        return max(3, min(MAX_EPOCHS if not full_batch else 500, math.ceil(TARGET_STEPS / steps_per_epoch)))

    def _batch_rows(self, drawn: int, num_candidates: int) -> int:
        chosen = self.settings.training.batch_rows
        cells = self.num_labels * num_candidates
        if isinstance(chosen, int):
            return chosen
        if chosen == "all":
            return max(1, min(CHUNK_ROWS, (1 << 24) // cells))
        by_size = 1 << max(5, min(12, int(math.log2(max(1, drawn) / 50 + 1))))
        return max(1, min(by_size, (1 << 24) // cells))

    def _precision(self) -> str:
        precision = self.settings.training.precision
        if precision != "auto":
            return precision
        return "bf16" if self.device.type == "cuda" else "float32"

    def _epochs(
        self, training: Training, trained: Tensor, parts: list[int] | None, judged: bool = True
    ) -> Iterator[Progress]:
        """Epochs until the schedule ends or the held-out loss has stopped falling; a checkpoint after each."""
        self._resume(training)
        settings = self.settings.training
        loader = self._loader(self.batch_rows, shuffle=settings.shuffle, parts=parts)
        judged = judged and self.hold_out.chooses
        if training.epoch < self.max_epochs and not self._stopped(training, judged):
            self._cut_logs(self.epochs_before + training.epoch)
        while training.epoch < self.max_epochs and not self._stopped(training, judged):
            started = time.perf_counter()
            for record in training.run_epoch(loader):
                yield Progress(f"epoch {record.epoch}", record.rows, training.drawn_rows)
                self._log_step(record)
            seconds = time.perf_counter() - started
            losses = self._judge(training) if judged else []
            if judged:
                training.keep_best(losses, always=settings.epochs is not None)
            epoch = training.epoch - 1
            train_loss, valid_loss = float(training.train_loss.mean()), min(losses, default=math.nan)
            self._log(epoch + self.epochs_before, training.step, training.rows, seconds, train_loss, valid_loss)
            save_checkpoint(self.checkpoints, training.tensors(), training.state() | self._identity())
            note = f"epoch {epoch}: training loss {train_loss:.5f}"
            note += f", held-out log-loss {valid_loss:.5f}" if math.isfinite(valid_loss) else ""
            yield Progress("training", training.rows, training.drawn_rows, note)
        self.epochs_before += training.epoch

    epochs_before: int = 0

    def _stopped(self, training: Training, judged: bool) -> bool:
        if not judged or self.settings.training.epochs is not None or training.epoch == 0:
            return False
        return training.epoch - 1 - max(training.best_epoch) >= self.settings.training.patience

    def _identity(self) -> dict[str, Any]:
        return {"plan": self.plan.digest}

    def _resume(self, training: Training) -> None:
        found = load_checkpoint(self.checkpoints) if self.resume else None
        if found is None:
            return
        tensors, state = found
        if state.get("plan") != self.plan.digest:
            raise ConfigError(
                "the data has changed since the checkpoint was written (other files, sizes or row "
                "groups); put it back, or start again with --overwrite"
            )
        training.restore(tensors, state)

    def _cut_logs(self, epochs: int) -> None:
        """Leave what the first `epochs` epochs logged: later ones are trained again."""
        for name in ("log.jsonl", "steps.jsonl"):
            _cut_log(self.folder.file(name), epochs)

    def _log_step(self, record: StepRecord) -> None:
        line = {"epoch": record.epoch + self.epochs_before, "step": record.step, "rows": record.rows, "loss": record.loss}
        append_line(self.folder.file("steps.jsonl"), log_line(line))

    def _judge(self, training: Training) -> list[float]:
        """Held-out log-loss of every candidate, mean over labels, after the shift for pos_weight."""
        heads, count = training.heads.eval(), self.hold_out.num_models
        shift = self.pos_weight.log()
        sums = torch.zeros(len(training.candidates), self.num_labels, dtype=torch.float64)
        totals = torch.zeros_like(sums)
        with torch.inference_mode():
            for batch in self._batches():
                model = self.hold_out.judge[batch.parts.long()]
                if not (model >= 0).any():
                    continue
                for piece in _pieces(batch, self.num_labels * len(training.candidates)):
                    model = self.hold_out.judge[piece.parts.long()]
                    logits = heads(piece.to(self.device)).double().cpu() - shift
                    loss = -torch.nn.functional.logsigmoid(-logits) - piece.labels[:, None, :] * logits
                    cells = piece.weights[:, None].double() * (1 if piece.label_mask is None else piece.label_mask)
                    own = (model[:, None] == torch.arange(len(training.candidates)) % count).double()
                    sums += torch.einsum("brk,bk,br->rk", loss, cells.expand(-1, self.num_labels), own)
                    totals += torch.einsum("bk,br->rk", cells.expand(-1, self.num_labels), own)
        means = torch.where(totals > 0, sums / totals, torch.nan).nanmean(1)
        return [value if math.isfinite(value) else math.inf for value in means.tolist()]

    def _best_candidate(self, training: Training) -> int:
        """Index of the l2 whose models have the least mean held-out loss."""
        count = self.hold_out.num_models
        losses = torch.tensor(training.best_loss).reshape(-1, count).mean(1)
        return int(losses.argmin()) if self.hold_out.chooses else 0

    # ── decisions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _decide(self, trained: Trained) -> Iterator[Progress]:
        """Calibrate, tune thresholds, evaluate the held-out rows, and write the run."""
        names = self.statistics.label_names
        decides = bool((self.hold_out.decide >= 0).any())
        log_weights = trained.pos_weight.log()
        histogram = LabelHistogram(self.num_labels, CALIBRATION_BINS)
        if decides:
            yield Progress("calibration", note="fitting calibrator and thresholds on held-out rows")
            for logits, batch, rows in self._held_out(trained):
                histogram.update(logits, batch.labels[rows], _mask(batch, rows), batch.weights[rows])
            calibration = fit_calibration(histogram, log_weights)
        else:
            calibration = Calibration.none(self.num_labels)
            calibration.intercept.sub_(log_weights)
        histogram = LabelHistogram(self.num_labels)
        for logits, batch, rows in self._held_out(trained) if decides else ():
            logits = calibration.apply(logits)
            histogram.update(logits, batch.labels[rows], _mask(batch, rows), batch.weights[rows])
        thresholds = self._thresholds(histogram, decides)
        final = self.totals.of(self.hold_out.final())
        prevalences = ((final.positives + 0.5) / (final.totals + 1))[0]
        if decides:
            self._write_metrics(trained, calibration, thresholds, prevalences)
        trained.final.rescale(calibration.slope.float(), calibration.intercept.float())
        self.folder.write_schema(self.schema, names, prevalences)
        self.folder.write_features(self.statistics.features)
        self.folder.write_model(trained.final, calibration.bounds)
        self.folder.write_histogram(histogram)
        self.folder.write_thresholds(thresholds, names)
        self.folder.write_manifest(self._training_record())
        for line in self.statistics.features.counted():
            yield Progress("done", note=line)
        yield Progress("done", note=f"run written to {self.path}")

    def _held_out(self, trained: Trained) -> Iterator[tuple[Tensor, Batch, Tensor]]:
        """(logits [m, K] of held-out rows by the model that has not seen them, batch, rows [m] of the batch)."""
        heads = [head.eval() for head in trained.held_out]
        for batch in self._batches():
            model = self.hold_out.decide[batch.parts.long()]
            if not (model >= 0).any():
                continue
            with torch.inference_mode():
                logits = torch.stack([head.batch_logits(batch) for head in heads])
            rows = (model >= 0).nonzero()[:, 0]
            yield logits[model[rows], rows].clone(), batch, rows

    def _thresholds(self, histogram: LabelHistogram, decides: bool) -> Thresholds:
        settings = self.settings.thresholds
        objective = parse_objective(settings.objective)
        if not decides:
            final = torch.from_numpy(self.statistics.counts.positive_rows.sum(0))
            return fallback_thresholds(self.num_labels, final, str(objective))
        prior = 0.0 if settings.method == "plain" else 10.0
        return tune_thresholds(histogram, objective, scores_of, prior)

    def _write_metrics(
        self, trained: Trained, calibration: Calibration, thresholds: Thresholds, prevalences: Tensor
    ) -> None:
        evaluation = Evaluation(thresholds.thresholds, scores_of)
        for logits, batch, rows in self._held_out(trained):
            logits = calibration.apply(logits)
            evaluation.update(logits, scores_of(logits), batch.labels[rows], _mask(batch, rows), batch.weights[rows])
        report = evaluation.report(list(self.statistics.label_names), prevalences)
        write_json(self.folder.file("metrics.json"), report | {"data": "validation"})

    def _training_record(self) -> dict[str, Any]:
        files = [[shard.source.name, shard.source.size_bytes] for shard in self.plan.shards]
        return {"rows": self.plan.rows, "plan": self.plan.digest, "files": files, "algorithm": self.algorithm}


def training_parts(trained: Tensor) -> list[int] | None:
    """Parts of the split that any of the models is trained on; None for all of them."""
    used = (trained > 0).any(0)
    return None if bool(used.all()) else used.nonzero()[:, 0].tolist()


def _pieces(batch: Batch, cells_per_row: int) -> Iterator[Batch]:
    """A batch in slices of rows whose logits take at most 32 MiB in float64."""
    step = max(1, (1 << 22) // max(1, cells_per_row))
    if len(batch) <= step:
        yield batch
        return
    for start in range(0, len(batch), step):
        yield batch.slice(start, min(start + step, len(batch)))


def _mask(batch: Batch, rows: Tensor) -> Tensor | None:
    return None if batch.label_mask is None else batch.label_mask[rows]


def _without(schema: Schema, group: str | None) -> Schema:
    """The schema with the column that names the groups of the split taken out of the inputs."""
    kept = tuple(feature for feature in schema.features if feature.name != group)
    return Schema(kept, schema.labels, schema.tags, schema.weight, schema.key, schema.group, schema.ignored)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"runtime.device={name}: torch finds no CUDA device here; use 'auto' or 'cpu'")
    return device


def _refuse_foreign(path: Path) -> None:
    """Only a run may be overwritten: a folder with other files in it is not touched."""
    if not folder_is_empty(path) and not RunFolder(path).started:
        raise ConfigError(f"{path}: --overwrite replaces runs only, and this folder is none; give another --out")


def _cut_log(path: Path, epochs: int) -> None:
    """Leave the lines of the first `epochs` epochs: those after the checkpoint are written again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    whole = [line for line in lines if line.endswith("}")]  # a crash may have torn the last one
    kept = [line for line in whole if json.loads(line)["epoch"] < epochs]
    write_text(path, "".join(line + "\n" for line in kept))
