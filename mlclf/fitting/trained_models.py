"""TrainedModels: the result of training, for calibration and the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlclf.fitting.preparation.fit_rows import ModelInputs
from mlclf.training.models import LinearHead


@dataclass(frozen=True)
class KnotsTrial:
    """How many knots were tried, and whether they were kept."""

    tried: int = 0
    kept: bool = False


@dataclass(frozen=True)
class TrainedModels:
    """The result of training.

    Attributes:
        held_out: the R models that saw only some parts; they score the held-out rows.
        final: the model of the run.
        inputs: what the models take.
        algorithm: name of the optimizer that was used.
        l2: [K] float64, of the final model.
        knots: how the trial of knots went.
        certificate: how near the optimum the model of the run is, see `certificate_of`; None where that is not known.
    """

    held_out: Sequence[LinearHead]
    final: LinearHead
    inputs: ModelInputs
    algorithm: str
    l2: Tensor
    knots: KnotsTrial = KnotsTrial()
    certificate: dict[str, Any] | None = None
