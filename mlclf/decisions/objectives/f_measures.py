"""F1, Fβ and macro-F1 of each label; micro-F1 and its sum with macro-F1 of all labels together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mlclf.decisions.metrics.confusion import Tally, f_measure
from mlclf.decisions.objectives.objective import CutChoice, LargestOfLabels, Objective
from mlclf.decisions.thresholds.cutoffs import Cuts

INFORMATIVE_RATIO = 1.1
JOINT_BINS = 4096
MAX_STEPS = 100
_EDGE = 1e-12


@dataclass(frozen=True)
class F1(LargestOfLabels):
    """The largest F1 of each label."""

    form = "f1"
    shrinks = True
    falls_back = True

    @property
    def beta_squared(self) -> float:
        """How many times recall counts as much as precision."""
        return 1.0

    def flags_from(self, tally: Tally) -> Tensor:
        """F/(1 + β²), as a row of probability p adds p to TP and 1 to what is flagged (Lipton et al. 2014)."""
        return self._values(tally).nan_to_num() / (1 + self.beta_squared)

    def hardly_beats_all(self, tally: Tally) -> Tensor:
        """[k] bool, True where F is less than 1.1 times that of flagging every row."""
        everything = self._values(tally._replace(true=tally.positives, flagged=tally.rows))
        return self._values(tally) < INFORMATIVE_RATIO * everything

    def _values(self, tally: Tally) -> Tensor:
        return f_measure(tally.true, tally.flagged, tally.positives, self.beta_squared)


@dataclass(frozen=True)
class MacroF1(F1):
    """The largest mean of F1 over labels, which is the largest F1 of each."""

    form = "macro_f1"


@dataclass(frozen=True)
class FBeta(F1):
    """The largest Fβ of each label."""

    form = "fbeta:BETA"
    rule = "takes one number from 1e-6 to 1e6"
    beta: float

    def is_allowed(self) -> bool:
        """See `Objective`."""
        return 1e-6 <= self.beta <= 1e6

    @property
    def beta_squared(self) -> float:
        """How many times recall counts as much as precision."""
        return self.beta**2


@dataclass(frozen=True)
class MicroCuts:
    """Cuts of single labels that leave nothing to gain in micro-F1, the ratio 2 Σ TP ÷ (Σ P + Σ flagged).

    It is greatest where no label can raise Σ (2 TP − F · flagged) any more, F being the ratio itself (Dinkelbach 1967).
    With calibrated probabilities that is one cut at F/2.

    Attributes:
        level: micro-F1 at the optimum.
        size: positives and flagged rows of all labels at the optimum: the denominator of micro-F1.
        num_labels: K, by which the macro average divides.
    """

    level: float
    size: float
    num_labels: int

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""
        tally = cuts.tally
        return cuts.best_or_never(2 * tally.true - self.level * tally.flagged, torch.zeros_like(tally.positives[:, 0]))

    def flags_from(self, tally: Tally) -> Tensor:
        """F/2 for every label."""
        return torch.full_like(tally.positives, self.level / 2)


@dataclass(frozen=True)
class MicroMacroCuts(MicroCuts):
    """The same for the sum of micro-F1 and macro-F1, whose micro part is replaced by its tangent at the optimum."""

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""
        tally = cuts.tally
        own = f_measure(tally.true, tally.flagged, tally.positives).nan_to_num()
        quality = own / self.num_labels + (2 * tally.true - self.level * tally.flagged) / self.size
        return cuts.best_or_never(quality, torch.zeros_like(tally.positives[:, 0]))

    def flags_from(self, tally: Tally) -> Tensor:
        """Where the sum of the two derivatives is 0."""
        own = f_measure(tally.true, tally.flagged, tally.positives).nan_to_num()
        weight = 1 / (self.num_labels * (tally.positives + tally.flagged).clamp_min(_EDGE))
        return (own * weight + self.level / self.size) / (2 * (weight + 1 / self.size))


@dataclass(frozen=True)
class MicroF1(Objective):
    """The largest F1 of all labels pooled."""

    form = "micro_f1"
    couples_labels = True
    joint_bins = JOINT_BINS
    shrinks = True
    has_worth = True
    cuts_given: ClassVar[type[MicroCuts]] = MicroCuts

    def choice(self, slices: Sequence[Cuts]) -> CutChoice:
        """Go from the best cuts at one level of F to those at the level that these reach, until it stays."""
        num_labels = sum(len(cuts.greatest) for cuts in slices)
        total = sum(float(cuts.positives[:, -1].sum()) for cuts in slices)
        given = self.cuts_given(0.5, max(total, 1.0), num_labels)
        for _ in range(MAX_STEPS):
            tallies = [cuts.at(given.best_cuts(cuts)) for cuts in slices]
            true, flagged = (sum(float(tally[side].sum()) for tally in tallies) for side in (0, 1))
            size = max(total + flagged, 1e-300)
            before, given = given, self.cuts_given(2 * true / size, size, num_labels)
            if abs(given.level - before.level) <= 1e-12 and abs(given.size - before.size) <= 1e-9 * size:
                break
        return given

    def worth(self, tally: Tally) -> Tensor:
        """Micro-F1; 0 where it is undefined."""
        return f_measure(tally.true.sum(), tally.flagged.sum(), tally.positives.sum()).nan_to_num()


@dataclass(frozen=True)
class MicroMacroF1(MicroF1):
    """The largest sum of micro-F1 and macro-F1, weighed alike (Lin and Lin, CIKM 2023)."""

    form = "micro_macro_f1"
    cuts_given = MicroMacroCuts

    def worth(self, tally: Tally) -> Tensor:
        """The sum of the two."""
        return super().worth(tally) + f_measure(tally.true, tally.flagged, tally.positives).mean().nan_to_num()
