"""A training on made rows, and what stands for its loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from made_batches import correlated, made_batch
from torch import Tensor

from mlclf.config.optimizers import OPTIMIZERS
from mlclf.data.batch import Batch
from mlclf.training.mini_batch.candidate_heads import Candidate, CandidateHeads
from mlclf.training.mini_batch.loop import Training, TrainingPlan


class Places:
    """Stands for the plan, which names the place of a row."""

    def locate(self, row: int) -> str:
        return f"part-{row // 50}.parquet row group {row % 50 // 10}"


@dataclass
class Rows:
    """Stands for the loader: the rows in an order fixed by the epoch."""

    batch: Batch
    batch_rows: int
    shuffle: bool = True
    epoch: int = 0
    plan: Places = field(default_factory=Places)

    @property
    def order(self) -> Rows:
        """Stands for the order, which knows the plan."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.batch)
        order = np.random.default_rng(self.epoch).permutation(count) if self.shuffle else np.arange(count)
        for start in range(0, count, self.batch_rows):
            picked = torch.from_numpy(order[start : start + self.batch_rows])
            batch = self.batch
            yield Batch(
                batch.dense[picked],
                batch.ids[:0],
                torch.zeros(len(picked) + 1, dtype=torch.int64),
                None,
                batch.labels[picked],
                None if batch.label_mask is None else batch.label_mask[picked],
                batch.weights[picked],
                batch.parts[picked],
                batch.rows[picked],
            )


def training_of(batch: Batch, **options: Any) -> Training:
    """A training of one candidate on all rows, or as the options say."""
    inputs, labels = batch.dense.shape[1], batch.labels.shape[1]
    candidates = options.pop("candidates", [Candidate((1.0,), options.pop("l2", 0.0))])
    hidden = options.pop("hidden", ())
    torch.manual_seed(0)
    heads = CandidateHeads(len(candidates), inputs, 0, labels, hidden)
    mask = torch.ones_like(batch.labels).double() if batch.label_mask is None else batch.label_mask.double()
    parts = torch.tensor([candidate.trained for candidate in candidates]).double().T[batch.parts.long()]
    totals = torch.einsum("nr,nk->rk", batch.weights.double()[:, None] * parts, mask)
    shape = (len(candidates), labels)
    defaults = {
        "candidates": candidates,
        "pos_weight": torch.ones(labels),
        "scale": len(batch) / totals,
        "constant": torch.zeros(shape, dtype=torch.bool),
        "optimizer": OPTIMIZERS[options.pop("optimizer_name", "sgd")],
        "lr": None,
        "l1": 0.0,
        "total_steps": None,
        "drawn_rows": len(batch),
        "device": torch.device("cpu"),
    }
    return Training(TrainingPlan(**(defaults | options)), heads)


def run(training: Training, rows: Rows, epochs: int = 1) -> list[Tensor]:
    """Train; the mean training loss after each epoch."""
    losses = []
    for _ in range(epochs):
        for _ in training.run_epoch(rows):  # type: ignore[arg-type]  # stands for the loader
            pass
        losses.append(training.train_loss)
    return losses


def drawn(rows: int = 60) -> Batch:
    x, y = correlated(rows, 3, 2)
    rng = np.random.default_rng(0)
    return made_batch(x / x.std(0), y, weights=rng.random(rows), mask=rng.random((rows, 2)) < 0.8)
