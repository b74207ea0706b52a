"""The cut-offs that a histogram offers for each label, and what they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.bins import middle_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.confusion import Tally, f_measure

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

    @property
    def tally(self) -> Tally:
        """What each cut decides, [k, T], positives and rows [k, 1]."""
        return Tally.of_cuts(self.positives, self.flagged)

    def at(self, index: Tensor) -> Tally:
        """What the cuts at `index` [k] decide, [k] each; nothing is flagged where it is NEVER."""
        never, place = index == NEVER, index.clamp(min=0)[:, None]
        return Tally(
            self.positives.gather(1, place)[:, 0].where(~never, 0.0),
            self.flagged.gather(1, place)[:, 0].where(~never, 0.0),
            self.positives[:, -1],
            self.flagged[:, -1],
        )

    def best(self, quality: Tensor) -> Tensor:
        """[k] int64, the usable cuts of the greatest quality, of equals the highest."""
        return quality.where(self.usable, -torch.inf).argmax(1)

    def best_or_never(self, quality: Tensor, at_never: Tensor) -> Tensor:
        """[k] int64, the same; NEVER where flagging nothing, of quality `at_never` [k], is as good."""
        index = self.best(quality)
        return index.where(quality.gather(1, index[:, None])[:, 0] > at_never, NEVER)

    def laxest(self, met: Tensor) -> Tensor:
        """[k] int64, the lowest usable cuts of those that meet a bound, NEVER where none does."""
        return last_of(met & self.usable)

    def outcome(self, thresholds: Tensor) -> Outcome:
        """What `thresholds` [k] float32 do; inside a bin, which is never cut, they move to its upper end."""
        index = self._found(thresholds)
        lower, upper = self.gap(index)
        true, flagged, total, _ = self.at(index)
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
        return self.laxest(self.score >= thresholds[:, None])

    def gap(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """[k] float32 each, the ends of (lower, upper], where every threshold cuts at `index` [k]; NaN above NEVER."""
        never, place = index == NEVER, index.clamp(min=0)[:, None]
        return (
            self.lower.gather(1, place)[:, 0].where(~never, self.greatest),
            self.score.gather(1, place)[:, 0].where(~never, torch.nan),
        )


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


def just_above(scores: Tensor) -> Tensor:
    """The next float32 number above, at most 1."""
    return torch.nextafter(scores, torch.ones_like(scores))


def first_of(found: Tensor) -> Tensor:
    """[k] int64, the strictest cut of [k, T] bool, NEVER where there is none."""
    return found.byte().argmax(1).where(found.any(1), NEVER)


def last_of(found: Tensor) -> Tensor:
    """[k] int64, the laxest cut of [k, T] bool, NEVER where there is none."""
    return (found.shape[1] - 1 - found.flip(1).byte().argmax(1)).where(found.any(1), NEVER)
