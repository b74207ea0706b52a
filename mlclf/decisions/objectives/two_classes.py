"""MCC, balanced accuracy and costs: what positives and negatives are worth, label by label."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mlclf.decisions.metrics.confusion import Tally, correlation
from mlclf.decisions.objectives.objective import LabelObjective, LargestOfLabels
from mlclf.decisions.thresholds.cutoffs import Cuts


@dataclass(frozen=True)
class MatthewsCorrelation(LargestOfLabels):
    """The largest correlation of decisions and labels (Matthews 1975); 0 where it is undefined."""

    form = "mcc"

    def _values(self, tally: Tally) -> Tensor:
        return correlation(tally).nan_to_num()


@dataclass(frozen=True)
class BalancedAccuracy(LargestOfLabels):
    """The largest mean of recall and specificity."""

    form = "balanced_accuracy"

    def _values(self, tally: Tally) -> Tensor:
        return tally.true / tally.positives - (tally.false / tally.negatives).nan_to_num()


@dataclass(frozen=True)
class Youden(BalancedAccuracy):
    """The largest recall + specificity − 1 (Youden 1950), at the cuts of balanced accuracy."""

    form = "youden"


@dataclass(frozen=True)
class Cost(LabelObjective):
    """The least cost; flagging nothing and flagging everything are choices too."""

    form = "cost:FP,FN"
    rule = "takes two costs from 0 to 1e15, not both 0"
    has_worth = True
    false_positive: float
    false_negative: float

    def is_allowed(self) -> bool:
        """See `Objective`."""
        costs = self.numbers
        return all(0 <= cost <= 1e15 for cost in costs) and sum(costs) > 0

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """The cuts of the least cost."""
        tally = cuts.tally
        return cuts.best_or_never(-self._costs(tally), -self.false_negative * tally.positives[:, 0])

    def worth(self, tally: Tally) -> Tensor:
        """The costs of all labels, negative."""
        return -self._costs(tally).sum()

    def _costs(self, tally: Tally) -> Tensor:
        return self.false_positive * tally.false + self.false_negative * (tally.positives - tally.true)
