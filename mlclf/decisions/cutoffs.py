"""The cut-offs that a histogram offers for each label, and the one that serves an objective best."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.objectives import Objective

CUT_BYTES = 200
"""Temporary memory that `cuts_of` and `choose_cuts` take for each bin."""
_NEVER = -1


class Cuts(NamedTuple):
    """The cut-offs of k labels, [k, T] from the highest bin down; sums are over the flagged rows."""

    usable: Tensor  # bool: a cut here flags this bin and those above, and nothing else
    score: Tensor  # float32: the cut-off
    lower: Tensor  # float32: the greatest score that is not flagged, 0 if there is none
    positives: Tensor  # float64
    flagged: Tensor  # float64: positives and negatives
    expected: Tensor  # float64: the sum of scores
    greatest: Tensor  # [k] float32: the greatest score of all rows


class ChosenCuts(NamedTuple):
    """The cut-offs chosen for k labels; see `Thresholds` for what the numbers mean."""

    threshold: Tensor  # [k] float32, NaN = never positive
    shrunk: Tensor  # [k] bool, True where shrinkage changed the choice
    precision: Tensor  # [k] float64
    recall: Tensor  # [k] float64
    f1: Tensor  # [k] float64
    interval: Tensor  # [k, 2] float32


def cuts_of(histogram: LabelHistogram, labels: slice, scores_of: Callable[[Tensor], Tensor]) -> Cuts:
    """Return the cut-offs of a slice of labels: the least score of every bin.

    A cut is usable if its bin holds rows and no row below has the same float32 score.
    """
    positives = histogram.positives[labels]
    mass = positives + histogram.negatives[labels]
    least, greatest = histogram.least[labels], histogram.greatest[labels]
    nonempty = greatest >= least
    below = torch.full_like(greatest, -torch.inf)
    below[:, 1:] = greatest.cummax(1).values[:, :-1]
    lowest = below == -torch.inf
    score = scores_of(least.where(nonempty, 0.0))
    lower = scores_of(below.where(~lowest, 0.0)).where(~lowest, 0.0)
    expected = mass * histogram.bin_scores(scores_of, labels)
    return Cuts(
        usable=(nonempty & (lowest | (score > lower))).flip(1),
        score=score.flip(1),
        lower=lower.flip(1),
        positives=positives.flip(1).cumsum(1),
        flagged=mass.flip(1).cumsum(1),
        expected=expected.flip(1).cumsum(1),
        greatest=scores_of(greatest.amax(1)),
    )


def choose_cuts(cuts: Cuts, objective: Objective, positive_rows: Tensor, prior_positives: float) -> ChosenCuts:
    """Return the best cut of each label, `positive_rows` being [k] int64; see `tune_thresholds`."""
    plain = _best(cuts, objective)
    index = plain
    if objective.name in ("f1", "fbeta"):
        trust = (positive_rows / (positive_rows + prior_positives)).nan_to_num().double()[:, None]
        index = _best(cuts._replace(positives=trust * cuts.positives + (1 - trust) * cuts.expected), objective)
    never = index == _NEVER
    at = index.clamp(min=0)[:, None]
    threshold = cuts.score.gather(1, at)[:, 0].where(~never, torch.nan)
    lower = cuts.lower.gather(1, at)[:, 0].where(~never, cuts.greatest)
    true = cuts.positives.gather(1, at)[:, 0].where(~never, 0.0)
    flagged = cuts.flagged.gather(1, at)[:, 0].where(~never, 0.0)
    total = cuts.positives[:, -1]
    return ChosenCuts(
        threshold=threshold,
        shrunk=index != plain,
        precision=true / flagged,
        recall=true / total,
        f1=2 * true / (total + flagged),
        interval=torch.stack([lower, threshold], 1),
    )


def _best(cuts: Cuts, objective: Objective) -> Tensor:
    """Return [k] int64, where in `cuts` the best one is, or _NEVER; the first, so the highest, of equals."""
    match objective.name, objective.parameters:
        case "precision", (least,):
            met = cuts.usable & (cuts.positives / cuts.flagged >= least)
            return cuts.positives.where(met, -1.0).argmax(1).where(met.any(1), _NEVER)
        case "recall", (least,):
            met = cuts.usable & (cuts.positives / cuts.positives[:, -1:] >= least)
            return met.byte().argmax(1)
        case "cost", (false_positive, false_negative):
            return _cheapest(cuts, false_positive, false_negative)
        case _, parameters:
            weight = parameters[0] ** 2 if parameters else 1.0
            quality = (1 + weight) * cuts.positives / (weight * cuts.positives[:, -1:] + cuts.flagged)
            return quality.where(cuts.usable, -1.0).argmax(1)


def _cheapest(cuts: Cuts, false_positive: float, false_negative: float) -> Tensor:
    total = cuts.positives[:, -1:]
    cost = false_positive * (cuts.flagged - cuts.positives) + false_negative * (total - cuts.positives)
    cost = cost.where(cuts.usable, torch.inf)
    index = cost.argmin(1)
    least = cost.gather(1, index[:, None])[:, 0]
    return index.where(least < false_negative * total[:, 0], _NEVER)
