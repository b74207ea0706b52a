"""Full-batch solvers of the convex problem in float64: many problems side by side over one stream of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.training.losses import loss_and_slope

MEMORY_PAIRS = 8
CELLS = 1 << 22
"""Rows × problems that are worked on at a time."""

LEFT_OUT_AT = 0.25
"""Share of ended problems at which the others are copied together."""


@dataclass
class Chunk:
    """Rows of the full batch in float64.

    Attributes:
        dense: [n, D].
        sparse, transposed: CSR [n, V] and [V, n]; None where there are no tokens.
        labels: [n, K] uint8; mask: [n, K] bool or None; weights: [n]; parts: [n] int64.
    """

    dense: Tensor
    sparse: Tensor | None
    transposed: Tensor | None
    labels: Tensor
    mask: Tensor | None
    weights: Tensor
    parts: Tensor

    @classmethod
    def of(cls, batch: Batch, vocabulary_size: int) -> Chunk:
        sparse = transposed = None
        if vocabulary_size:
            sparse, transposed = _csr(batch, vocabulary_size)
        return cls(
            batch.dense.double(),
            sparse,
            transposed,
            batch.labels,
            batch.label_mask,
            batch.weights.double(),
            batch.parts.long(),
        )

    def logits(self, columns: Tensor) -> Tensor:
        """[n, P] float64 of columns [D + V + 1, P]: dense weights, embedding rows, bias."""
        num_dense = self.dense.shape[1]
        logits = columns[-1:] + self.dense @ columns[:num_dense] if num_dense else columns[-1:].expand(len(self), -1)
        if self.sparse is not None:
            logits = logits + self.sparse @ columns[num_dense:-1].contiguous()
        return logits

    def back(self, slopes: Tensor) -> Tensor:
        """Gradient [D + V + 1, P] of slopes [n, P]."""
        parts = [self.dense.T @ slopes]
        if self.transposed is not None:
            parts.append(self.transposed @ slopes)
        parts.append(slopes.sum(0, keepdim=True))
        return torch.cat(parts)

    def squares(self, weights: Tensor) -> Tensor:
        """Σ weight · input², [D + V + 1]; weights [n]."""
        parts = [self.dense.square().T @ weights]
        if self.transposed is not None:
            values = self.transposed.values().square()
            squared = _csr_tensor(
                self.transposed.crow_indices(), self.transposed.col_indices(), values, tuple(self.transposed.shape)
            )
            parts.append((squared @ weights[:, None])[:, 0])
        parts.append(weights.sum()[None])
        return torch.cat(parts)

    def __len__(self) -> int:
        return self.dense.shape[0]


def _csr(batch: Batch, vocabulary_size: int) -> tuple[Tensor, Tensor]:
    values = torch.ones(len(batch.ids), dtype=torch.float64) if batch.values is None else batch.values.double()
    shape = (len(batch), vocabulary_size)
    rows = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets.diff())
    order = torch.argsort(batch.ids, stable=True)
    starts = torch.zeros(vocabulary_size + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(batch.ids, minlength=vocabulary_size), 0, out=starts[1:])
    sparse = _csr_tensor(batch.offsets, batch.ids, values, shape)
    transposed = _csr_tensor(starts, rows[order], values[order], (vocabulary_size, len(batch)))
    return sparse, transposed


def _csr_tensor(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


Chunks = Callable[[], Iterable[Chunk]]
"""One pass over all rows; called again for the next pass."""


@dataclass(frozen=True)
class Problems:
    """P independent problems over the same rows.

    Attributes:
        labels: [P] int64, the label of each.
        candidates: [P] int64, row of `trained` that says on which parts it is trained.
        l2: [P] float64.
        trained: [R, parts] float64 of 0 and 1.
        totals: [P] float64, Σ w over the rows that it is trained on and that observe its label.
        pos_weight: [P] float64.
        l1: the same for all.
    """

    labels: Tensor
    candidates: Tensor
    l2: Tensor
    trained: Tensor
    totals: Tensor
    pos_weight: Tensor
    l1: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, index: Tensor) -> Problems:
        """Some of the problems."""
        return Problems(
            self.labels[index],
            self.candidates[index],
            self.l2[index],
            self.trained,
            self.totals[index],
            self.pos_weight[index],
            self.l1,
        )


def smooth_objective(chunks: Chunks, problems: Problems, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Data term + l2 term of each problem, [P], and the gradient, [D + V + 1, P]; in one pass."""
    value = torch.zeros(len(problems), dtype=torch.float64)
    gradient = torch.zeros_like(columns)
    for chunk in chunks():
        step = max(1, CELLS // max(1, len(chunk)))
        for start in range(0, len(problems), step):
            part = slice(start, start + step)
            labels = chunk.labels[:, problems.labels[part]].double()
            cells = cell_weights(chunk, problems, part)
            loss, slope = loss_and_slope(chunk.logits(columns[:, part]), labels, problems.pos_weight[part])
            value[part] += torch.linalg.vecdot(loss, cells, dim=0)
            gradient[:, part] += chunk.back(slope.mul_(cells))
    weights = columns[:-1]
    value += 0.5 * problems.l2 * weights.square().sum(0)
    gradient[:-1] += problems.l2 * weights
    return value, gradient


def cell_weights(chunk: Chunk, problems: Problems, part: slice) -> Tensor:
    """Share of each row in each problem's mean: [n, P] float64, summing to 1 over all rows."""
    rows = chunk.weights[:, None] * problems.trained.T[chunk.parts]
    cells = rows[:, problems.candidates[part]] / problems.totals[part]
    if chunk.mask is not None:
        cells *= chunk.mask[:, problems.labels[part]]
    return cells


def input_squares(chunks: Chunks) -> Tensor:
    """Mean square of every input and of the bias's 1 over all rows, [D + V + 1]; for the preconditioner."""
    total, weight = None, 0.0
    for chunk in chunks():
        squares = chunk.squares(chunk.weights)
        total = squares if total is None else total + squares
        weight += float(chunk.weights.sum())
    assert total is not None
    return total / max(weight, 1e-300)


@dataclass
class Solution:
    """Where a solver stopped.

    Attributes:
        columns: [D + V + 1, P] float64.
        values: [P], objective, l1 included.
        gaps: [P], predicted decrease that was left (half the squared Newton decrement by the last metric).
        passes: passes over the rows.
        converged: [P] bool.
    """

    columns: Tensor
    values: Tensor
    gaps: Tensor
    passes: int
    converged: Tensor


def lbfgs(
    chunks: Chunks,
    problems: Problems,
    start: Tensor,
    squares: Tensor,
    *,
    tolerance: float,
    max_passes: int = 500,
) -> Solution:
    """Minimize every problem by L-BFGS (Liu and Nocedal 1989), orthant-wise where l1 > 0 (Andrew and Gao 2007).

    Problems share each pass over the rows but have their own history, step length and end. The first metric is the
    inverse diagonal of the Hessian at the start. A problem has ended when the decrease that its next step predicts
    is below `tolerance`, or when no step decreases it (float64 has nothing left to give).

    Args:
        start: [D + V + 1, P] float64.
        squares: from `input_squares`.
        tolerance: in units of the objective (nats a row).
    """
    search = _Search(chunks, problems, start.clone(), squares)
    while search.active and search.passes < max_passes:
        search.step(tolerance)
    return search.finish()


class _Search:
    """The state of `lbfgs`. Ended problems stand still until enough have ended for it to pay to leave them out."""

    def __init__(self, chunks: Chunks, problems: Problems, start: Tensor, squares: Tensor) -> None:
        self.chunks, self.problems = chunks, problems
        self.result = start
        self.index = torch.arange(len(problems))
        self.columns = start.clone()
        self.passes = 0
        self.final_values = torch.zeros(len(problems), dtype=torch.float64)
        self.final_gaps = torch.full((len(problems),), torch.inf, dtype=torch.float64)
        self.converged = torch.zeros(len(problems), dtype=torch.bool)
        self.values, self.gradient = self._evaluate(self.columns, self.problems)
        self.metric = self._first_metric(squares)
        self.scale = torch.ones_like(self.values)
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self.failed = torch.zeros_like(self.values, dtype=torch.bool)
        self.ended = torch.zeros_like(self.failed)

    @property
    def active(self) -> bool:
        return not bool(self.ended.all())

    def _evaluate(self, columns: Tensor, problems: Problems) -> tuple[Tensor, Tensor]:
        self.passes += 1
        values, gradient = smooth_objective(self.chunks, problems, columns)
        if problems.l1:
            values = values + problems.l1 * columns[:-1].abs().sum(0)
        return values, gradient

    def _first_metric(self, squares: Tensor) -> Tensor:
        """Inverse of mean(input²)·p(1 − p) + l2, p from the starting biases: [D + V + 1, P]."""
        share = torch.sigmoid(self.columns[-1])
        variance = (share * (1 - share)).clamp_min(1e-6)
        curvature = squares[:, None] * variance
        curvature[:-1] += self.problems.l2
        return 1 / curvature.clamp_min(1e-12)

    def step(self, tolerance: float) -> None:
        pseudo = _pseudo_gradient(self.columns, self.gradient, self.problems.l1)
        direction = self._direction(pseudo)
        slope = _dots(pseudo, direction)
        wrong = slope > 0
        if wrong.any():
            direction[:, wrong] = -(self.metric * pseudo)[:, wrong]
            slope = _dots(pseudo, direction)
        gaps = -slope / 2
        ending = ((gaps <= tolerance) | self.failed) & ~self.ended
        self._record(ending, gaps, gaps <= max(tolerance, 1e-9))
        self.ended |= ending
        if not self.active:
            return
        if self.ended.float().mean() > LEFT_OUT_AT:
            keep = (~self.ended).nonzero()[:, 0]
            self._keep(keep)
            direction, slope, pseudo = direction[:, keep], slope[keep], pseudo[:, keep]
        direction[:, self.ended] = 0
        self._move(direction, slope.masked_fill(self.ended, 0), pseudo)

    def _direction(self, pseudo: Tensor) -> Tensor:
        """Two-loop recursion on every problem at once; a pair of no use has infinite curvature, so factor 0."""
        direction = -pseudo
        factors = []
        for step, change, curvature in reversed(self.history):
            factor = _dots(step, direction) / curvature
            factors.append(factor)
            direction.addcmul_(change, factor, value=-1)
        direction *= self.metric * self.scale
        for (step, change, curvature), factor in zip(self.history, reversed(factors), strict=True):
            direction.addcmul_(step, factor - _dots(change, direction) / curvature)
        if self.problems.l1:
            weights = direction[:-1]
            weights[weights * pseudo[:-1] >= 0] = 0
        return direction

    def _move(self, direction: Tensor, slope: Tensor, pseudo: Tensor) -> None:
        """Backtrack until the objective decreases enough, each problem with its own step length."""
        lengths = torch.ones_like(slope)
        columns = self._projected(self.columns, direction, lengths, pseudo)
        values, gradient = self._evaluate(columns, self.problems)
        for _ in range(25):
            limit = self.values + 1e-4 * lengths * slope
            worse = (~(values <= limit) | ~torch.isfinite(values)) & ~self.ended
            if not worse.any():
                break
            index = worse.nonzero()[:, 0]
            lengths[index] *= _shrink(self.values, values, slope, lengths)[index]
            some = self._projected(self.columns[:, index], direction[:, index], lengths[index], pseudo[:, index])
            values[index], gradient[:, index] = self._evaluate(some, self.problems.chosen(index))
            columns[:, index] = some
        self.failed = ~(values < self.values)
        if self.failed.any():
            columns = torch.where(self.failed, self.columns, columns)
            gradient = torch.where(self.failed, self.gradient, gradient)
            values = torch.where(self.failed, self.values, values)
        self._remember(columns - self.columns, gradient - self.gradient)
        self.columns, self.values, self.gradient = columns, values, gradient

    def _projected(self, columns: Tensor, direction: Tensor, lengths: Tensor, pseudo: Tensor) -> Tensor:
        moved = torch.addcmul(columns, direction, lengths)
        if self.problems.l1:
            orthant = torch.where(columns[:-1] != 0, columns[:-1].sign(), -pseudo[:-1].sign())
            moved[:-1] = torch.where(moved[:-1].sign() == orthant, moved[:-1], 0.0)
        return moved

    def _remember(self, step: Tensor, change: Tensor) -> None:
        curvature = _dots(step, change)
        usable = curvature > 1e-300
        self.history.append((step, change, torch.where(usable, curvature, torch.inf)))
        if len(self.history) > MEMORY_PAIRS:
            self.history.pop(0)
        size = _dots(change * self.metric, change)
        self.scale = torch.where(usable & (size > 0), curvature / size.clamp_min(1e-300), self.scale)

    def _record(self, ending: Tensor, gaps: Tensor, converged: Tensor) -> None:
        """Write problems that have ended into the result."""
        if ending.any():
            places = self.index[ending]
            self.result[:, places] = self.columns[:, ending]
            self.final_values[places], self.final_gaps[places] = self.values[ending], gaps[ending]
            self.converged[places] = converged[ending]

    def _keep(self, keep: Tensor) -> None:
        """Go on with some of the problems."""
        self.index, self.problems = self.index[keep], self.problems.chosen(keep)
        self.columns, self.values, self.gradient = self.columns[:, keep], self.values[keep], self.gradient[:, keep]
        self.metric, self.scale, self.failed = self.metric[:, keep], self.scale[keep], self.failed[keep]
        self.ended = self.ended[keep]
        self.history = [(a[:, keep], b[:, keep], c[keep]) for a, b, c in self.history]

    def finish(self) -> Solution:
        self._record(~self.ended, self.final_gaps[self.index], torch.zeros_like(self.ended))
        return Solution(self.result, self.final_values, self.final_gaps, self.passes, self.converged)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Dot product of each column: [F, P] × [F, P] → [P]."""
    products: Tensor = torch.linalg.vecdot(left, right, dim=0)
    return products


def _pseudo_gradient(columns: Tensor, gradient: Tensor, l1: float) -> Tensor:
    """The subgradient of least norm of the objective with l1 on every row but the last (the biases)."""
    if not l1:
        return gradient
    weights, slopes = columns[:-1], gradient[:-1]
    at_zero = torch.where(slopes > l1, slopes - l1, torch.where(slopes < -l1, slopes + l1, 0.0))
    result = gradient.clone()
    result[:-1] = torch.where(weights != 0, slopes + l1 * weights.sign(), at_zero)
    return result


def _shrink(before: Tensor, after: Tensor, slope: Tensor, lengths: Tensor) -> Tensor:
    """Factor for the step length, from the parabola through both values and the slope, within [0.1, 0.5]."""
    factor = -slope * lengths / (2 * (after - before - slope * lengths))
    return torch.where(torch.isfinite(factor), factor.clamp(0.1, 0.5), 0.1)


def label_groups(num_labels: int, num_inputs: int, copies: int, budget_bytes: int) -> Iterator[Sequence[int]]:
    """Groups of labels whose solver state (each label `copies` times) fits the budget."""
    per_label = num_inputs * 8 * (2 * MEMORY_PAIRS + 10) * copies
    size = max(1, min(num_labels, int(budget_bytes // max(1, per_label))))
    for start in range(0, num_labels, size):
        yield range(start, min(start + size, num_labels))
