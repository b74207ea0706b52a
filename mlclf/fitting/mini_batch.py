"""Mini-batch training: all values of l2 and all folds side by side, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlclf.config.optimizers import Stepper
from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.fitting.certificate import certificate_lines, certificate_of, head_optimality
from mlclf.fitting.preparation.fit_data import CHUNK_ROWS, FitData
from mlclf.fitting.preparation.fit_rows import ModelInputs, RowsInFiles
from mlclf.fitting.resuming import check_identity, identity_of
from mlclf.fitting.trained_models import TrainedModels
from mlclf.fitting.training_log import TrainingLog, epoch_line
from mlclf.progress import Progress
from mlclf.training.fold_levels import level_heads
from mlclf.training.hold_out import HoldOut
from mlclf.training.mini_batch.candidate_heads import Candidate, CandidateHeads
from mlclf.training.mini_batch.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclf.training.mini_batch.device_pool import DevicePool
from mlclf.training.mini_batch.loop import Training, TrainingPlan
from mlclf.training.mini_batch.transfer import on_device
from mlclf.training.models import LinearHead

MINI_BATCH_CS = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""C of the candidates of l2 that are run beside each other."""

MAX_CANDIDATE_CELLS = 1 << 23
TARGET_STEPS = 20_000
CHECKPOINT_SECONDS = 60.0
"""Inside an epoch a checkpoint is written after each such time, so that little of a long epoch is lost."""
MAX_EPOCHS, MAX_WHOLE_EPOCHS = 50, 500
"""Of mini-batches, and of epochs that are one step each."""


@dataclass(frozen=True)
class Stage:
    """One training of a fit: that of the candidates, or of the final model on all rows.

    Attributes:
        name: the folder of its checkpoints.
        parts: of the split, whose rows are drawn; None for all.
        batch_rows: rows of a batch.
        epochs: at most.
        judged: whether held-out rows say which epoch and candidate is best.
        first_epoch: number of its first epoch in the logs.
    """

    name: str
    plan: TrainingPlan
    parts: list[int] | None
    batch_rows: int
    epochs: int
    judged: bool
    first_epoch: int = 0


def train_mini_batch(
    data: FitData,
    files: RowsInFiles,
    inputs: ModelInputs,
    log: TrainingLog,
    *,
    checkpoints: Path,
    optimizer: Stepper,
    device: torch.device,
    resume: bool,
) -> Generator[Progress, None, TrainedModels]:
    """Train all candidates side by side, choose the best by held-out loss, and refit on all rows after folds."""
    pool = yield from files.on_device(device, inputs.rows)
    identity = identity_of(data)
    fit = _MiniBatchFit(data, files, inputs, log, checkpoints, identity, optimizer, device, pool, resume)
    return (yield from fit.run())


