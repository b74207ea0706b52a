"""What every objective says: how it is written, its best cuts, what decisions are worth, and how it is tuned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.thresholds.cutoffs import Cuts
from mlclf.decisions.thresholds.top_k import TopCounts


class CutChoice(Protocol):
    """Chooses a cut for each label on its own."""

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """[k] int64, where in `cuts` the best one is, or NEVER; the first, so the highest, of equals."""

    def flags_from(self, tally: Tally) -> Tensor:
        """[k] float64, the calibrated probability from which on flagging one more row is an improvement.

        Args:
            tally: of the chosen cuts, [k] each.
        """


@dataclass(frozen=True)
class Objective(ABC):
    """What thresholds are chosen for; its fields are the numbers that it is written with.

    Attributes:
        form: how it is written: a name, and what stands for the numbers after a colon.
        rule: what the numbers must be, in words.
        couples_labels: the best cut of a label depends on the other labels.
        joint_bins: bins of each label that labels together are looked at in; None = all.
        needs_cuts_to_meet_it: a label that no cut meets it for is `unattainable`.
        is_constraint: it is a bound that can be held with confidence, a `Constraint`.
        about: the kind of rows that it is a share of, as messages name them.
        shrinks: true positives are shrunk toward what calibrated probabilities promise, and `flags_from` is defined.
        compares_probabilities: the cuts of labels are compared by calibrated probabilities.
        falls_back: a label gets 0.5 where scores say nothing and the best cut `hardly_beats_all`.
        has_worth: `worth` is defined, so that cross-validation can judge decisions.
    """

    form: ClassVar[str]
    rule: ClassVar[str] = "takes no number"
    couples_labels: ClassVar[bool] = False
    joint_bins: ClassVar[int | None] = None
    needs_cuts_to_meet_it: ClassVar[bool] = False
    is_constraint: ClassVar[bool] = False
    about: ClassVar[str] = ""
    shrinks: ClassVar[bool] = False
    compares_probabilities: ClassVar[bool] = False
    falls_back: ClassVar[bool] = False
    has_worth: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name, without numbers."""
        return self.form.partition(":")[0]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers in the order in which they are written."""
        return astuple(self)

    def __str__(self) -> str:
        """Return the text that parses to this objective."""
        numbers = ",".join(repr(number).removesuffix(".0") for number in self.numbers)
        return f"{self.name}:{numbers}" if numbers else self.name

    def is_allowed(self) -> bool:
        """Whether the numbers follow the rule."""
        return True

    @abstractmethod
    def choice(self, slices: Sequence[Cuts]) -> CutChoice:
        """What chooses the cut of each label, given the cuts of all labels; only coupled objectives look at these."""

    def worth(self, tally: Tally) -> Tensor:
        """[] float64, how well decisions on labels with positives serve the objective; more is better.

        Args:
            tally: of each label, [k] each.
        """
        raise NotImplementedError(f"{self} has no worth")

    def hardly_beats_all(self, tally: Tally) -> Tensor:
        """[k] bool, True where a cut is hardly better than flagging every row."""
        return torch.zeros_like(tally.true, dtype=torch.bool)

    def row_counts(self, num_labels: int) -> TopCounts | None:
        """What counts rows whole, where decisions look across the labels of a row; None where they do not."""
        return None


@dataclass(frozen=True)
class LabelObjective(Objective):
    """An objective of each label on its own."""

    def choice(self, slices: Sequence[Cuts]) -> CutChoice:
        """The objective itself."""
        return self

    @abstractmethod
    def best_cuts(self, cuts: Cuts) -> Tensor:
        """See `CutChoice`."""

    def flags_from(self, tally: Tally) -> Tensor:
        """See `CutChoice`."""
        raise NotImplementedError(f"{self} is not shrunk")


@dataclass(frozen=True)
class LargestOfLabels(LabelObjective):
    """The largest value of each label, worth the mean over labels."""

    has_worth = True

    @abstractmethod
    def _values(self, tally: Tally) -> Tensor:
        """The value of each label at each cut."""

    def best_cuts(self, cuts: Cuts) -> Tensor:
        """The cuts with the largest value."""
        return cuts.best(self._values(cuts.tally))

    def worth(self, tally: Tally) -> Tensor:
        """The mean over labels."""
        return self._values(tally).mean()
