"""L-BFGS and its orthant-wise variant in float64, for many problems side by side over one stream of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.training.full_batch.chunks import Chunks, Problems
from mlclf.training.full_batch.objective import smooth_objective
from mlclf.training.full_batch.preconditioner import InputMoments, Preconditioner

MEMORY_PAIRS = 8

LEFT_OUT_AT = 0.25
"""Share of ended problems at which the others are copied together."""


@dataclass(frozen=True)
class Solution:
    """Where a solver stopped.

    Attributes:
        columns: [D + V + 1, P] float64.
        passes: passes over the rows.
        converged: [P] bool.
    """

    columns: Tensor
    passes: int
    converged: Tensor


def lbfgs(
    chunks: Chunks,
    problems: Problems,
    start: Tensor,
    moments: InputMoments,
    *,
    tolerance: float,
    newton: bool = False,
    max_passes: int = 500,
) -> Solution:
    """Minimize every problem by L-BFGS (Liu and Nocedal 1989), orthant-wise where l1 > 0 (Andrew and Gao 2007).

    Problems share each pass over the rows but have their own history, step length and end. It begins with
    the inverse Hessian at the start, as far as that is cheap. A problem has ended when the decrease that its next
    step predicts is below `tolerance`, or when no step decreases it (float64 has nothing left to give).

    Args:
        start: [D + V + 1, P] float64.
        moments: of the inputs.
        tolerance: in units of the objective (nats a row).
        newton: begin with the whole Hessians where they are cheap enough: for a start near the optimum.
    """
    search = _Search(chunks, problems, start.clone(), moments, newton)
    while search.active and search.passes < max_passes:
        search.step(tolerance)
    return search.finish()


class _Search:
    """The state of `lbfgs`. Ended problems stand still until enough have ended for it to pay to leave them out."""

    def __init__(self, chunks: Chunks, problems: Problems, start: Tensor, moments: InputMoments, newton: bool) -> None:
        self.chunks, self.problems = chunks, problems
        self.result = start
        self.index = torch.arange(len(problems))
        self.columns = start.clone()
        self.passes = 0
        self.converged = torch.zeros(len(problems), dtype=torch.bool)
        self.values, self.gradient = self._evaluate(self.columns, self.problems)
        self.preconditioner = Preconditioner.at_prior(moments, self.columns[-1], problems)
        if newton and not problems.l1 and moments.allow_hessians(len(problems)):
            self.preconditioner = self.preconditioner.at(chunks, problems, start)
            self.passes += 1
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

    def step(self, tolerance: float) -> None:
        pseudo = pseudo_gradient(self.columns, self.gradient, self.problems.l1)
        direction = self._direction(pseudo)
        slope = _dots(pseudo, direction)
        wrong = slope > 0
        if wrong.any():
            direction[:, wrong] = -self.preconditioner(pseudo)[:, wrong]
            slope = _dots(pseudo, direction)
        gaps = -slope / 2
        ending = ((gaps <= tolerance) | self.failed) & ~self.ended
        self._record(ending, gaps <= max(tolerance, 1e-9))
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
        direction = self.preconditioner(direction).mul_(self.scale)
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
        size = _dots(self.preconditioner(change), change)
        self.scale = torch.where(usable & (size > 0), curvature / size.clamp_min(1e-300), self.scale)

    def _record(self, ending: Tensor, converged: Tensor) -> None:
        """Write problems that have ended into the result."""
        if ending.any():
            places = self.index[ending]
            self.result[:, places] = self.columns[:, ending]
            self.converged[places] = converged[ending]

    def _keep(self, keep: Tensor) -> None:
        """Go on with some of the problems."""
        self.index, self.problems = self.index[keep], self.problems.chosen(keep)
        self.columns, self.values, self.gradient = self.columns[:, keep], self.values[keep], self.gradient[:, keep]
        self.preconditioner = self.preconditioner.chosen(keep)
        self.scale, self.failed, self.ended = self.scale[keep], self.failed[keep], self.ended[keep]
        self.history = [(a[:, keep], b[:, keep], c[keep]) for a, b, c in self.history]

    def finish(self) -> Solution:
        self._record(~self.ended, torch.zeros_like(self.ended))
        return Solution(self.result, self.passes, self.converged)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Dot product of each column: [F, P] × [F, P] → [P]."""
    products: Tensor = torch.linalg.vecdot(left, right, dim=0)
    return products


def pseudo_gradient(columns: Tensor, gradient: Tensor, l1: float) -> Tensor:
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
