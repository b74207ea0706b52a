"""An approximate inverse Hessian, for the first steps of a solver."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.training.full_batch.chunks import Chunks, Problems, cell_weights, problem_slices

MOST_AXES = 768
"""Inputs that are taken together where a Hessian is approximated."""

AXES_PRODUCTS = 1 << 35
"""Multiplications up to which their second moments are found; more rows have fewer inputs taken together."""

HESSIAN_PRODUCTS, HESSIAN_BYTES = 1 << 37, 64 << 20
"""Multiplications and memory up to which Hessians are found."""

LEAST_RATIO = 1e-9
"""Of an input's mean square to the largest; below it, the axes would be lost in rounding."""


@dataclass(frozen=True)
class InputMoments:
    """Second moments of the inputs over all rows, for the first steps of `lbfgs`.

    Attributes:
        rows: how many.
        squares: [D + V + 1], mean square of every input and of the bias's 1.
        kept: [A] int64, rising: the dense inputs and those of the others with the largest mean squares, MOST_AXES or
            as many as the rows allow. None where there are more dense ones, or none and more others (for wide sparse
            rows it costs what it saves), or a dense one whose mean square is below LEAST_RATIO.
        axes: [A, A], principal axes of these inputs, as columns.
        spread: [A], mean square along each axis.
    """

    rows: int
    squares: Tensor
    kept: Tensor
    axes: Tensor
    spread: Tensor

    @classmethod
    def of(cls, chunks: Chunks) -> InputMoments:
        total, rows, num_dense, weight = None, 0, 0, 0.0
        for chunk in chunks():
            found = chunk.squares(chunk.weights[:, None])[:, 0]
            total = found if total is None else total.add_(found)
            rows += len(chunk)
            num_dense = chunk.dense.shape[1]
            weight += float(chunk.weights.sum())
        assert total is not None
        squares = total / max(weight, 1e-300)
        large = squares >= LEAST_RATIO * squares.max()
        most = min(MOST_AXES, math.isqrt(AXES_PRODUCTS // max(1, rows)))
        order = squares[num_dense:-1].argsort(descending=True, stable=True)[: max(0, most - num_dense)] + num_dense
        kept = torch.cat([torch.arange(num_dense), order[large[order]].sort().values])
        sparse_alone = num_dense == 0 and len(squares) - 1 > most
        lost = ~large & (squares > 0)
        if sparse_alone or num_dense > most or bool(lost[:num_dense].any()):
            kept = kept[:0]
        products = torch.zeros(len(kept), len(kept), dtype=torch.float64)
        if len(kept):
            for chunk in chunks():
                chunk.add_products(chunk.weights[:, None], kept, products[None])
        spread, axes = torch.linalg.eigh(products / max(weight, 1e-300))
        return cls(rows, squares, kept, axes, spread.clamp_min(0))

    def allow_hessians(self, count: int) -> bool:
        """Whether so many whole Hessians of the kept inputs are cheap enough."""
        cells = count * (len(self.kept) + 1) ** 2
        return len(self.kept) > 0 and 8 * cells <= HESSIAN_BYTES and self.rows * cells <= HESSIAN_PRODUCTS


@dataclass(frozen=True)
class Preconditioner:
    """An approximate inverse Hessian: diagonal, but dense over the inputs that `InputMoments` keeps.

    Attributes:
        inverse: [D + V + 1, P], of the diagonal.
        kept: [A] int64, inputs that are taken together.
        axes, along: [A, A] and [A, P], principal axes of these inputs, and the inverse Hessian along each.
        factors: [P, A, A], Cholesky factors, in place of axes; None without.
    """

    inverse: Tensor
    kept: Tensor
    axes: Tensor
    along: Tensor
    factors: Tensor | None

    @classmethod
    def at_prior(cls, moments: InputMoments, biases: Tensor, problems: Problems) -> Preconditioner:
        """Of mean(input · inputᵀ)·p(1 − p) + l2 with p from the biases [P]; with l1 the diagonal alone."""
        share = torch.sigmoid(biases)
        variance = (share * (1 - share)).clamp_min(1e-6)
        curvature = moments.squares[:, None] * variance
        curvature[:-1] += problems.l2
        kept = moments.kept[:0] if problems.l1 else moments.kept
        along = moments.spread[:, None] * variance + problems.l2
        return cls(1 / curvature.clamp_min(1e-12), kept, moments.axes, 1 / along.clamp_min(1e-12), None)

    def at(self, chunks: Chunks, problems: Problems, columns: Tensor) -> Preconditioner:
        """The inverse Hessians at `columns` [D + V + 1, P]; the diagonal of one that is not positive definite."""
        kept = torch.cat([self.kept, torch.tensor([len(columns) - 1])])
        found = torch.zeros(len(problems), len(kept), len(kept), dtype=torch.float64)
        diagonal = torch.zeros_like(columns)
        for chunk in chunks():
            for part in problem_slices(chunk, problems):
                share = torch.sigmoid(chunk.logits(columns[:, part]))
                cells = cell_weights(chunk, problems, part).mul_(share * (1 - share))
                cells *= torch.where(chunk.labels[:, problems.labels[part]] > 0, problems.pos_weight[part], 1.0)
                diagonal[:, part] += chunk.squares(cells)
                chunk.add_products(cells, kept, found[part])
        found.diagonal(dim1=1, dim2=2)[:, :-1] += problems.l2[:, None]
        diagonal[:-1] += problems.l2
        diagonal.clamp_min_(1e-12)
        factors, failed = torch.linalg.cholesky_ex(found)
        factors[failed > 0] = torch.diag_embed(diagonal[kept].T[failed > 0].sqrt())
        return Preconditioner(1 / diagonal, kept, self.axes, self.along, factors)

    def __call__(self, columns: Tensor) -> Tensor:
        """The inverse Hessian times each column of [D + V + 1, P]."""
        result = columns * self.inverse
        if self.factors is not None:
            result[self.kept] = torch.cholesky_solve(columns[self.kept].T[:, :, None], self.factors)[:, :, 0].T
        elif len(self.kept):
            result[self.kept] = self.axes @ ((self.axes.T @ columns[self.kept]) * self.along)
        return result

    def chosen(self, keep: Tensor) -> Preconditioner:
        """Of some of the problems."""
        factors = None if self.factors is None else self.factors[keep]
        return Preconditioner(self.inverse[:, keep], self.kept, self.axes, self.along[:, keep], factors)
