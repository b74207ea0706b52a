"""A second pass over the rows, for bins that leave more room for AUROC or average precision than is tolerated."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.ranking import area_steps, has_both_classes, precision_steps

TOLERANCE = 1e-4
MOST_STEPS = 65_536
BUDGET_STEPS = 1 << 24
"""Steps of all labels together; each takes 24 bytes."""


class Steps(NamedTuple):
    """Bins of one label that hold something, rising in the logit; empty ones may lie between."""

    positives: Tensor  # [M] float64
    negatives: Tensor  # [M] float64
    least: Tensor  # [M] float32
    greatest: Tensor  # [M] float32


class _Split(NamedTuple):
    """How the refined steps of a label are split: by the bits of the logit, so that no two numbers stay together."""

    first: Tensor  # [R] int64, the key of the least logit of each refined step, rising
    last: Tensor  # [R] int64, of the greatest
    shift: Tensor  # [R] int64, keys that share all but these bits share a new step
    start: Tensor  # [R] int64, the first new step of each
    num_steps: int


class Refinement:
    """Counts the cells of refined bins again, in finer steps; the others stay as they were.

        refinement = Refinement.needed(histogram)
        while refinement is not None:
            for batch in the same rows:
                refinement.update(batch)
            values, bounds = refinement.auroc()
            refinement = Refinement.needed(refinement)

    Steps are split by the bits of the logit, and a step of one float32 number is exact: it ends. On the CPU.
    """

    def __init__(self, base: LabelHistogram | Refinement, splits: list[_Split | None]) -> None:
        """Use `Refinement.needed`."""
        self.base, self.splits = base, splits
        self.histogram: LabelHistogram = base if isinstance(base, LabelHistogram) else base.histogram
        self.found = [None if split is None else _empty(split.num_steps) for split in splits]

    @classmethod
    def needed(cls, counted: LabelHistogram | Refinement, tolerance: float = TOLERANCE) -> Self | None:
        """Return what refines the labels whose interval of AUROC or AP is wider than `tolerance`; None if none is."""
        histogram = counted if isinstance(counted, LabelHistogram) else counted.histogram
        defined = has_both_classes(histogram).tolist()
        most = max(2, min(MOST_STEPS, BUDGET_STEPS // max(1, histogram.num_labels)))
        splits = [
            _split(steps_of(counted, label), histogram.least_weight, tolerance, most) if is_defined else None
            for label, is_defined in enumerate(defined)
        ]
        return None if all(split is None for split in splits) else cls(counted, splits)

    def update(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Count a batch of the rows that the histogram was made of; arguments as `LabelHistogram.update` takes them."""
        for label, (split, found) in enumerate(zip(self.splits, self.found, strict=True)):
            if split is None or found is None:
                continue
            logit, truth = logits[:, label].float(), labels[:, label] != 0
            weight = None if weights is None else weights if weights.dim() == 1 else weights[:, label]
            seen = None if mask is None else mask[:, label]
            if weight is not None:
                seen = weight > 0 if seen is None else seen & (weight > 0)
            if seen is not None:
                logit, truth = logit[seen], truth[seen]
                weight = None if weight is None else weight[seen]
            _count(split, found, logit, truth, weight)

    def auroc(self) -> tuple[Tensor, Tensor]:
        """Values and bounds of `ranking.auroc`, [K] float64 each, from the finer steps."""
        return self._ranking()[0]

    def average_precision(self) -> tuple[Tensor, Tensor]:
        """Values and bounds of `ranking.average_precision`, [K] float64 each, from the finer steps."""
        return self._ranking()[1]

    def _ranking(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        numbers = torch.full((4, self.histogram.num_labels), torch.nan, dtype=torch.float64)
        for label, is_defined in enumerate(has_both_classes(self.histogram).tolist()):
            if is_defined:
                found = _measured(steps_of(self, label), self.histogram.least_weight.cpu())
                for (value, shares), row in zip(found, (0, 2), strict=True):
                    numbers[row, label], numbers[row + 1, label] = value, shares.sum() / 2
        return (numbers[0], numbers[1]), (numbers[2], numbers[3])


def steps_of(counted: LabelHistogram | Refinement, label: int) -> Steps:
    """Return the steps of a label, on the CPU: non-empty bins, refined ones replaced by what they were split into."""
    if isinstance(counted, LabelHistogram):
        kept = counted.greatest[label] >= counted.least[label]
        columns = (counted.positives[label], counted.negatives[label], counted.least[label], counted.greatest[label])
        return Steps(*(column[kept].cpu() for column in columns))
    before, split, fine = steps_of(counted.base, label), counted.splits[label], counted.found[label]
    if split is None or fine is None:
        return before
    filled = fine.greatest >= fine.least
    whole = ~torch.isin(keys(before.least), split.first)
    joined = Steps(*(torch.cat([old[whole], new[filled]]) for old, new in zip(before, fine, strict=True)))
    order = joined.least.argsort()
    return Steps(*(column[order] for column in joined))


def keys(logits: Tensor) -> Tensor:
    """Return int64 numbers that follow the order of float32 logits, neighbours one apart; both zeros are 0."""
    bits = (logits + 0.0).view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _empty(num_steps: int) -> Steps:
    p, n = (torch.zeros(num_steps, dtype=torch.float64) for _ in range(2))
    return Steps(p, n, torch.full((num_steps,), torch.inf), torch.full((num_steps,), -torch.inf))


def _measured(steps: Steps, least_weight: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The value [] and the shares [M] of AUROC and of average precision."""
    p, n, spread = steps.positives[None], steps.negatives[None], (steps.greatest > steps.least)[None]
    area, precision = area_steps(p, n, spread), precision_steps(p, n, spread, least_weight)
    return (area[0][0], area[1][0]), (precision[0][0], precision[1][0])


def _split(steps: Steps, least_weight: Tensor, tolerance: float, most: int) -> _Split | None:
    """Split the steps of the largest shares, so that those left have half of the tolerance, into at most `most`.

    A step split into m has about 1/m of its share left, so the sum is least with m in proportion to the root of it.
    """
    (_, areas), (_, precisions) = _measured(steps, least_weight.cpu())
    if max(float(areas.sum()), float(precisions.sum())) <= tolerance:
        return None
    shares, order = torch.maximum(areas, precisions).sort(descending=True)
    left = shares.flip(0).cumsum(0).flip(0)
    chosen = order[: most // 4][(left > tolerance / 2)[: most // 4]].sort().values
    first, last = keys(steps.least[chosen]), keys(steps.greatest[chosen])
    roots = torch.maximum(areas, precisions)[chosen].sqrt()
    wanted = (roots / roots.sum() * (most // 2)).clamp_min(2)
    shift = torch.log2((last - first + 1) / wanted).ceil().clamp_min(0).long()
    sizes = ((last - first) >> shift) + 1
    return _Split(first, last, shift, sizes.cumsum(0) - sizes, int(sizes.sum()))


def _count(split: _Split, found: Steps, logits: Tensor, truth: Tensor, weights: Tensor | None) -> None:
    place = keys(logits)
    step = torch.searchsorted(split.first, place, right=True) - 1
    inside = ((step >= 0) & (place <= split.last[step.clamp_min(0)])).nonzero()[:, 0]
    step, place, logits, truth = step[inside], place[inside], logits[inside], truth[inside]
    target = split.start[step] + ((place - split.first[step]) >> split.shift[step])
    mass = torch.ones(len(inside), dtype=torch.float64) if weights is None else weights[inside].double()
    found.positives.index_add_(0, target, mass * truth)
    found.negatives.index_add_(0, target, mass * ~truth)
    found.least.scatter_reduce_(0, target, logits, "amin")
    found.greatest.scatter_reduce_(0, target, logits, "amax")
