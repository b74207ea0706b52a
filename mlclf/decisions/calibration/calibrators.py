"""The calibration curves of K labels, each of the family chosen for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.decisions.calibration.families import FAMILIES
from mlclf.decisions.histograms.counting import LIMIT


@dataclass(frozen=True)
class Calibrators:
    """Curves of K labels, each not falling in the logit.

    Beyond ±30, where histograms do not tell logits apart, all but the identity stay at their value there.

    Attributes:
        families: [K] int64, places in FAMILIES.
        parameters: for each family those of the labels that chose it, in their order: [n, P] float64.
    """

    families: Tensor
    parameters: tuple[Tensor, ...]

    @property
    def family(self) -> list[str]:
        """The family of each label."""
        return [FAMILIES[place].name for place in self.families.tolist()]

    def logits(self, logits: Tensor, labels: slice) -> Tensor:
        """Return calibrated logits.

        Args:
            logits: [k, T] floating, a row for each label of the slice.
            labels: which labels these are.

        Returns:
            [k, T] float64, on the device of `logits`.
        """
        calibrated, device = logits.double(), logits.device
        first = labels.indices(len(self.families))[0]
        for place, (family, parameters) in enumerate(zip(FAMILIES[1:], self.parameters[1:], strict=True), 1):
            chosen = (self.families[labels] == place).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            before = int((self.families[:first] == place).sum())
            own = parameters[before : before + len(chosen)].to(device)
            curve = family.logits(own, calibrated[chosen.to(device)].clamp(-LIMIT, LIMIT))
            calibrated = calibrated.index_copy(0, chosen.to(device), curve)
        return calibrated

    def lines(self) -> tuple[Tensor, Tensor]:
        """Return slope and intercept of each label, [K] float64, where all curves are straight lines."""
        lines = torch.zeros(len(self.families), 2, dtype=torch.float64)
        for place, (family, parameters) in enumerate(zip(FAMILIES, self.parameters, strict=True)):
            if len(parameters):
                lines[self.families == place] = family.line(parameters)
        return lines[:, 0], lines[:, 1]
