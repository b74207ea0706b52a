"""The one place where jobs choose thresholds."""

from __future__ import annotations

import math

from torch import Tensor

from mlclf.decisions.thresholds.objectives import Objective
from mlclf.decisions.tuner import Claim, Tuner
from mlclf.errors import ConfigError

DEFAULT_CONFIDENCE = 0.95


def make_tuner(
    objective: Objective,
    num_labels: int,
    *,
    confidence: float | None = DEFAULT_CONFIDENCE,
    across_labels: str | None = None,
    prior: Tensor | None = None,
    method: str = "auto",
    clustered: bool = False,
    greatest_weight: float | None = None,
) -> Tuner:
    """What takes cells and gives thresholds.

    Args:
        objective: from `parse_objective`.
        num_labels: K.
        confidence: what constraints are to hold with; None makes no claim.
        across_labels: `fdr` controls a set of labels, None each on its own.
        prior: [K] float32, earlier thresholds as probabilities, NaN where there is none.
        method: `auto` or `plain`.
        clustered: rows of one identity are one observation, for constraints.
        greatest_weight: what no weight exceeds, for constraints; None where rows have none.

    Raises:
        ConfigError: an option does not exist, or does not go with the objective.
    """
    if confidence is not None and not (math.isfinite(confidence) and 0 < confidence < 1):
        raise ConfigError(f"--confidence must be above 0 and below 1, or 'none' for no claim, got {confidence!r}")
    if across_labels not in (None, "fdr"):
        raise ConfigError(f"--across-labels must be 'fdr', or left out, got {across_labels!r}")
    claim = None if confidence is None else Claim(confidence, across_labels, clustered, greatest_weight)
    return Tuner(objective, num_labels, method=method, prior=prior, claim=claim)
