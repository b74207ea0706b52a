"""What a procedure with confidence returns: thresholds, and for labels that cannot the best that they can do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms import LIMIT, LabelHistogram
from mlclf.decisions.objectives import Objective
from mlclf.decisions.thresholds import Thresholds
from mlclf.errors import ConfigError

CONSTRAINTS = ("precision", "recall", "fpr")
GRID_BYTES = 256
"""Temporary memory that a grid of cuts and its tests take for each bin."""

NEVER = -1


@dataclass(frozen=True)
class Certified:
    """Thresholds that hold with confidence.

    Attributes:
        thresholds: for each label `tuned`: the constraint holds with `thresholds.confidence`; `unattainable`: nothing
            could be certified, and the decision is the one that cannot break the constraint: never positive, or for
            `recall` always positive (threshold 0); `fallback` (0.5): no observed row that the constraint is about.
        best: K entries, None but for `unattainable` labels: the best that holds with the same confidence, as
            `{"precision" (or "recall", "fpr"): the bound, "threshold": where, None = never positive, "flagged": the
            sum of weights that it flags}`.
    """

    thresholds: Thresholds
    best: list[dict[str, float | None] | None]


class CutGrid(NamedTuple):
    """The cuts of k labels, [k, T] from the strictest on: the lower edges of the bins, fixed before the data.

    Attributes:
        score: [k, T] float32, a decision at the cut is ``score >= this``.
        lower: [k, T] float32, the greatest score that is not flagged, 0 if there is none.
        least: [k, T] float32, the least score of the bin, which is flagged.
        usable: [k, T] bool, True where the bin holds rows and no row below it is flagged.
        positives, flagged: [k, T] float64, sums of weights over the flagged rows.
        greatest: [k] float32, the greatest score of all rows.
    """

    score: Tensor
    lower: Tensor
    least: Tensor
    usable: Tensor
    positives: Tensor
    flagged: Tensor
    greatest: Tensor


class Choice(NamedTuple):
    """What was certified for k labels.

    Attributes:
        index: [k] int64, the chosen cut of the grid, NEVER where none is certified.
        best: [k] float64, the bound for the labels without one; NaN where there is none.
        best_index: [k] int64, its cut, NEVER for never positive.
    """

    index: Tensor
    best: Tensor
    best_index: Tensor


class Entries(NamedTuple):
    """The columns of `Thresholds` for k labels, and of `Certified.best`."""

    threshold: Tensor
    precision: Tensor
    recall: Tensor
    interval: Tensor
    best: Tensor
    best_threshold: Tensor
    best_flagged: Tensor
    attained: Tensor


def check_request(objective: Objective, confidence: float, across_labels: str | None) -> float:
    """Return the parameter of a constraint.

    Raises:
        ConfigError: The objective is no constraint, the confidence is not in (0, 1), or `across_labels` is unknown.
    """
    if objective.name not in CONSTRAINTS:
        raise ConfigError(f"the objective must be one of {', '.join(CONSTRAINTS)} to hold with confidence, "
                          f"got {str(objective)!r}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be above 0 and below 1, got {confidence!r}")
    if across_labels not in (None, "fdr"):
        raise ConfigError(f"across_labels must be 'fdr' or None, got {across_labels!r}")
    return objective.parameters[0]


def grid_of(histogram: LabelHistogram, labels: slice, scores_of: Callable[[Tensor], Tensor]) -> CutGrid:
    """Return the grid of a slice of labels.

    Of bins that no float32 score tells apart, the decision at one is that at the laxest; it flags the same rows
    wherever the cut is usable, and every test gives both the same answer.
    """
    positives = histogram.positives[labels]
    mass = positives + histogram.negatives[labels]
    least, greatest = histogram.least[labels], histogram.greatest[labels]
    nonempty = greatest >= least
    below = torch.full_like(greatest, -torch.inf)
    below[:, 1:] = greatest.cummax(1).values[:, :-1]
    lowest = below == -torch.inf
    num_bins = histogram.num_bins
    edges = (torch.arange(num_bins, dtype=torch.float64) * (2 * LIMIT / num_bins) - LIMIT).float().to(least.device)
    edges[0] = -torch.inf
    lower = scores_of(below.where(~lowest, 0.0)).where(~lowest, 0.0)
    least_score = scores_of(least.where(nonempty, 0.0))
    # float32 may put a logit a hair below an edge into the bin above it.
    score = scores_of(edges).expand_as(least_score).minimum(least_score.where(nonempty, 1.0))
    return CutGrid(
        score=score.flip(1),
        lower=lower.flip(1),
        least=least_score.flip(1),
        usable=(nonempty & (lowest | (score > lower))).flip(1),
        positives=positives.flip(1).cumsum(1),
        flagged=mass.flip(1).cumsum(1),
        greatest=scores_of(greatest.amax(1)),
    )


def last_of(found: Tensor) -> Tensor:
    """Return [k] int64, the laxest cut of [k, T] bool, NEVER where there is none."""
    width = found.shape[1]
    return (width - 1 - found.flip(1).byte().argmax(1)).where(found.any(1), NEVER)


def first_of(found: Tensor) -> Tensor:
    """Return [k] int64, the strictest cut of [k, T] bool, NEVER where there is none."""
    return found.byte().argmax(1).where(found.any(1), NEVER)


def entries_of(grid: CutGrid, choice: Choice, objective: Objective) -> Entries:
    """Return the numbers of k labels at what was chosen for them."""
    attained = choice.index != NEVER
    always = ~attained & (objective.name == "recall")
    index = choice.index.where(~always, grid.score.shape[1] - 1)
    never = index == NEVER
    at = index.clamp(min=0)[:, None]
    threshold = grid.score.gather(1, at)[:, 0].where(~never, torch.nan).where(~always, 0.0)
    true, flagged = (part.gather(1, at)[:, 0].where(~never, 0.0) for part in (grid.positives, grid.flagged))
    total = grid.positives[:, -1]
    lower = grid.lower.gather(1, at)[:, 0].where(~never, grid.greatest).where(~always, 0.0)
    upper = grid.least.gather(1, at)[:, 0].where(~never, torch.nan)
    # The strictest cut that flags every row, for those that flag all.
    lowest = last_of(grid.usable).clamp(min=0)[:, None]
    upper = upper.where(~always, grid.least.gather(1, lowest)[:, 0])
    best_at = choice.best_index.clamp(min=0)[:, None]
    best_never = choice.best_index == NEVER
    return Entries(
        threshold=threshold,
        precision=true / flagged,
        recall=true / total,
        interval=torch.stack([lower, upper], 1),
        best=choice.best,
        best_threshold=grid.score.gather(1, best_at)[:, 0].where(~best_never, torch.nan),
        best_flagged=grid.flagged.gather(1, best_at)[:, 0].where(~best_never, 0.0),
        attained=attained,
    )


def certified_of(
    slices: list[Entries], testable: Tensor, support: Tensor, objective: Objective, confidence: float, method: str
) -> Certified:
    """Put the entries of all labels together.

    Args:
        slices: entries of consecutive labels.
        testable: [K] bool, False for `fallback`.
        support: [K] int64, observed positive rows.
        objective: the constraint.
        confidence: the level.
        method: the name of the procedure.
    """
    all_ = Entries(*(torch.cat(column).cpu() for column in zip(*slices, strict=True)))
    testable = testable.cpu()
    columns = zip(testable.tolist(), all_.attained.tolist(), strict=True)
    status = ["fallback" if not can else "tuned" if attained else "unattainable" for can, attained in columns]
    f1 = 2 * all_.precision * all_.recall / (all_.precision + all_.recall)
    f1 = f1.where(all_.precision + all_.recall > 0, 0.0).where(all_.recall.isfinite(), torch.nan)
    thresholds = Thresholds(
        thresholds=all_.threshold.where(testable, 0.5),
        status=status,
        support=support.cpu(),
        precision=all_.precision.where(testable, torch.nan),
        recall=all_.recall.where(testable, torch.nan),
        f1=f1.where(testable, torch.nan),
        intervals=all_.interval.where(testable[:, None], torch.nan),
        objective=str(objective),
        method=method,
        confidence=confidence,
    )
    bests = zip(status, all_.best.tolist(), all_.best_threshold.tolist(), all_.best_flagged.tolist(), strict=True)
    return Certified(
        thresholds,
        [
            {objective.name: _number(bound), "threshold": _number(threshold), "flagged": flagged}
            if kind == "unattainable"
            else None
            for kind, bound, threshold, flagged in bests
        ],
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
