"""The loop: mini-batch training of R candidates side by side, one epoch after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.errors import CheckpointError, TrainingError
from mlclf.training.losses import MaskedLoss
from mlclf.training.mini_batch.candidate_heads import Candidate, CandidateHeads, own_state
from mlclf.training.mini_batch.checkpoint import flat_optimizer, nested_optimizer
from mlclf.training.mini_batch.optimizers import add_penalties, make_optimizer, rate_factor
from mlclf.training.mini_batch.transfer import on_device

MIN_SCALE = 2.0**-10
"""A GradScaler that has fallen this low has met a number that is not finite in every batch."""


@dataclass
class StepRecord:
    """Sent after a step at log time: its number, rows so far in the epoch, and the loss (mean over candidates)."""

    epoch: int
    step: int
    rows: int
    loss: float


@dataclass
class Training:
    """The state of mini-batch training, and one epoch of it at a time.

    Attributes:
        drawn_rows: rows drawn an epoch.
        scale: [R, K] float64, drawn rows ÷ weight that trains each candidate and label.
        constant: [R, K] bool, labels of one class: they keep the bias that they start with.
        full_batch: one step an epoch, its gradient summed over the stream.
        rows, batches: of this epoch, trained on. The stream may be ahead of them.
        position: state of the stream where the epoch goes on, once restored inside one.
        total_steps: length of the schedule of the default rate; None keeps the rate (an explicit one) constant.
    """

    heads: CandidateHeads
    candidates: Sequence[Candidate]
    pos_weight: Tensor
    scale: Tensor
    constant: Tensor
    optimizer_name: str
    lr: float | None
    l1: float
    total_steps: int | None
    drawn_rows: int
    device: torch.device
    precision: str = "float32"
    full_batch: bool = False
    epoch: int = 0
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: list[float] = field(default_factory=list)
    best_epoch: list[int] = field(default_factory=list)
    rows: int = 0
    batches: int = 0
    position: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.heads.to(self.device)
        self.sums = torch.zeros(len(self.candidates), dtype=torch.float64, device=self.device)
        self.optimizer = make_optimizer(self.optimizer_name, list(self.heads.parameters()), self.lr)
        self.rate = float(self.optimizer.param_groups[0]["lr"])
        trained = torch.tensor([candidate.trained for candidate in self.candidates], device=self.device)
        self.trained = trained.T.contiguous()
        self.decayed = self.heads.decayed(torch.tensor([c.l2 for c in self.candidates], device=self.device))
        count = len(self.candidates)
        weight = self.pos_weight.repeat(count, 1).float()
        self.loss = MaskedLoss(weight, self.scale.float()).to(self.device)
        self.learned = (~self.constant).float().to(self.device)
        self.unchecked: list[tuple[int, int, Tensor]] = []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        if not self.best_loss:
            self.best_loss, self.best_epoch = [math.inf] * count, [-1] * count

    def run_epoch(self, stream: BatchStream, log_every: int = 50) -> Iterator[StepRecord]:
        """Train on every batch of the stream once; yields a record every `log_every` steps.

        Between two batches the state is whole: what is saved then goes on with the next batch of the epoch.

        Raises:
            TrainingError: the loss is not finite; names the step and where its rows are.
        """
        stream.set_epoch(self.epoch)
        self.heads.train()
        if self.position is not None:
            stream.load_state_dict(self.position)
            self.batches = self.position["batch"]
            self.position = None
        else:
            self.sums = torch.zeros(len(self.candidates), dtype=torch.float64, device=self.device)
            self.rows = self.batches = 0
        for count, batch in enumerate(on_device(stream, self.device), 1):
            if not self.full_batch:
                self._set_rate()
            loss = self._backward(batch)
            self.unchecked.append((self.step, int(batch.rows[0]), loss))
            if not self.full_batch:
                self._apply()
            self.sums += loss * len(batch)
            self.rows += len(batch)
            self.batches += 1
            if count % log_every == 0:
                self._check(stream)
                yield StepRecord(self.epoch, self.step, self.rows, float(loss.mean()))
        if self.full_batch and self.rows:
            self._set_rate()
            self._apply()
        self._check(stream)
        self.epoch += 1

    @property
    def train_loss(self) -> Tensor:
        """Mean data term of the last epoch at the weights before each step: [R] float64."""
        return (self.sums / max(1, self.rows)).cpu()

    def _backward(self, batch: Batch) -> Tensor:
        """Add a batch's gradient; returns its loss for each candidate [R], mean over labels."""
        cells = batch.weights[:, None] * self.trained[batch.parts.long()].to(batch.weights.dtype)
        weights = cells[:, :, None] if batch.label_mask is None else cells[:, :, None] * batch.label_mask[:, None, :]
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            logits = self.heads(batch)
        labels = batch.labels[:, None, :].expand(-1, len(self.candidates), -1)
        losses = self.loss(logits, labels, weights)
        divisor = self.drawn_rows if self.full_batch else len(batch)
        self.scaler.scale((losses * self.learned).sum() / divisor).backward()
        mean: Tensor = losses.detach().double().mean(1) / len(batch)
        return mean

    def _apply(self) -> None:
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        add_penalties(self.decayed, self.l1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _set_rate(self) -> None:
        if self.total_steps is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * rate_factor(self.step, self.total_steps)

    def _check(self, stream: BatchStream) -> None:
        """Refuse a loss that is not finite among the steps since the last check, the one wait for the device."""
        unchecked, self.unchecked = self.unchecked, []
        if not unchecked:
            return
        bad = ~torch.isfinite(torch.stack([loss for _, _, loss in unchecked])).all(1)
        stuck = self.scaler.is_enabled() and self.scaler.get_scale() < MIN_SCALE
        if not (stuck or bool(bad.any())):
            return
        step, row, _ = unchecked[int(bad.int().argmax()) if bad.any() else -1]
        what = "loss" if bad.any() else "gradient"
        raise TrainingError(
            f"the {what} of step {step} is not finite; the rows of its batch begin in {stream.order.plan.locate(row)}. "
            "Lower optimizer.lr, or set training.precision=float32"
        )

    def keep_best(self, losses: Sequence[float], *, always: bool = False) -> None:
        """Keep the weights of each candidate whose held-out loss is its least so far, or the latest ones (`always`)."""
        state = self.heads.state_dict()
        for index, loss in enumerate(losses):
            if always or loss < self.best_loss[index]:
                self.best_loss[index], self.best_epoch[index] = loss, self.epoch - 1
                self._copy(state, index)

    def _copy(self, state: dict[str, Tensor], index: int) -> None:
        if not self.best:
            self.best = {name: value.detach().clone() for name, value in state.items()}
            return
        part = slice(index * self.heads.num_labels, (index + 1) * self.heads.num_labels)
        for name, value in state.items():
            if not self.heads.wide:
                if name.startswith(f"heads.{index}."):
                    self.best[name].copy_(value)
            elif "embedding" in name:
                self.best[name][:, part] = value[:, part]
            else:
                self.best[name][part] = value[part]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, under flat names."""
        named = {f"model.{name}": value for name, value in self.heads.state_dict().items()}
        named |= {f"best.{name}": value for name, value in self.best.items()}
        return named | {"sums": self.sums} | flat_optimizer(self.optimizer.state_dict())

    def state(self, position: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Everything else of the state, JSON-able; inside an epoch with the `position` of its stream."""
        return {
            "position": None if position is None else {**position, "batch": self.batches},
            "rows": self.rows,
            "epoch": self.epoch,
            "step": self.step,
            "best_loss": [loss if math.isfinite(loss) else None for loss in self.best_loss],
            "best_epoch": self.best_epoch,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from `tensors` and `state`.

        Raises:
            CheckpointError: they are of a model of another shape.
        """
        try:
            self.heads.load_state_dict(own_state(tensors, "model."))
            own = self.optimizer.state_dict()
            self.optimizer.load_state_dict(own | {"state": nested_optimizer(tensors)})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint is of a model of another shape; start again with --overwrite"
            ) from error
        self.best = {name: value.to(self.device) for name, value in own_state(tensors, "best.").items()}
        self.epoch, self.step = state["epoch"], state["step"]
        self.position, self.rows = state["position"], state["rows"]
        self.sums = tensors["sums"].to(self.device)
        self.best_loss = [math.inf if loss is None else loss for loss in state["best_loss"]]
        self.best_epoch = list(state["best_epoch"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
