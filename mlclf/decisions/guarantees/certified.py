"""What a procedure with confidence returns: thresholds, and for labels that have none the best that can be had."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.guarantees.cut_grid import CutGrid
from mlclf.decisions.objectives.constraints import Constraint
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.objectives.table import OBJECTIVES
from mlclf.decisions.thresholds.cutoffs import NEVER, last_of
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.errors import ConfigError


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
        heaviest: [K] float64, the greatest weight of an observation that the test of the threshold has seen; None where
            all weigh 1.
    """

    thresholds: Thresholds
    best: list[dict[str, float | None] | None]
    heaviest: Tensor | None = None


class Entries(NamedTuple):
    """The columns of `Thresholds` for k labels; see there.

    Attributes:
        threshold: [k] float32.
        attained: [k] bool.
        precision, recall: [k] float64.
        interval: [k, 2] float32.
    """

    threshold: Tensor
    attained: Tensor
    precision: Tensor
    recall: Tensor
    interval: Tensor


class Bests(NamedTuple):
    """The best that can be certified for k labels.

    Attributes:
        bound: [k] float64, NaN where there is none.
        threshold: [k] float32, NaN = never positive.
        flagged: [k] float64, the sum of weights that it flags.
    """

    bound: Tensor
    threshold: Tensor
    flagged: Tensor


def checked_constraint(objective: Objective, confidence: float, across_labels: str | None) -> Constraint:
    """Return the objective, if it is one that can be held with confidence.

    Raises:
        ConfigError: The objective is no constraint, the confidence is not in (0, 1), or `across_labels` is unknown.
    """
    if not isinstance(objective, Constraint):
        names = ", ".join(name for name, kind in OBJECTIVES.items() if kind.is_constraint)
        raise ConfigError(f"the objective must be one of {names} to hold with confidence, got {str(objective)!r}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be above 0 and below 1, got {confidence!r}")
    if across_labels not in (None, "fdr"):
        raise ConfigError(f"across_labels must be 'fdr' or None, got {across_labels!r}")
    return objective


def entries_of(grid: CutGrid, index: Tensor, constraint: Constraint, greatest: Tensor) -> Entries:
    """Return the numbers of k labels at the cuts chosen for them.

    Args:
        grid: of the k labels.
        index: [k] int64, cuts of the grid, NEVER where none is certified.
        constraint: what is certified.
        greatest: [k] float32, the greatest score of each label.
    """
    attained = index != NEVER
    always = ~attained & constraint.holds_at_lax_cuts
    index = last_of(grid.usable).where(always, index)
    never = index == NEVER
    at = index.clamp(min=0)[:, None]
    threshold = grid.score.gather(1, at)[:, 0].where(~never, torch.nan).where(~always, 0.0)
    true, flagged = (part.gather(1, at)[:, 0].where(~never, 0.0) for part in (grid.positives, grid.flagged))
    lower = grid.lower.gather(1, at)[:, 0].where(~never, greatest)
    upper = grid.least.gather(1, at)[:, 0].where(~never, torch.nan)
    return Entries(threshold, attained, true / flagged, true / grid.positives[:, -1], torch.stack([lower, upper], 1))


def best_at(grid: CutGrid, index: Tensor, bound: Tensor) -> Bests:
    """Return the bounds [k] float64 with what the cuts [k] int64 are, NEVER for never positive."""
    never, at = index == NEVER, index.clamp(min=0)[:, None]
    threshold = grid.score.gather(1, at)[:, 0].where(~never, torch.nan)
    return Bests(bound, threshold, grid.flagged.gather(1, at)[:, 0].where(~never, 0.0))


def certified_of(
    entries: Entries,
    bests: Bests,
    testable: Tensor,
    support: Tensor,
    constraint: Constraint,
    confidence: float,
    method: str,
) -> Certified:
    """Put the columns of K labels together.

    Args:
        entries: of all labels.
        bests: of all labels; only those of labels that are unattainable are looked at.
        testable: [K] bool, False for `fallback`.
        support: [K] int64, observed positive rows.
        constraint: what is certified.
        confidence: the level.
        method: the name of the procedure.
    """
    entries, bests = Entries(*(column.cpu() for column in entries)), Bests(*(column.cpu() for column in bests))
    testable = testable.cpu()
    columns = zip(testable.tolist(), entries.attained.tolist(), strict=True)
    status = ["fallback" if not can else "tuned" if attained else "unattainable" for can, attained in columns]
    precision, recall = entries.precision, entries.recall
    f1 = torch.where(recall == 0, 0.0, 2 * precision * recall / (precision + recall))
    thresholds = Thresholds(
        thresholds=entries.threshold.where(testable, 0.5),
        status=status,
        support=support.cpu(),
        precision=precision.where(testable, torch.nan),
        recall=recall.where(testable, torch.nan),
        f1=f1.where(testable, torch.nan),
        intervals=entries.interval.where(testable[:, None], torch.nan),
        objective=str(constraint),
        method=method,
        confidence=confidence,
    )
    rows = zip(status, *(column.tolist() for column in bests), strict=True)
    best = [
        {constraint.name: _number(bound), "threshold": _number(threshold), "flagged": flagged}
        if kind == "unattainable"
        else None
        for kind, bound, threshold, flagged in rows
    ]
    return Certified(thresholds, best)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