@dataclass(frozen=True)
class _MiniBatchFit:
    """The trainings of a fit, one after the other.

    Attributes:
        identity: what tells the fit from others, in each checkpoint.
        pool: the rows on the device; None where they are copied to it batch by batch.
    """

    data: FitData
    files: RowsInFiles
    inputs: ModelInputs
    log: TrainingLog
    checkpoints: Path
    identity: dict[str, Any]
    optimizer: Stepper
    device: torch.device
    pool: DevicePool | None
    resume: bool

    @property
    def settings(self) -> Settings:
        return self.data.asked.settings

    @property
    def hold_out(self) -> HoldOut:
        return self.data.hold_out

    def run(self) -> Generator[Progress, None, TrainedModels]:
        """Train the candidates, then the final model unless the best candidate is it."""
        hold_out, count = self.hold_out, self.hold_out.num_models
        candidates = self._candidates()
        stage = self._stage("search" if hold_out.refit else "final", candidates, judged=hold_out.chooses)
        training = yield from self._trained(stage)
        best = self._best_candidate(training)
        state = training.best.weights or training.heads.state_dict()
        held_out = [training.heads.head(best * count + model, state).cpu() for model in range(count)]
        final = held_out[0]
        if hold_out.refit:
            level_heads(held_out, self.inputs.rows.batches(), self.data.totals.of(hold_out.trained).totals)
            best_epochs = training.best.epochs[best * count : (best + 1) * count]
            everything = Candidate((1.0,) * hold_out.trained.shape[1], candidates[best * count].l2)
            epochs = self.settings.training.epochs or max(1, 1 + max(best_epochs))
            stage = self._stage("final", [everything], judged=False, epochs=epochs, first_epoch=training.epoch)
            training = yield from self._trained(stage)
            final = training.heads.head(0).cpu()
        l2 = torch.full((self.data.num_labels,), candidates[best * count].l2, dtype=torch.float64)
        certificate = yield from self._certificate(final, candidates[best * count].l2)
        return TrainedModels(held_out, final, self.inputs, self.optimizer.name, l2, certificate=certificate)

    def _certificate(self, final: LinearHead, l2: float) -> Generator[Progress, None, dict[str, Any] | None]:
        """The certificate of the model; None where l2 was chosen or training may have stopped early."""
        settings = self.settings
        chosen = settings.optimizer.l2 == "auto" and self.hold_out.chooses
        stops_early = settings.training.epochs is None and self.hold_out.chooses
        if chosen or stops_early or settings.model.hidden:
            return None
        found = head_optimality(self.data, self.inputs.rows, final, l2)
        if found is None:
            note = "weights are too many to measure how near the optimum they are: the run has no certificate"
            yield Progress("training", note=note)
            return None
        everything = torch.ones(self.data.num_labels, dtype=torch.bool)
        penalised = l2 > 0 or settings.optimizer.l1 > 0
        certificate = certificate_of(found, self.data.statistics.label_names, penalised=penalised, reached=everything)
        yield from certificate_lines(certificate)
        return certificate

    def _candidates(self) -> list[Candidate]:
        """One candidate for each l2 and each of the R models of the hold-out, at index l2 · R + model."""
        l2 = self.settings.optimizer.l2
        total = max(self.data.mean_total, 1e-300)
        if l2 != "auto":
            strengths = [float(l2)]
        elif not self.hold_out.chooses:
            strengths = [1 / total]
        else:
            features = self.inputs.features
            width = self.data.num_labels * self.hold_out.num_models * (features.num_dense + features.vocabulary_size)
            count = max(1, min(len(MINI_BATCH_CS), MAX_CANDIDATE_CELLS // max(1, width)))
            middle = len(MINI_BATCH_CS) // 2
            start = max(0, middle - (count - 1) // 2)
            strengths = [1 / (c * total) for c in MINI_BATCH_CS[start : start + count]]
        rows = [tuple(row) for row in self.hold_out.trained.tolist()]
        return [Candidate(row, strength) for strength in strengths for row in rows]

    def _stage(
        self, name: str, candidates: list[Candidate], *, judged: bool, epochs: int | None = None, first_epoch: int = 0
    ) -> Stage:
        settings, lr = self.settings, self.settings.optimizer.lr
        trained = torch.tensor([candidate.trained for candidate in candidates], dtype=torch.float64)
        parts = training_parts(trained)
        drawn, totals = self.data.drawn_rows(parts), self.data.totals.of(trained)
        full_batch = settings.training.batch_rows == "all"
        batch_rows = self._batch_rows(drawn, len(candidates))
        steps_per_epoch = 1 if full_batch else math.ceil(drawn / batch_rows)
        most = MAX_WHOLE_EPOCHS if full_batch else MAX_EPOCHS
        default = max(3, min(most, math.ceil(TARGET_STEPS / steps_per_epoch)))
        epochs = epochs or settings.training.epochs or default
        plan = TrainingPlan(
            candidates,
            self.data.pos_weight,
            torch.where(totals.totals > 0, drawn / totals.totals.clamp_min(1e-300), 0.0),
            totals.constant(),
            self.optimizer,
            lr,
            settings.optimizer.l1,
            epochs * steps_per_epoch if lr is None else None,
            drawn,
            self.device,
            self._precision(),
            full_batch,
        )
        return Stage(name, plan, parts, batch_rows, epochs, judged, first_epoch)

    def _batch_rows(self, drawn: int, num_candidates: int) -> int:
        chosen = self.settings.training.batch_rows
        cells = self.data.num_labels * num_candidates
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

    def _new_training(self, plan: TrainingPlan) -> Training:
        """A training before its first step: biases at the prior, hidden layers at random by the seed."""
        features = self.inputs.features
        torch.manual_seed(self.settings.training.seed)
        heads = CandidateHeads(
            len(plan.candidates),
            features.num_dense,
            features.vocabulary_size,
            self.data.num_labels,
            self.settings.model.hidden,
        )
        trained = torch.tensor([candidate.trained for candidate in plan.candidates], dtype=torch.float64)
        priors = self.data.totals.of(trained).prior_logits(self.data.pos_weight)
        heads.start_biases(torch.where(plan.constant | (plan.lr is None), priors, 0.0).float())
        return Training(plan, heads)

    def _trained(self, stage: Stage) -> Generator[Progress, None, Training]:
        """Train until the last epoch, or until the held-out loss has stopped falling; a checkpoint after each epoch."""
        training = self._new_training(stage.plan)
        if self.resume:
            yield from self._go_on(stage, training)
        stream = self.files.stream(stage.batch_rows, shuffle=self.settings.training.shuffle, parts=stage.parts)
        if self.pool is not None:
            stream = BatchStream(stream.order, self.pool, stream.num_rows)
        if not self._ended(stage, training):
            self.log.cut_steps(stage.first_epoch + training.epoch, training.step)
        while not self._ended(stage, training):
            started = time.perf_counter()
            yield from self._epoch(stage, training, stream)
            seconds = time.perf_counter() - started
            losses = self._judge(training) if stage.judged else []
            epoch, train_loss, valid_loss = training.epoch - 1, float(training.train_loss.mean()), math.nan
            if losses:
                always = self.settings.training.epochs is not None
                training.best.keep(training.heads, epoch, losses, always=always)
                valid_loss = float(self._by_l2(losses).min())
            number = stage.first_epoch + epoch
            line = epoch_line(number, training.step, training.rows, seconds, train_loss, valid_loss)
            self.log.add_epoch(line)
            self._save(stage, training)
            note = f"epoch {epoch}: training loss {train_loss:.5f}"
            note += f", held-out log-loss {valid_loss:.5f}" if math.isfinite(valid_loss) else ""
            yield Progress("training", training.rows, stage.plan.drawn_rows, note)
        return training

    def _epoch(self, stage: Stage, training: Training, stream: BatchStream) -> Iterator[Progress]:
        saved = time.perf_counter()
        for record in training.run_epoch(stream):
            yield Progress(f"epoch {record.epoch}", record.rows, stage.plan.drawn_rows)
            self.log.add_step(stage.first_epoch + record.epoch, record)
            if time.perf_counter() - saved > CHECKPOINT_SECONDS and not stage.plan.full_batch:
                self._save(stage, training, stream.state_dict())
                saved = time.perf_counter()

    def _ended(self, stage: Stage, training: Training) -> bool:
        if training.epoch >= stage.epochs:
            return True
        if not stage.judged or self.settings.training.epochs is not None or training.epoch == 0:
            return False
        return training.epoch - 1 - max(training.best.epochs) >= self.settings.training.patience

    def _save(self, stage: Stage, training: Training, position: dict[str, Any] | None = None) -> None:
        """Write a checkpoint, inside an epoch with the position in the stream of batches."""
        state = training.state(position) | self.identity | {"stage": stage.name, "log": self.log.lines}
        save_checkpoint(self.checkpoints / stage.name, training.tensors(), state)

    def _go_on(self, stage: Stage, training: Training) -> Iterator[Progress]:
        """Resume from the last intact checkpoint of this stage, and rewrite the log as it was then."""
        folder, lines = self.checkpoints / stage.name, self.log.lines
        found = load_checkpoint(folder) or Checkpoint({}, {}, [])
        for problem in found.problems:
            goes_on = "the one before is taken" if found.state else "this stage starts again"
            yield Progress.warning("training", f"{problem}; {goes_on}")
        if found.state:
            check_identity(found.state, self.identity | {"stage": stage.name}, self.data.asked.plans, str(folder))
            training.restore(found.tensors, found.state)
            lines = list(found.state["log"])
        self.log.rewrite(lines)

    def _judge(self, training: Training) -> list[float]:
        """Held-out log-loss of every candidate, mean over labels, after the shift for pos_weight."""
        heads, count = training.heads.eval(), self.hold_out.num_models
        shift, judge = self.data.pos_weight.log().to(self.device), self.hold_out.judge.to(self.device)
        models = torch.arange(len(training.plan.candidates), device=self.device) % count
        sums = torch.zeros(len(models), self.data.num_labels, dtype=torch.float64, device=self.device)
        totals = torch.zeros_like(sums)
        parts = (self.hold_out.judge >= 0).nonzero()[:, 0].tolist()
        rows = self.inputs.rows.batches(parts)
        if self.pool is not None:
            rows = self.pool.in_order(self.data.chunk_rows, parts)
        with torch.inference_mode():
            for batch in on_device(rows, self.device):
                for piece in _pieces(batch, self.data.num_labels * len(models)):
                    model = judge[piece.parts.long()]
                    logits = heads(piece).double() - shift
                    loss = -torch.nn.functional.logsigmoid(-logits) - piece.labels[:, None, :] * logits
                    cells = piece.weights[:, None].double() * (1 if piece.label_mask is None else piece.label_mask)
                    own = (model[:, None] == models).double()
                    sums += torch.einsum("brk,bk,br->rk", loss, cells.expand(-1, self.data.num_labels), own)
                    totals += torch.einsum("bk,br->rk", cells.expand(-1, self.data.num_labels), own)
        means = torch.where(totals > 0, sums / totals, torch.nan).nanmean(1)
        return [value if math.isfinite(value) else math.inf for value in means.tolist()]

    def _by_l2(self, losses: Sequence[float]) -> Tensor:
        """Held-out loss of each l2, mean over its models: float64."""
        return torch.tensor(losses, dtype=torch.float64).reshape(-1, self.hold_out.num_models).mean(1)

    def _best_candidate(self, training: Training) -> int:
        """Index of the l2 whose models have the least mean held-out loss."""
        count = self.hold_out.num_models
        losses = torch.tensor(training.best.losses).reshape(-1, count).mean(1)
        return int(losses.argmin()) if self.hold_out.chooses else 0


def training_parts(trained: Tensor) -> list[int] | None:
    """Parts of the split that any of the models is trained on; None for all of them."""
    used = (trained > 0).any(0)
    return None if bool(used.all()) else used.nonzero()[:, 0].tolist()


def _pieces(batch: Batch, cells_per_row: int) -> Iterator[Batch]:
    """A batch in slices of rows whose logits take at most 2 MiB in float64: larger temporaries are fresh memory."""
    step = max(1, (1 << 18) // max(1, cells_per_row))
    if len(batch) <= step:
        yield batch
        return
    for start in range(0, len(batch), step):
        yield batch.slice(start, min(start + step, len(batch)))
