"""The families of calibration curves, from simple to rich, a class each: how it is fitted, what it makes of logits.

All are fitted label by label, and none falls. The slopes of `temperature`, `platt` and `beta` have a normal prior
around the slope pooled over labels, as wide as the labels differ (`pooled_slope`), so a rare label follows the others
and a frequent one itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.isotonic import Knots, apply_knots, fit_isotonic
from mlclf.decisions.calibration.logistic import SlopePrior, fit_logistic


class LabelCounts(NamedTuple):
    """What curves of k labels are fitted to.

    Attributes:
        logits: [k, C] float64, of groups of rows, rising.
        positives, negatives, targets: [k, C] float64, of each group; `targets` are Platt's.
        slope, slope_beside_intercept: what all labels together say of a slope alone, and of one with an intercept.
    """

    logits: Tensor
    positives: Tensor
    negatives: Tensor
    targets: Tensor
    slope: SlopePrior
    slope_beside_intercept: SlopePrior

    def of(self, labels: Tensor) -> LabelCounts:
        """Those of some labels, [i] int64."""
        logits, positives, negatives, targets, *slopes = self
        return LabelCounts(logits[labels], positives[labels], negatives[labels], targets[labels], *slopes)


@dataclass(frozen=True)
class Family(ABC):
    """Curves of one form, whose parameters are numbers of a label, [k, P] float64.

    Attributes:
        name: as reports name it.
        least_rows: of the rarer class, that a label needs.
        for_rare_labels: labels with few rows may choose it together.
    """

    name: ClassVar[str]
    least_rows: ClassVar[int] = 0
    for_rare_labels: ClassVar[bool] = True

    @abstractmethod
    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """Fit the parameters of k labels.

        Args:
            counts: of the labels.
            fitted: parameters of simpler families on the same counts, by name.
            start: parameters to start from; None without any.
        """

    @abstractmethod
    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """Calibrated logits [k, T] of logits [k, T], all float64."""

    def line(self, parameters: Tensor) -> Tensor:
        """[k, 2] float64, slope and intercept, of a family of straight lines."""
        raise NotImplementedError(f"{self.name} curves are no straight lines")


@dataclass(frozen=True)
class Identity(Family):
    """z."""

    name = "identity"

    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """No parameters."""
        return counts.logits[:, :0]

    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """See `Family`."""
        return logits

    def line(self, parameters: Tensor) -> Tensor:
        """See `Family`."""
        return parameters.new_tensor([1.0, 0.0]).expand(len(parameters), 2)


@dataclass(frozen=True)
class Temperature(Family):
    """slope · z."""

    name = "temperature"

    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """[k, 1], the slopes."""
        prior, totals = counts.slope.coefficients(1, False), counts.positives + counts.negatives
        first = prior.centre.expand(len(totals), -1) if start is None else start
        return fit_logistic(counts.logits[None], counts.targets, totals, prior, first)

    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """See `Family`."""
        return parameters * logits

    def line(self, parameters: Tensor) -> Tensor:
        """See `Family`."""
        return torch.cat([parameters, torch.zeros_like(parameters)], 1)


@dataclass(frozen=True)
class Platt(Family):
    """slope · z + intercept (Platt 1999)."""

    name = "platt"

    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """[k, 2], slopes and intercepts."""
        z, totals = counts.logits, counts.positives + counts.negatives
        prior = counts.slope_beside_intercept.coefficients(1, True)
        first = prior.centre.expand(len(z), -1) if start is None else start
        return fit_logistic(torch.stack([z, torch.ones_like(z)]), counts.targets, totals, prior, first)

    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """See `Family`."""
        return parameters[:, :1] * logits + parameters[:, 1:]

    def line(self, parameters: Tensor) -> Tensor:
        """See `Family`."""
        return parameters


@dataclass(frozen=True)
class Beta(Family):
    """low_slope · log p − high_slope · log(1 − p) + intercept with p = sigmoid(z) (Kull et al. 2017).

    The slopes are those of the curve far to the left and far to the right.
    """

    name = "beta"

    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """[k, 3], low slopes, high slopes and intercepts."""
        z, totals = counts.logits, counts.positives + counts.negatives
        sides = torch.stack([functional.logsigmoid(z), -functional.logsigmoid(-z), torch.ones_like(z)])
        prior = counts.slope_beside_intercept.coefficients(2, True, least=0.0)
        first = fitted["platt"][:, [0, 0, 1]] if start is None else start
        return fit_logistic(sides, counts.targets, totals, prior, first)

    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """See `Family`."""
        low, high, intercept = (column[:, None] for column in parameters.unbind(1))
        return low * functional.logsigmoid(logits) - high * functional.logsigmoid(-logits) + intercept


@dataclass(frozen=True)
class Isotonic(Family):
    """A line through knots; see `isotonic`."""

    name = "isotonic"
    least_rows = 1000
    for_rare_labels = False

    def fit(self, counts: LabelCounts, fitted: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
        """[k, 2J], the logit and the calibrated logit of each knot in turn, with logits of +inf after the last."""
        knots = fit_isotonic(counts.logits, counts.positives, counts.negatives)
        return torch.stack([knots.logits, knots.values], 2).flatten(1)

    def logits(self, parameters: Tensor, logits: Tensor) -> Tensor:
        """See `Family`."""
        places, values = parameters.view(len(parameters), parameters.shape[1] // 2, 2).unbind(2)
        return apply_knots(Knots(places, values, places.isfinite().sum(1)), logits)


FAMILIES: tuple[Family, ...] = (Identity(), Temperature(), Platt(), Beta(), Isotonic())
"""From simple to rich: the order in which they are tried."""
