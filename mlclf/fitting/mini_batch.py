"""Mini-batch training: candidates of l2 and folds beside each other, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.files import append_line, parsed_json, write_bytes, write_text
from mlclf.fitting.certificate import certificate_lines, certificate_of, head_optimality
from mlclf.fitting.data_preparation import CHUNK_ROWS, PreparedData
from mlclf.fitting.resuming import binding, check_binding
from mlclf.fitting.trained_models import Trained, log_epoch
from mlclf.progress import Progress
from mlclf.run_folder import RunFolder, log_line
from mlclf.training.fold_levels import level_heads
from mlclf.training.mini_batch.candidate_heads import Candidate, CandidateHeads
from mlclf.training.mini_batch.checkpoint import load_checkpoint, save_checkpoint
from mlclf.training.mini_batch.device_pool import DevicePool
from mlclf.training.mini_batch.loop import StepRecord, Training
from mlclf.training.mini_batch.transfer import on_device

MINI_BATCH_CS = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""C of the candidates of l2 that are run beside each other."""

MAX_CANDIDATE_CELLS = 1 << 23
TARGET_STEPS = 20_000
CHECKPOINT_SECONDS = 60.0
"""Inside an epoch a checkpoint is written after each such time, so that little of a long epoch is lost."""
MAX_EPOCHS = 50


