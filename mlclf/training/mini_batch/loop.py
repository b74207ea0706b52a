"""The loop: mini-batch training of R candidates side by side, one epoch after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlclf.config.optimizers import Stepper
from mlclf.data.batch import Batch
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.errors import CheckpointError, TrainingError
from mlclf.training.losses import MaskedLoss
from mlclf.training.mini_batch.best_weights import BestWeights
from mlclf.training.mini_batch.candidate_heads import Candidate, CandidateHeads, own_state
from mlclf.training.mini_batch.checkpoint import flat_optimizer, nested_optimizer
from mlclf.training.mini_batch.rates_and_penalties import add_penalties, rate_factor
from mlclf.training.mini_batch.transfer import on_device

MIN_SCALE = 2.0**-10
"""A GradScaler that has fallen this low has met a number that is not finite in every batch."""


class StepRecord(NamedTuple):
    """A step for the log: its number, the rows so far in the epoch, and the loss (mean over candidates)."""

    epoch: int
    step: int
    rows: int
    loss: float


@dataclass(frozen=True)
class TrainingPlan:
    """What mini-batch training minimizes, and by which steps.

    Attributes:
        pos_weight: [K] float64.
        scale: [R, K] float64, drawn rows ÷ weight that trains each candidate and label.
        constant: [R, K] bool, labels of one class: they keep the bias that they start with.
        lr: a constant rate; None for the optimizer's own.
        l1: of all candidates.
        total_steps: length of the schedule of the default rate; None keeps the rate (an explicit one) constant.
        drawn_rows: rows drawn an epoch.
        precision: of the forward pass: float32, bf16 or fp16.
        full_batch: one step an epoch, its gradient summed over the stream.
    """

    candidates: Sequence[Candidate]
    pos_weight: Tensor
    scale: Tensor
    constant: Tensor
    optimizer: Stepper
    lr: float | None
    l1: float
    total_steps: int | None
    drawn_rows: int
    device: torch.device
    precision: str = "float32"
    full_batch: bool = False


class Training:
    """The state of mini-batch training, and one epoch of it at a time.

    Attributes:
        epoch, step: of the next one.
        rows, batches: of this epoch, trained on. The stream may be ahead of them.
        position: state of the stream where the epoch goes on, once restored inside one.
        sums: [R] float64, of the data term over the rows of this epoch.
        best: the weights of each candidate whose held-out loss was its least.
    """

    def __init__(self, plan: TrainingPlan, heads: CandidateHeads) -> None:
        self.plan, self.heads = plan, heads.to(plan.device)
        self.epoch = self.step = self.rows = self.batches = 0
        self.position: Mapping[str, Any] | None = None
        self.best = BestWeights(len(plan.candidates))
        self.sums = torch.zeros(len(plan.candidates), dtype=torch.float64, device=plan.device)
        self.optimizer = plan.optimizer.make(list(self.heads.parameters()), plan.lr)
        self.scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16")
        self._rate = float(self.optimizer.param_groups[0]["lr"])
        trained = torch.tensor([candidate.trained for candidate in plan.candidates], device=plan.device)
        self._trained = trained.T.contiguous()
        l2 = torch.tensor([candidate.l2 for candidate in plan.candidates], device=plan.device)
        self._decayed = self.heads.decayed(l2)
        pos_weight = plan.pos_weight.repeat(len(plan.candidates), 1).float()
        self._loss = MaskedLoss(pos_weight, plan.scale.float()).to(plan.device)
        self._learned = (~plan.constant).float().to(plan.device)
        self._unchecked: list[tuple[int, int, Tensor]] = []

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
            self.sums = torch.zeros_like(self.sums)
            self.rows = self.batches = 0
        for count, batch in enumerate(on_device(stream, self.plan.device), 1):
            if not self.plan.full_batch:
                self._set_rate()
            loss = self._backward(batch)
            self._unchecked.append((self.step, int(batch.rows[0]), loss))
            if not self.plan.full_batch:
                self._apply()
            self.sums += loss * len(batch)
            self.rows += len(batch)
            self.batches += 1
            if count % log_every == 0:
                self._check(stream)
                yield StepRecord(self.epoch, self.step, self.rows, float(loss.mean()))
        if self.plan.full_batch and self.rows:
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
        plan = self.plan
        cells = batch.weights[:, None] * self._trained[batch.parts.long()].to(batch.weights.dtype)
        weights = cells[:, :, None] if batch.label_mask is None else cells[:, :, None] * batch.label_mask[:, None, :]
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision)
        with torch.autocast(plan.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            logits = self.heads(batch)
        labels = batch.labels[:, None, :].expand(-1, len(plan.candidates), -1)
        losses = self._loss(logits, labels, weights)
        divisor = plan.drawn_rows if plan.full_batch else len(batch)
        self.scaler.scale((losses * self._learned).sum() / divisor).backward()
        mean: Tensor = losses.detach().double().mean(1) / len(batch)
        return mean

    def _apply(self) -> None:
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        add_penalties(self._decayed, self.plan.l1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _set_rate(self) -> None:
        if self.plan.total_steps is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate * rate_factor(self.step, self.plan.total_steps)

    def _check(self, stream: BatchStream) -> None:
        """Refuse a loss that is not finite among the steps since the last check, the one wait for the device."""
        unchecked, self._unchecked = self._unchecked, []
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

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, under flat names."""
        named = {f"model.{name}": value for name, value in self.heads.state_dict().items()}
        named |= {f"best.{name}": value for name, value in self.best.weights.items()}
        return named | {"sums": self.sums} | flat_optimizer(self.optimizer.state_dict())

    def state(self, position: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Everything else of the state, JSON-able; inside an epoch with the `position` of its stream."""
        return {
            "position": None if position is None else {**position, "batch": self.batches},
            "rows": self.rows,
            "epoch": self.epoch,
            "step": self.step,
            "best_loss": [loss if math.isfinite(loss) else None for loss in self.best.losses],
            "best_epoch": self.best.epochs,
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
        best = {name: value.to(self.plan.device) for name, value in own_state(tensors, "best.").items()}
        losses = [math.inf if loss is None else loss for loss in state["best_loss"]]
        self.best = BestWeights(len(losses), best, losses, list(state["best_epoch"]))
        self.epoch, self.step = state["epoch"], state["step"]
        self.position, self.rows = state["position"], state["rows"]
        self.sums = tensors["sums"].to(self.plan.device)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
