"""Scored rows → thresholds: the one place where jobs choose them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlclf.decisions.cells import Cells
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.objectives import Objective
from mlclf.decisions.scores import scores_of
from mlclf.decisions.thresholds import FORMAT_VERSION, Thresholds, tune_thresholds
from mlclf.errors import ConfigError
from mlclf.files import read_json

DEFAULT_CONFIDENCE = 0.95


class Tuning:
    """Takes cells in any order and chooses thresholds for an objective once all are there."""

    def __init__(
        self,
        objective: Objective,
        num_labels: int,
        *,
        confidence: float | None = DEFAULT_CONFIDENCE,
        across_labels: str | None = None,
        prior: Mapping[str, Any] | None = None,
        prior_positives: float = 10.0,
    ) -> None:
        """`prior` is the document of earlier thresholds; `confidence`, for constraints, None for no claim."""
        self._objective, self._prior_positives = objective, prior_positives
        self.confidence, self.across_labels, self.prior = confidence, across_labels, prior
        self._histogram = LabelHistogram(num_labels)

    def update(self, cells: Cells) -> None:
        """Count rows."""
        self._histogram.update(cells.logits, cells.labels, cells.mask, cells.cell_weights())

    def thresholds(self) -> Thresholds:
        """Choose."""
        return tune_thresholds(self._histogram, self._objective, scores_of, self._prior_positives)


def checked_options(confidence: float | None, across_labels: str | None) -> None:
    """Refuse a confidence or a way across labels that does not exist.

    Raises:
        ConfigError: one does not.
    """
    if confidence is not None and not (math.isfinite(confidence) and 0 < confidence < 1):
        raise ConfigError(f"--confidence must be above 0 and below 1, or 'none' for no claim, got {confidence!r}")
    if across_labels not in (None, "fdr"):
        raise ConfigError(f"--across-labels must be 'fdr', or left out, got {across_labels!r}")


def read_prior(path: str | Path | None) -> dict[str, Any] | None:
    """The document of earlier thresholds, None without a path.

    Raises:
        RunError: the file is missing, damaged or of another version.
    """
    return None if path is None else read_json(Path(path), FORMAT_VERSION, "thresholds")
