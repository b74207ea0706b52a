"""How near the optimum of the convex problem some weights are: norm of the full gradient, duality gap, separation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.training.full_batch.chunks import Chunk, Chunks, Problems, cell_weights, problem_slices
from mlclf.training.full_batch.lbfgs import pseudo_gradient
from mlclf.training.losses import loss_and_slope

MOST_INPUTS = 1500
"""Up to which separation of a part of the rows is looked for: it takes the eigenvectors of a matrix of so many rows."""

_SURE = (24.0, 12.0, 6.0, 3.0)
"""Margins tried, from which on a row is taken for one that the weights set apart; most of them stop at about 30."""

_FLAT = 1e-9
"""Share of the greatest eigenvalue below which a direction changes nothing."""

_NEARLY = 1e-6


@dataclass(frozen=True)
class Optimality:
    """Of P problems, in nats a row; [P] float64 each.

    Attributes:
        losses: the data term.
        gradient_norms: Euclidean norm of the gradient of the whole objective, with l1 of its least subgradient.
        gaps: what the objective is above its least at most, by Fenchel duality; NaN where nothing bounds it, which is
            without l2 and l1.
        separates: bool, True where the weights put every positive row above every negative one, or, without l2 and l1,
            some of the rows apart while they leave the others as they are. Without l2 and l1 there are no best weights
            then: larger ones are better (complete and quasi-complete separation, Albert and Anderson 1984). The latter
            is looked for in the direction of the weights, and may be missed.
    """

    losses: Tensor
    gradient_norms: Tensor
    gaps: Tensor
    separates: Tensor

    def known(self, observed: Tensor, solved: Tensor) -> Optimality:
        """The same with NaN where nothing is observed, and but for the loss where a label has one class; [P] bool."""
        nothing = torch.full_like(self.losses, torch.nan)
        return Optimality(
            self.losses.where(observed, nothing),
            self.gradient_norms.where(solved, nothing),
            self.gaps.where(solved, nothing),
            self.separates & solved,
        )

    @classmethod
    def joined(cls, parts: Sequence[Optimality]) -> Optimality:
        """Those of all problems, from groups of them."""
        columns = ((part.losses, part.gradient_norms, part.gaps, part.separates) for part in parts)
        return cls(*(torch.cat(column) for column in zip(*columns, strict=True)))


def optimality_of(chunks: Chunks, problems: Problems, columns: Tensor) -> Optimality:
    """Measure weights by two passes over the rows, in float64.

    With row i of share cᵢ, loss φᵢ, slope uᵢ and Ω the penalty of the weights, the dual of min Σ cᵢ φᵢ(zᵢ) + Ω(w) is
    max −Σ cᵢ φᵢ*(uᵢ) − Ω*(−Σ cᵢ uᵢ xᵢ) over slopes with Σ cᵢ uᵢ = 0, since the bias is free (Rockafellar 1970, section
    31). The slopes at hand nearly have that sum; those of the class that has too much are made smaller until they do,
    which leaves each in the domain of φ*. With l1 alone all are made smaller until Ω* is finite (Ndiaye et al. 2017).

    Args:
        columns: [D + V + 1, P] float64.
    """
    first = _FirstPass.of(chunks, problems, columns)
    weights = columns[:-1]
    penalty = 0.5 * problems.l2 * weights.square().sum(0) + problems.l1 * weights.abs().sum(0)
    gradient = first.gradient.clone()
    gradient[:-1] += problems.l2 * weights
    norms = torch.linalg.vector_norm(pseudo_gradient(columns, gradient, problems.l1), dim=0)
    separates = first.least_positive > first.greatest_negative
    if problems.l1 == 0 and len(columns) <= MOST_INPUTS:
        for index in ((problems.l2 == 0) & ~separates).nonzero()[:, 0].tolist():
            alone = torch.tensor([index])
            problem, column = problems.chosen(alone), columns[:, alone]
            separates[index] = any(_separates_partly(chunks, problem, column, sure) for sure in _SURE)
    gaps = (first.losses + penalty - _dual_value(chunks, problems, columns, first)).clamp_min(0)
    return Optimality(first.losses, norms, gaps, separates)


@dataclass
class _FirstPass:
    """Sums over all rows.

    Attributes:
        losses: [P]; gradient: [D + V + 1, P] of them.
        falls, rises: [P], sums of the slopes below 0, of positive rows, and above.
        least_positive, greatest_negative: [P], of the logits; +inf and −inf without such a row.
    """

    losses: Tensor
    gradient: Tensor
    falls: Tensor
    rises: Tensor
    least_positive: Tensor
    greatest_negative: Tensor

    @classmethod
    def of(cls, chunks: Chunks, problems: Problems, columns: Tensor) -> _FirstPass:
        zeros = torch.zeros(len(problems), dtype=torch.float64)
        far = torch.full_like(zeros, torch.inf)
        found = cls(zeros.clone(), torch.zeros_like(columns), zeros.clone(), zeros.clone(), far.clone(), -far)
        for chunk in chunks():
            for part in problem_slices(chunk, problems):
                found._add(chunk, problems, columns, part)
        return found

    def _add(self, chunk: Chunk, problems: Problems, columns: Tensor, part: slice) -> None:
        labels = chunk.labels[:, problems.labels[part]].double()
        cells = cell_weights(chunk, problems, part)
        logits = chunk.logits(columns[:, part])
        loss, slope = loss_and_slope(logits, labels, problems.pos_weight[part])
        slope = slope * cells
        self.losses[part] += torch.linalg.vecdot(loss, cells, dim=0)
        self.gradient[:, part] += chunk.back(slope)
        self.falls[part] += slope.clamp(max=0).sum(0)
        self.rises[part] += slope.clamp(min=0).sum(0)
        if len(chunk):
            seen, positive = cells > 0, labels > 0
            least = logits.where(seen & positive, torch.inf).amin(0)
            greatest = logits.where(seen & ~positive, -torch.inf).amax(0)
            self.least_positive[part] = torch.minimum(self.least_positive[part], least)
            self.greatest_negative[part] = torch.maximum(self.greatest_negative[part], greatest)


def _separates_partly(chunks: Chunks, problem: Problems, columns: Tensor, sure: float) -> bool:
    """Whether the part of the weights that changes no row of a margin below `sure` leaves all others on their sides.

    Along it no loss rises and some fall, so it can be lengthened for ever.
    """
    num_inputs = len(columns)
    doubtful = torch.zeros(1, num_inputs, num_inputs, dtype=torch.float64)
    squares = torch.zeros_like(columns)
    for chunk in chunks():
        cells, margins = _margins(chunk, problem, columns)
        chunk.add_products(((cells > 0) & (margins < sure)).double(), torch.arange(num_inputs), doubtful)
        squares += chunk.squares((cells > 0).double())
    scale = squares[:, 0].sqrt().clamp_min(1e-300)
    values, vectors = torch.linalg.eigh(doubtful[0] / scale / scale[:, None])
    flat = vectors[:, values <= _FLAT]
    direction = (flat @ (flat.T @ (columns[:, 0] * scale)) / scale)[:, None]
    least, greatest = torch.inf, 0.0
    for chunk in chunks():
        cells, margins = _margins(chunk, problem, direction)
        seen = margins[cells > 0]
        if len(seen):
            least, greatest = min(least, float(seen.min())), max(greatest, float(seen.max()))
    return greatest >= 1 and least >= -_NEARLY * greatest


def _margins(chunk: Chunk, problem: Problems, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [n, 1] of one problem's rows, and their logits, negated for negative rows."""
    positive = chunk.labels[:, problem.labels] > 0
    logits = chunk.logits(columns)
    return cell_weights(chunk, problem, slice(0, 1)), torch.where(positive, logits, -logits)