class MiniBatchFit:
    """Trains all candidates in one stream, keeps the best, and refits on all rows where folds were used."""

    def __init__(
        self,
        data: PreparedData,
        settings: Settings,
        pos_weight: Tensor,
        folder: RunFolder,
        *,
        algorithm: str,
        device: torch.device,
        resume: bool,
    ) -> None:
        self.data, self.settings, self.pos_weight, self.folder = data, settings, pos_weight, folder
        self.algorithm, self.device, self.resume = algorithm, device, resume
        self.hold_out = data.hold_out
        self.pool: DevicePool | None = None
        self.epochs_before = 0
        self.log = folder.file("log.jsonl")
        self.lines: list[str] = []

    def run(self) -> Generator[Progress, None, Trained]:
        """Train all candidates beside each other, keep the best, and refit where folds were used."""
        self.pool = yield from self.data.hold_on(self.device)
        candidates = self._candidates()
        training = self._training(candidates, self.hold_out.trained, "search" if self.hold_out.refit else "final")
        yield from self._epochs(training, self.hold_out.trained, training_parts(self.hold_out.trained))
        best = self._best_candidate(training)
        count = self.hold_out.num_models
        state = training.best or training.heads.state_dict()
        held_out = [training.heads.head(best * count + model, state).cpu() for model in range(count)]
        l2 = torch.full((self.data.num_labels,), candidates[best * count].l2, dtype=torch.float64)
        if not self.hold_out.refit:
            return (yield from self._certified(Trained(held_out, held_out[0], self.pos_weight, self.algorithm, l2)))
        level_heads(held_out, self.data.batches(), self.data.totals.of(self.hold_out.trained).totals)
        best_epochs = training.best_epoch[best * count : (best + 1) * count]
        epochs = self.settings.training.epochs or max(1, 1 + max(best_epochs))
        final = self._training(
            [Candidate((1.0,) * self.hold_out.trained.shape[1], candidates[best * count].l2)],
            self.hold_out.final(),
            "final",
            epochs=epochs,
        )
        yield from self._epochs(final, self.hold_out.final(), None, judged=False)
        return (
            yield from self._certified(
                Trained(held_out, final.heads.head(0).cpu(), self.pos_weight, self.algorithm, l2)
            )
        )

    def _certified(self, trained: Trained) -> Generator[Progress, None, Trained]:
        """What was trained, with a certificate where l2 was fixed and nothing stopped the training early."""
        settings = self.settings
        chosen = settings.optimizer.l2 == "auto" and self.hold_out.chooses
        stops_early = settings.training.epochs is None and self.hold_out.chooses
        if chosen or stops_early or settings.model.hidden:
            return trained
        l2, l1 = float(trained.l2[0]), settings.optimizer.l1
        found = head_optimality(self.data, trained.final, self.pos_weight, l2, l1)
        if found is None:
            note = "weights are too many to measure how near the optimum they are: the run has no certificate"
            yield Progress("training", note=note)
            return trained
        penalised, everything = l2 > 0 or l1 > 0, torch.ones(self.data.num_labels, dtype=torch.bool)
        names = self.data.statistics.label_names
        certificate = certificate_of(found, names, penalised=penalised, reached=everything)
        yield from certificate_lines(certificate)
        return replace(trained, certificate=certificate)

    def _candidates(self) -> list[Candidate]:
        """For each l2, the models of the hold-out: candidate = index of l2 · R + model."""
        l2 = self.settings.optimizer.l2
        total = max(self.data.mean_total(), 1e-300)
        if l2 != "auto":
            strengths = [float(l2)]
        elif not self.hold_out.chooses:
            strengths = [1 / total]
        else:
            inputs = self.data.statistics.features.num_dense + self.data.statistics.features.vocabulary_size
            width = self.data.num_labels * self.hold_out.num_models * inputs
            count = max(1, min(len(MINI_BATCH_CS), MAX_CANDIDATE_CELLS // max(1, width)))
            middle = len(MINI_BATCH_CS) // 2
            start = max(0, middle - (count - 1) // 2)
            strengths = [1 / (c * total) for c in MINI_BATCH_CS[start : start + count]]
        rows = [tuple(row) for row in self.hold_out.trained.tolist()]
        return [Candidate(row, strength) for strength in strengths for row in rows]

    def _training(self, candidates: list[Candidate], trained: Tensor, name: str, epochs: int | None = None) -> Training:
        settings, features = self.settings, self.data.statistics.features
        trained = torch.tensor([candidate.trained for candidate in candidates], dtype=torch.float64)
        torch.manual_seed(settings.training.seed)
        heads = CandidateHeads(
            len(candidates), features.num_dense, features.vocabulary_size, self.data.num_labels, settings.model.hidden
        )
        totals = self.data.totals.of(trained)
        lr = settings.optimizer.lr
        constant, priors = totals.constant(), totals.prior_logits(self.pos_weight)
        heads.start_biases(torch.where(constant | (lr is None), priors, 0.0).float())
        parts = training_parts(trained)
        drawn = sum(count for part, count in self.data.statistics.rows.items() if parts is None or part in parts)
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
            self.algorithm,
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

    def _epochs(
        self, training: Training, trained: Tensor, parts: list[int] | None, judged: bool = True
    ) -> Iterator[Progress]:
        """Epochs until the schedule ends or the held-out loss has stopped falling; a checkpoint after each."""
        self.bound = binding(self.data, self.settings, self.checkpoints.name)
        yield from self._resume(training)
        if self.resume:
            write_text(self.log, "".join(f"{line}\n" for line in self.lines))
        settings = self.settings.training
        stream = self.data.stream(self.batch_rows, shuffle=settings.shuffle, parts=parts)
        if self.pool is not None:
            stream = BatchStream(stream.order, self.pool)
        judged = judged and self.hold_out.chooses
        if training.epoch < self.max_epochs and not self._stopped(training, judged):
            self._cut_steps(self.epochs_before + training.epoch, training.step)
        while training.epoch < self.max_epochs and not self._stopped(training, judged):
            started = saved = time.perf_counter()
            for record in training.run_epoch(stream):
                yield Progress(f"epoch {record.epoch}", record.rows, training.drawn_rows)
                self._log_step(record)
                if time.perf_counter() - saved > CHECKPOINT_SECONDS and not training.full_batch:
                    self._save(training, stream.state_dict())
                    saved = time.perf_counter()
            seconds = time.perf_counter() - started
            losses = self._judge(training) if judged else []
            if judged:
                training.keep_best(losses, always=settings.epochs is not None)
            epoch = training.epoch - 1
            train_loss, valid_loss = float(training.train_loss.mean()), self._best_loss(losses)
            number = epoch + self.epochs_before
            line = log_epoch(self.log, number, training.step, training.rows, seconds, train_loss, valid_loss)
            self.lines.append(line)
            self._save(training)
            note = f"epoch {epoch}: training loss {train_loss:.5f}"
            note += f", held-out log-loss {valid_loss:.5f}" if math.isfinite(valid_loss) else ""
            yield Progress("training", training.rows, training.drawn_rows, note)
        self.epochs_before += training.epoch

    def _save(self, training: Training, position: dict[str, Any] | None = None) -> None:
        """Write the checkpoint; inside an epoch with the position in its stream."""
        save_checkpoint(
            self.checkpoints, training.tensors(), training.state(position) | self.bound | {"log": self.lines}
        )

    def _stopped(self, training: Training, judged: bool) -> bool:
        if not judged or self.settings.training.epochs is not None or training.epoch == 0:
            return False
        return training.epoch - 1 - max(training.best_epoch) >= self.settings.training.patience

    def _resume(self, training: Training) -> Iterator[Progress]:
        """Go on from the last checkpoint of this stage that is whole, and give the log the lines that it knows."""
        found = load_checkpoint(self.checkpoints) if self.resume else None
        if found is None:
            return
        for problem in found.problems:
            goes_on = "the one before is taken" if found.state else "this stage starts again"
            yield Progress.warning("training", f"{problem}; {goes_on}")
        if found.state:
            check_binding(found.state, self.bound, self.data, str(self.checkpoints))
            training.restore(found.tensors, found.state)
            self.lines = list(found.state["log"])

    def _cut_steps(self, epochs: int, step: int) -> None:
        """Leave the steps of the first `epochs` epochs, and of the next one up to a step: the others come again."""
        path = self.folder.file("steps.jsonl")
        if not path.exists():
            return
        kept: dict[tuple[int, int], bytes] = {}
        for line in path.read_bytes().split(b"\n"):  # lines that are torn or damaged are lost
            try:
                record = parsed_json(line)
                place = int(record["epoch"]), int(record["step"])
            except (ValueError, LookupError, TypeError):
                continue
            if place[0] < epochs or (place[0] == epochs and place[1] <= step):
                kept.setdefault(place, line)
        write_bytes(path, b"".join(line + b"\n" for line in kept.values()))

    def _log_step(self, record: StepRecord) -> None:
        line = {
            "epoch": record.epoch + self.epochs_before,
            "step": record.step,
            "rows": record.rows,
            "loss": record.loss,
        }
        append_line(self.folder.file("steps.jsonl"), log_line(line))

    def _judge(self, training: Training) -> list[float]:
        """Held-out log-loss of every candidate, mean over labels, after the shift for pos_weight."""
        heads, count = training.heads.eval(), self.hold_out.num_models
        shift, judge = self.pos_weight.log().to(self.device), self.hold_out.judge.to(self.device)
        models = torch.arange(len(training.candidates), device=self.device) % count
        sums = torch.zeros(len(models), self.data.num_labels, dtype=torch.float64, device=self.device)
        totals = torch.zeros_like(sums)
        parts = (self.hold_out.judge >= 0).nonzero()[:, 0].tolist()
        rows = self.data.batches(parts) if self.pool is None else self.pool.in_order(self.data.chunk_rows, parts)
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

    def _best_loss(self, losses: Sequence[float]) -> float:
        """Least over l2 of the mean over models; NaN where nothing is held out."""
        if not losses:
            return math.nan
        return float(torch.tensor(losses, dtype=torch.float64).reshape(-1, self.hold_out.num_models).mean(1).min())

    def _best_candidate(self, training: Training) -> int:
        """Index of the l2 whose models have the least mean held-out loss."""
        count = self.hold_out.num_models
        losses = torch.tensor(training.best_loss).reshape(-1, count).mean(1)
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
