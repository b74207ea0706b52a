"""Objectives of how many rows are flagged: as many as are positive, per million, in all, or labels of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.objectives.objective import CutChoice, LabelObjective, Objective
from mlclf.decisions.thresholds.cutoffs import Cuts
from mlclf.decisions.thresholds.top_k import TopCounts
from mlclf.errors import ConfigError


@dataclass(frozen=True)
class Prevalence(LabelObjective):
    """As many flagged rows as there are positive ones."""

    form = "prevalence"

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """The cuts that come nearest."""
        tally = cuts.tally
        return cuts.best(-(tally.flagged - tally.positives).abs())


@dataclass(frozen=True)
class PerMillion(LabelObjective):
    """The lowest cut that flags at most so many of a million rows."""

    form = "per_million:N"
    rule = "takes one number above 0 and at most 1,000,000"
    needs_cuts_to_meet_it = True
    most: float

    def is_allowed(self) -> bool:
        """See `Objective`."""
        return 0 < self.most <= 1_000_000

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """The lowest cuts within the bound."""
        tally = cuts.tally
        return cuts.laxest(tally.flagged * 1e6 <= self.most * tally.rows)


@dataclass(frozen=True)
class _Count(Objective):
    """A whole number of what is flagged."""

    rule = "takes one whole number, 1 or more"
    count: float

    def is_allowed(self) -> bool:
        """See `Objective`."""
        return self.count >= 1 and self.count.is_integer()


@dataclass(frozen=True)
class ProbabilityCut:
    """One cut on calibrated probabilities for all labels."""

    least: float

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """The lowest cuts from that probability on."""
        return cuts.laxest(cuts.probability >= self.least)

    def flags_from(self, tally: Tally) -> Tensor:
        """That probability."""
        return torch.full_like(tally.positives, self.least)


@dataclass(frozen=True)
class AlertBudget(_Count):
    """One cut on calibrated probabilities for all labels, which flags at most so many cells of the rows at hand.

    With calibrated probabilities no other alerts of that number are expected to hold more positives.
    """

    form = "alert_budget:N"
    couples_labels = True
    compares_probabilities = True

    def choice(self, slices: Sequence[Cuts]) -> CutChoice:
        """The least probability whose flagged rows, ties included, are within the budget; above 1 if there is none."""
        probabilities: list[Tensor] = []
        masses: list[Tensor] = []
        for cuts in slices:
            mass = torch.diff(cuts.flagged, dim=1, prepend=torch.zeros_like(cuts.flagged[:, :1]))
            within = (mass > 0) & (cuts.flagged - mass <= self.count)
            probabilities.append(cuts.probability[within])
            masses.append(mass[within])
        probability, order = torch.cat(probabilities).sort(descending=True)
        flagged = torch.cat(masses)[order].cumsum(0)
        last_of_ties = torch.ones_like(probability, dtype=torch.bool)
        last_of_ties[:-1] = probability[1:] != probability[:-1]
        allowed = last_of_ties & (flagged <= self.count * (1 + 1e-12))
        return ProbabilityCut(float(probability[allowed][-1]) if bool(allowed.any()) else 2.0)


@dataclass(frozen=True)
class TopK(_Count):
    """The labels of each row with the largest scores, so many and no others."""

    form = "top_k:K"

    def choice(self, slices: Sequence[Cuts]) -> CutChoice:
        """Refuse, as no cut of a label does that."""
        raise ConfigError(f"the objective {self} looks across the labels of a row; give the rows")

    def row_counts(self, num_labels: int) -> TopCounts:
        """What flagging the best labels of each row comes to."""
        return TopCounts(num_labels, int(self.count))