def _dual_value(chunks: Chunks, problems: Problems, columns: Tensor, first: _FirstPass) -> Tensor:
    """The dual at the slopes made feasible, [P]; NaN without a penalty, whose dual asks for Σ cᵢ uᵢ xᵢ = 0."""
    both = torch.minimum(-first.falls, first.rises)
    fewer_falls, fewer_rises = (
        torch.where(total > 0, both / total.clamp_min(1e-300), 1.0) for total in (-first.falls, first.rises)
    )
    shrink = torch.ones_like(both)
    if problems.l1:
        pulls = _conjugates(chunks, problems, columns, fewer_falls, fewer_rises)[1]
        bound = pulls[:-1].abs().amax(0)
        needed = torch.where(problems.l2 > 0, 1.0, problems.l1 / bound.clamp_min(problems.l1))
        shrink = torch.minimum(shrink, needed)
    conjugates, pulls = _conjugates(chunks, problems, columns, fewer_falls * shrink, fewer_rises * shrink)
    excess = (pulls[:-1].abs() - problems.l1).clamp_min(0)
    if problems.l1:
        excess = excess.where(problems.l2 > 0, 0.0)
    dual = -conjugates - (excess.square() / (2 * problems.l2)).nan_to_num(0.0, posinf=torch.inf).sum(0)
    return dual.where((problems.l2 > 0) | (problems.l1 > 0), torch.nan)


def _conjugates(
    chunks: Chunks, problems: Problems, columns: Tensor, fall: Tensor, rise: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ cᵢ φᵢ*(uᵢ) [P] and Σ cᵢ uᵢ xᵢ [D + V + 1, P], slopes below 0 being multiplied by `fall`, above by `rise`.

    For a row of factor f (pos_weight or 1) φ* is f (t log t + (1 − t) log(1 − t)) with t = |u| ÷ f.
    """
    conjugates = torch.zeros(len(problems), dtype=torch.float64)
    pulls = torch.zeros_like(columns)
    for chunk in chunks():
        for part in problem_slices(chunk, problems):
            labels = chunk.labels[:, problems.labels[part]].double()
            cells = cell_weights(chunk, problems, part)
            pos_weight = problems.pos_weight[part]
            slope = loss_and_slope(chunk.logits(columns[:, part]), labels, pos_weight)[1]
            slope = slope * torch.where(slope < 0, fall[part], rise[part])
            factor = torch.where(labels > 0, pos_weight, 1.0)
            share = (slope.abs() / factor).nan_to_num(0.0).clamp(max=1)
            entropy = torch.special.entr(share) + torch.special.entr(1 - share)
            conjugates[part] -= torch.linalg.vecdot(entropy, factor * cells, dim=0)
            pulls[:, part] += chunk.back(slope * cells)
    return conjugates, pulls
