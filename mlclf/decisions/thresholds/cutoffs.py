"""The cut-offs that a histogram offers for each label, and the one that serves an objective best."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.bins import middle_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.thresholds.objectives import Objective

CUT_BYTES = 200
"""Temporary memory that `cuts_of` and the choice of a cut take for each bin."""
NEVER = -1

Probabilities = Callable[[Tensor, slice], Tensor]
"""float32 logits [k, n] of a slice of labels to calibrated probabilities [k, n]."""


class Outcome(NamedTuple):
    """What thresholds of k labels do on the rows of the cuts."""

    place: Tensor  # [k] int64, where in the cuts they are, or NEVER
    threshold: Tensor  # [k] float32, NaN = never positive
    precision: Tensor  # [k] float64
    recall: Tensor  # [k] float64
    f1: Tensor  # [k] float64
    interval: Tensor  # [k, 2] float32, see `Thresholds`


class Cuts(NamedTuple):
    """The cut-offs of k labels, [k, T] from the highest bin down; sums are over the flagged rows."""

    usable: Tensor  # bool: a cut here flags this bin and those above, and nothing else
    score: Tensor  # float32: the cut-off
    lower: Tensor  # float32: the greatest score that is not flagged, 0 if there is none
    positives: Tensor  # float64
    flagged: Tensor  # float64: positives and negatives
    expected: Tensor  # float64: the sum of probabilities
    probability: Tensor  # float64: the probability of the bin
    greatest: Tensor  # [k] float32: the greatest score of all rows

    def blended(self, positive_rows: Tensor, prior_positives: float) -> Cuts:
        """The cuts with true positives drawn to what the probabilities promise, by the weight P / (P + prior)."""
        if prior_positives == 0:
            return self
        trust = (positive_rows / (positive_rows + prior_positives)).double()[:, None]
        return self._replace(positives=trust * self.positives + (1 - trust) * self.expected)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """True positives and flagged rows [k] at `index` [k]; 0 where it is NEVER."""
        never, place = index == NEVER, index.clamp(min=0)[:, None]
        return (
            self.positives.gather(1, place)[:, 0].where(~never, 0.0),
            self.flagged.gather(1, place)[:, 0].where(~never, 0.0),
        )

    def outcome(self, thresholds: Tensor) -> Outcome:
        """What `thresholds` [k] float32 do; inside a bin, which is never cut, they move to its upper end."""
        index = self._found(thresholds)
        lower, upper = self.gap(index)
        true, flagged = self.at(index)
        total = self.positives[:, -1]
        return Outcome(
            index,
            torch.maximum(thresholds, torch.minimum(just_above(lower), upper.nan_to_num(1.0))),
            true / flagged,
            true / total,
            f_measure(true, flagged, total),
            torch.stack([lower, upper], 1),
        )

    def _found(self, thresholds: Tensor) -> Tensor:
        """[k] int64, the cut that flags what reaches `thresholds` [k] float32, whole bins alone; NEVER if none does."""
        above = self.usable & (self.score >= thresholds[:, None])
        return (above.shape[1] - 1 - above.flip(1).byte().argmax(1)).where(above.any(1), NEVER)

    def gap(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """[k] float32 each, the ends of (lower, upper], where every threshold cuts at `index` [k]; NaN above NEVER."""
        never, place = index == NEVER, index.clamp(min=0)[:, None]
        return (
            self.lower.gather(1, place)[:, 0].where(~never, self.greatest),
            self.score.gather(1, place)[:, 0].where(~never, torch.nan),
        )


class Joint(NamedTuple):
    """What the best cut of one label has to know of all labels together.

    Attributes:
        level: micro-F1 at the optimum; of an alert budget, the least probability that is flagged.
        size: positives and flagged rows of all labels at the optimum: the denominator of micro-F1.
        labels: K, by which the macro average divides.
    """

    level: float
    size: float = 1.0
    labels: int = 1


def cuts_of(
    histogram: LabelHistogram,
    labels: slice,
    probabilities: Probabilities | None = None,
    bins: slice | None = None,
) -> Cuts:
    """Return the cut-offs of a slice of labels: the least score of every bin, or of those of a window.

    A cut is usable if its bin holds rows and no row below has the same float32 score. `probabilities` are those that
    `expected` is summed from, the scores themselves by default.
    """
    bins = bins or slice(0, histogram.num_bins)
    positives = histogram.positives[labels, bins]
    mass = positives + histogram.negatives[labels, bins]
    least, greatest = histogram.ends(labels, bins)
    nonempty = greatest >= least
    below = torch.full_like(greatest, -torch.inf)
    below[:, 1:] = greatest.cummax(1).values[:, :-1]
    lowest = below == -torch.inf
    score = scores_of(least.nan_to_num(posinf=0.0))
    lower = scores_of(below.where(~lowest, 0.0)).where(~lowest, 0.0)
    promised = scores_of if probabilities is None else lambda logits: probabilities(logits, labels)
    probability = middle_of(promised, least, greatest)
    return Cuts(
        usable=(nonempty & (lowest | (score > lower))).flip(1),
        score=score.flip(1),
        lower=lower.flip(1),
        positives=positives.flip(1).cumsum(1),
        flagged=mass.flip(1).cumsum(1),
        expected=(mass * probability).flip(1).cumsum(1),
        probability=probability.flip(1),
        greatest=scores_of(greatest.amax(1)),
    )


def best_cuts(cuts: Cuts, objective: Objective, joint: Joint | None = None) -> Tensor:
    """Return [k] int64, where in `cuts` the best one is, or NEVER; the first, so the highest, of equals.

    `joint` is needed for objectives of all labels together.
    """
    true, flagged, total, rows = cuts.positives, cuts.flagged, cuts.positives[:, -1:], cuts.flagged[:, -1:]
    false, negatives = flagged - true, rows - total
    match objective.name, objective.parameters:
        case "precision", (least,):
            met = cuts.usable & (true / flagged >= least)
            return true.where(met, -1.0).argmax(1).where(met.any(1), NEVER)
        case "recall", (least,):
            met = cuts.usable & (true / total >= least)
            return met.byte().argmax(1)
        case "fpr", (most,):
            return _laxest(cuts, false <= most * negatives)
        case "per_million", (most,):
            return _laxest(cuts, flagged * 1e6 <= most * rows)
        case "prevalence", _:
            return _first_best(cuts, -(flagged - total).abs())
        case "cost", (false_positive, false_negative):
            cost = false_positive * false + false_negative * (total - true)
            return _or_never(cuts, -cost, -false_negative * total[:, 0])
        case "mcc", _:
            spread = (flagged * (rows - flagged) * total * negatives).sqrt()
            return _first_best(cuts, (true * rows - total * flagged) / spread.clamp_min(1e-300))
        case (("balanced_accuracy" | "youden"), _):
            return _first_best(cuts, true / total - false / negatives)
        case "micro_f1", _:
            assert joint is not None
            return _or_never(cuts, 2 * true - joint.level * flagged, torch.zeros_like(total[:, 0]))
        case "micro_macro_f1", _:
            assert joint is not None
            own = (2 * true / (total + flagged)).nan_to_num()
            quality = own / joint.labels + (2 * true - joint.level * flagged) / joint.size
            return _or_never(cuts, quality, torch.zeros_like(total[:, 0]))
        case "alert_budget", _:
            assert joint is not None
            return _laxest(cuts, cuts.probability >= joint.level)
        case _:
            return _first_best(cuts, f_measure(true, flagged, total, objective.beta_squared))


def f_measure(true: Tensor, flagged: Tensor, total: Tensor, beta_squared: float = 1.0) -> Tensor:
    """(1 + β²) TP / (β² P + flagged)."""
    return (1 + beta_squared) * true / (beta_squared * total + flagged)


def just_above(scores: Tensor) -> Tensor:
    """The next float32 number above, at most 1."""
    return torch.nextafter(scores, torch.ones_like(scores))


def _first_best(cuts: Cuts, quality: Tensor) -> Tensor:
    return quality.where(cuts.usable, -torch.inf).argmax(1)


def _or_never(cuts: Cuts, quality: Tensor, at_never: Tensor) -> Tensor:
    """The best cut, or NEVER where flagging nothing, of quality `at_never` [k], is as good."""
    index = _first_best(cuts, quality)
    best = quality.gather(1, index[:, None])[:, 0]
    return index.where(best > at_never, NEVER)


def _laxest(cuts: Cuts, met: Tensor) -> Tensor:
    """The lowest usable cut of those that meet a bound, NEVER if none does."""
    met = met & cuts.usable
    last = met.shape[1] - 1 - met.flip(1).byte().argmax(1)
    return last.where(met.any(1), NEVER)
