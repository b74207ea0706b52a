"""Log-loss, information gain and Brier score of each label, as sums in constant memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice

_SUMS = ("loss", "squared_error", "expected", "positives", "weights", "squared_weights")
_LINEAR_FROM = 40.0
"""Where log(1 + e^z) is z in float64."""

_LOG2_E = 1 / math.log(2)
_FOLDS = 3
"""Of a column of rows, one half multiplied with the other: e^(8 · 40) is still far from an overflow."""


class LossSums(Metric):
    """Log-loss, Brier score and expected positives of each label, as weighted sums.

    States, all [K] float64, summed over ranks: `loss`, `squared_error`, `expected` (sum of scores), `positives`,
    `weights`, `squared_weights`.
    """

    full_state_update = False
    loss: Tensor
    squared_error: Tensor
    expected: Tensor
    positives: Tensor
    weights: Tensor
    squared_weights: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        for name in _SUMS:
            self.add_state(name, torch.zeros(num_labels, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: CellSlice) -> None:
        """Add a slice of rows."""
        self.add(loss_sums(part))

    def add(self, sums: Tensor) -> None:
        """Add what `loss_sums` says of a slice of rows."""
        for name, values in zip(_SUMS, sums, strict=True):
            state: Tensor = getattr(self, name)
            state += values

    def compute(self) -> dict[str, Tensor]:
        """Return `log_loss` and `brier`, each [K] float64."""
        return {"log_loss": self.log_loss(), "brier": self.brier()}

    def log_loss(self) -> Tensor:
        """Return [K] float64, the mean log-loss of each label; NaN without an observed row."""
        return self.loss / self.weights

    def brier(self) -> Tensor:
        """Return [K] float64, the mean squared error of the scores of each label; NaN without an observed row."""
        return self.squared_error / self.weights

    def constant_log_loss(self, prevalences: Tensor) -> Tensor:
        """Return [K] float64, the mean log-loss of predicting `prevalences` ([K] float64) for every row."""
        return constant_log_loss(self.positives, self.weights, prevalences)

    def observed_expected(self) -> Tensor:
        """Return [K] float64, the positives ÷ the sum of the scores; NaN without an observed row."""
        return self.positives / self.expected

    def effective_rows(self) -> Tensor:
        """Return [K] float64, (Σw)² / Σw²: how many rows of equal weight say as much (Kish 1965)."""
        return self.weights.square() / self.squared_weights


def loss_sums(part: CellSlice) -> Tensor:
    """What a slice of rows adds to the states of `LossSums`, in their order: [6, K] float64."""
    probability, weights = part.scores.double(), part.weight_sums()
    expected = part.label_sums(part.observed(probability))
    squares = probability.sub_(part.labels.view(torch.uint8).double()).square_()
    return torch.stack(
        [
            part.label_sums(cell_losses(part)) if _weighted(part) else _summed_losses(part),
            part.label_sums(part.observed(squares)),
            expected,
            part.label_sums(part.labels),
            weights,
            _squared_weights(part) if _weighted(part) else weights,
        ]
    )


def cell_losses(part: CellSlice) -> Tensor:
    """Log-loss of each cell, [b, K] float64, 0 where it is not seen: log(1 + e^z) with the z of `_wrongness`."""
    return part.observed(softplus(_wrongness(part).double(), threshold=_LINEAR_FROM))


def _wrongness(part: CellSlice) -> Tensor:
    """The logit of a negative, minus that of a positive, exactly: [b, K] float32."""
    signs = part.labels.to(torch.int32).bitwise_left_shift_(31)
    return signs.bitwise_xor_(part.logits.view(torch.int32)).view(torch.float32)


def _summed_losses(part: CellSlice) -> Tensor:
    """Log-loss of each label, summed over rows without weights: [K] float64.

    Σ log(1 + x) is the logarithm of a product, of which one in 2³ rows is taken. x + y + x y is (1 + x) (1 + y) − 1
    without the loss of small x.
    """
    wrongness = _wrongness(part)
    if not wrongness.numel():
        return part.label_sums(part.labels)
    if part.seen is not None:
        wrongness = wrongness.where(part.seen, -torch.inf)
    total = torch.zeros(wrongness.shape[1], dtype=torch.float64, device=wrongness.device)
    if float(wrongness.amax()) > _LINEAR_FROM:
        total += (wrongness.double() - _LINEAR_FROM).clamp_(min=0).sum(0)
        wrongness = wrongness.clamp(max=_LINEAR_FROM)
    odds = wrongness.double().mul_(_LOG2_E).exp2_()  # a third of the time of torch's exp
    for _ in range(_FOLDS):
        half = (len(odds) + 1) // 2
        first, second = odds[: len(odds) - half], odds[half:]
        first.addcmul_(first, second).add_(second)
        odds = odds[:half]
    return total.add_(odds.log1p_().sum(0))


def constant_log_loss(positives: Tensor, weights: Tensor, prevalences: Tensor) -> Tensor:
    """Mean log-loss of predicting `prevalences` [K], from sums of weights […, K] of the positives and of all rows."""
    return -(torch.xlogy(positives, prevalences) + torch.xlogy(weights - positives, 1 - prevalences)) / weights


def _weighted(part: CellSlice) -> bool:
    return part.row_weights is not None or part.label_weights is not None


def _squared_weights(part: CellSlice) -> Tensor:
    squares = part.seen_cells().double()
    if part.label_weights is not None:
        squares = squares * part.label_weights.square()
    return squares.sum(0) if part.row_weights is None else part.row_weights.square() @ squares
