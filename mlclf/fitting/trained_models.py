"""What the stages of a fit hand on: progress to the caller, trained models to the decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mlclf.files import append_line
from mlclf.run_folder import log_line
from mlclf.training.models import LinearHead


@dataclass(frozen=True)
class Knots:
    """How the trial of knots went: how many were tried, whether they were kept, and the held-out log-losses."""

    tried: int = 0
    kept: bool = False
    loss: float | None = None
    loss_without: float | None = None


@dataclass
class Trained:
    """What training leaves.

    Attributes:
        held_out: the R models that saw only some parts; they score the held-out rows.
        final: the model of the run.
        pos_weight: [K] float64.
        algorithm: name of the optimizer that was used.
        l2: [K] float64, of the final model.
        knots: how the trial of knots went.
        certificate: how near the optimum the model of the run is, see `certificate_of`; None where that is not known.
    """

    held_out: Sequence[LinearHead]
    final: LinearHead
    pos_weight: Tensor
    algorithm: str
    l2: Tensor
    knots: Knots = Knots()
    certificate: dict[str, Any] | None = None


def log_epoch(path: Path, epoch: int, step: int, rows: int, seconds: float, train: float, valid: float) -> str:
    """Append the line of an epoch to `log.jsonl`, and return it."""
    line = epoch_line(epoch, step, rows, seconds, train, valid)
    append_line(path, line)
    return line


def epoch_line(epoch: int, step: int, rows: int, seconds: float, train: float, valid: float) -> str:
    """The line of an epoch in `log.jsonl`; a loss that is NaN is written as null."""
    record = {
        "epoch": epoch,
        "step": step,
        "rows": rows,
        "seconds": round(seconds, 6),
        "train_loss": train if math.isfinite(train) else None,
        "valid_loss": valid if math.isfinite(valid) else None,
    }
    return log_line(record)
