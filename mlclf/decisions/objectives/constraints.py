"""Precision, recall and false-positive rate: bounds that can be held with confidence.

To test a bound one asks what a row adds to it, X, with w the weight and y the label of a row, "flagged" meaning at or
above the cut:

    precision p   X = w (y - p) if flagged, else 0                mean ≤ 0  ⇔  E[w y | flagged] ≤ p E[w | flagged]
    recall r      X = w y (1[flagged] - r)                        mean ≤ 0  ⇔  weighted recall ≤ r
    fpr a         X = w (1 - y) (a - 1[flagged])                  mean ≤ 0  ⇔  weighted false-positive rate ≥ a
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.objectives.objective import LabelObjective
from mlclf.decisions.thresholds.cutoffs import NEVER, Cuts


@dataclass(frozen=True)
class Constraint(LabelObjective):
    """A bound on what decisions of a label do, which tests can hold with confidence.

    Attributes:
        share: the bound.
        follows_cut: which rows these are depends on the cut; else one sequence of tests is enough.
        holds_at_lax_cuts: flagging every row keeps it; else flagging none does.
    """

    rule = "takes one number above 0 and at most 1"
    needs_cuts_to_meet_it = True
    is_constraint = True
    share: float
    follows_cut: ClassVar[bool] = False
    holds_at_lax_cuts: ClassVar[bool] = False

    def is_allowed(self) -> bool:
        """See `Objective`."""
        return 0 < self.share <= 1

    @abstractmethod
    def measured(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """The rows that the bound is about, of rows of both classes that are flagged, or of all."""

    @abstractmethod
    def added_by_flagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """X of what is flagged, of sums of weights of any shape."""

    @abstractmethod
    def added_by_unflagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """X of what is not flagged."""

    @property
    def loss(self) -> float:
        """The most that a row of weight 1 can take from the sum of X."""
        return self.share

    def successes(self, tally: Tally) -> Tensor:
        """Of the rows that it is about, those decided as it wants."""
        return tally.true

    @property
    def success_share(self) -> float:
        """The share of successes that it asks for."""
        return self.share

    def bound(self, success_share: Tensor) -> Tensor:
        """The constraint that a share of successes keeps."""
        return success_share


@dataclass(frozen=True)
class Precision(Constraint):
    """The largest recall among the cuts of at least that precision."""

    form = "precision:P"
    about = "flagged"
    follows_cut = True

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""
        met = cuts.usable & (cuts.positives / cuts.flagged >= self.share)
        return cuts.positives.where(met, -1.0).argmax(1).where(met.any(1), NEVER)

    def measured(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return positives + negatives

    def added_by_flagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return positives * (1 - self.share) - negatives * self.share

    def added_by_unflagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return torch.zeros_like(positives)


@dataclass(frozen=True)
class Recall(Constraint):
    """The highest cut that reaches the recall."""

    form = "recall:R"
    about = "positive"
    holds_at_lax_cuts = True

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""
        met = cuts.usable & (cuts.positives / cuts.positives[:, -1:] >= self.share)
        return met.byte().argmax(1)

    def measured(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return positives

    def added_by_flagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return positives * (1 - self.share)

    def added_by_unflagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return positives * -self.share


@dataclass(frozen=True)
class FalsePositiveRate(Constraint):
    """The lowest cut that flags no more than this share of the negatives."""

    form = "fpr:A"
    about = "negative"

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""
        tally = cuts.tally
        return cuts.laxest(tally.false <= self.share * tally.negatives)

    def measured(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return negatives

    def added_by_flagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return negatives * (self.share - 1)

    def added_by_unflagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Constraint`."""
        return negatives * self.share

    @property
    def loss(self) -> float:
        """See `Constraint`."""
        return 1 - self.share

    def successes(self, tally: Tally) -> Tensor:
        """The negatives that are not flagged."""
        return tally.negatives - tally.false

    @property
    def success_share(self) -> float:
        """See `Constraint`."""
        return 1 - self.share

    def bound(self, success_share: Tensor) -> Tensor:
        """See `Constraint`."""
        return 1 - success_share
