"""Which parts of the rows train models, choose l2 and stopping points, and tune thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ROW_PARTS = 5
"""Parts of held-out rows that belong to one part of the split."""


@dataclass(frozen=True)
class HeldOutCells:
    """Held-out rows of a chunk: logits [m, k] float32, labels [m, k] uint8, cells [m, k] float64 (weight or 0)."""

    logits: Tensor
    labels: Tensor
    cells: Tensor

    def chosen(self, rows: Tensor) -> HeldOutCells:
        """The cells of some of the rows."""
        return HeldOutCells(self.logits[rows], self.labels[rows], self.cells[rows])


class HeldOutRows(NamedTuple):
    """Held-out rows in chunks, scored by models that were not trained on them.

    Attributes:
        pieces: for each chunk its rows and their parts [m].
        shifts: [R, k] float64, what brings the models to one level; the logits have it.
    """

    pieces: list[tuple[HeldOutCells, Tensor]]
    shifts: Tensor


HeldOutLoss = Callable[[Sequence[HeldOutCells], Tensor], Tensor]
"""(held-out rows, log pos_weight [k]) → mean loss of each label after calibration [k]; NaN where unobserved."""


@dataclass(frozen=True)
class HoldOut:
    """What each part of a split is used for, by R models that are trained side by side.

    Attributes:
        trained: [R, parts] float64, 1 where model r is trained on the part.
        judge: [parts] int64, the model whose l2 and stopping point the part helps to choose; −1 none.
        decide: [parts] int64, the model whose calibrator and thresholds it helps to fit; −1 none.
        refit: whether one more model is trained on all parts in the end.
    """

    trained: Tensor
    judge: Tensor
    decide: Tensor
    refit: bool

    @classmethod
    def folds(cls, count: int) -> HoldOut:
        """Fold f is held out of model f."""
        order = torch.arange(count)
        return cls(1 - torch.eye(count, dtype=torch.float64), order, order, refit=True)

    @classmethod
    def halves(cls) -> HoldOut:
        """Part 0 is trained on, part 1 chooses, part 2 decides."""
        return cls(_row(1, 0, 0), torch.tensor([-1, 0, -1]), torch.tensor([-1, -1, 0]), refit=False)

    @classmethod
    def given(cls) -> HoldOut:
        """Part 0 is trained on; part 1, data given as validation, chooses and decides."""
        return cls(_row(1, 0), torch.tensor([-1, 0]), torch.tensor([-1, 0]), refit=False)

    @classmethod
    def nothing(cls) -> HoldOut:
        """All rows are trained on, none is held out."""
        return cls(_row(1), torch.tensor([-1]), torch.tensor([-1]), refit=False)

    @property
    def num_models(self) -> int:
        return self.trained.shape[0]

    @property
    def chooses(self) -> bool:
        """Whether any rows are held out to choose by."""
        return bool((self.judge >= 0).any())

    def final(self) -> Tensor:
        """Parts of the final model: [1, parts]."""
        return torch.ones_like(self.trained[:1]) if self.refit else self.trained[:1]


def _row(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@dataclass(frozen=True)
class LabelTotals:
    """Row weights behind each label, by part: positives and observed, [parts, K] float64."""

    positives: Tensor
    totals: Tensor

    def of(self, trained: Tensor) -> LabelTotals:
        """The same for models trained on several parts: [R, K]."""
        return LabelTotals(trained @ self.positives, trained @ self.totals)

    def prior_logits(self, pos_weight: Tensor) -> Tensor:
        """logit((P + ½) ÷ (N + 1)), shifted by log pos_weight: [R, K]."""
        share = (self.positives + 0.5) / (self.totals + 1)
        return torch.logit(share) + pos_weight.log()

    def constant(self) -> Tensor:
        """[R, K] bool: one class only, or nothing observed."""
        return (self.positives <= 0) | (self.positives >= self.totals)
