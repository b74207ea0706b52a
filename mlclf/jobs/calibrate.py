"""Thresholds tuned on scored rows, of a run or of score files."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.score_files.file_thresholds import read_prior
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.decisions.tuning.tuner import ConfidenceClaim, Tuner
from mlclf.errors import ConfigError
from mlclf.jobs.prevalence_shift import read_prevalences, shifted_thresholds
from mlclf.names import Names, names_of
from mlclf.progress import Progress

DEFAULT_CONFIDENCE = 0.95

DOCUMENT_FIELD = "objective"
"""Field that tells a document of thresholds from other JSON."""


class CalibrationRows(Protocol):
    """Where scored rows with labels come from: data that a run scores, the held-out rows of a fit, or score files."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels [K]."""

    @property
    def num_rows(self) -> int:
        """Rows that are read, for the progress."""

    @property
    def score_kind(self) -> str | None:
        """Scale of the scores in files, `probability` or `logit`; None for the scores of a run."""

    @property
    def clustered(self) -> bool:
        """Whether rows of one group are one observation."""

    @property
    def weighted(self) -> bool:
        """Whether rows or cells have weights."""

    def caution(self, claims: bool) -> Progress | None:
        """A warning where no confidence can be claimed on these rows because the fit used them; else None."""

    def weights(self) -> Iterator[Tensor | None]:
        """Weights of all rows, in another pass over them."""

    def count(self, tuner: Tuner) -> Iterator[int]:
        """Feed all rows to a tuner, in another pass over them; yields how many it has."""

    def notes(self, num_rows: int) -> Iterator[Progress]:
        """Warnings and notes about the rows, of which `num_rows` were counted."""

    def unlabelled(self, data: Sequence[str], take: Callable[[Tensor], None]) -> Iterator[Progress]:
        """Pass the logits [n, K] of unlabelled rows, scored in the same way, to `take`; yields progress."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of `calibrate`: what the thresholds are tuned for.

    Attributes:
        objective: such as `f1` or `recall:0.9`.
        confidence: what constraints are to hold with; None makes no claim.
        across_labels: `fdr` controls a set of labels, None each on its own.
        prior: file of earlier thresholds, toward which these are shrunk.
        unlabelled: rows without labels that the thresholds are for; prevalences are estimated from their scores.
        prevalence: JSON file `{label: share}` of known prevalences that the thresholds are for.
    """

    objective: str = "f1"
    confidence: float | None = DEFAULT_CONFIDENCE
    across_labels: str | None = None
    prior: str | Path | None = None
    unlabelled: Names = ()
    prevalence: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse unknown values and combinations before data is read.

        Raises:
            ConfigError: an option does not exist, or does not go with the objective.
        """
        if self.confidence is not None and not (math.isfinite(self.confidence) and 0 < self.confidence < 1):
            raise ConfigError(
                f"--confidence must be above 0 and below 1, or 'none' for no claim, got {self.confidence!r}"
            )
        if self.across_labels not in (None, "fdr"):
            raise ConfigError(f"--across-labels must be 'fdr', or left out, got {self.across_labels!r}")
        self.tuner(1, prior=None if self.prior is None else torch.zeros(1))

    @property
    def claims(self) -> bool:
        """Whether a confidence is claimed."""
        return self.confidence is not None and parse_objective(self.objective).is_constraint

    def tuner(
        self,
        num_labels: int,
        *,
        prior: Tensor | None = None,
        method: str = "auto",
        clustered: bool = False,
        greatest_weight: float | None = None,
    ) -> Tuner:
        """A tuner for these options, which counts scored rows and then gives thresholds.

        Args:
            num_labels: K.
            prior: [K] float32, earlier thresholds as probabilities, NaN where there is none.
            method: `auto` or `plain`.
            clustered: rows of one identity are one observation, for constraints.
            greatest_weight: what no weight exceeds, for constraints; None where rows have none.
        """
        claim = None
        if self.confidence is not None:
            claim = ConfidenceClaim(self.confidence, self.across_labels, clustered, greatest_weight)
        return Tuner(parse_objective(self.objective), num_labels, method=method, prior=prior, claim=claim)


def calibrate_steps(
    rows: CalibrationRows, asked: CalibrateOptions, method: str = "auto"
) -> Generator[Progress, None, Thresholds]:
    """Tune thresholds, of probabilities, on labelled rows, yielding progress; returns them.

    Args:
        rows: where they come from.
        asked: what the thresholds are for.
        method: `auto` shrinks F measures as cross-validation finds best, `plain` takes the best on these rows.
    """
    names = rows.label_names
    prior = None if asked.prior is None else read_prior(Path(asked.prior), names, rows.score_kind)
    known = None if asked.prevalence is None else read_prevalences(asked.prevalence, names)
    caution = rows.caution(asked.claims)
    if caution is not None:
        yield caution
        asked = replace(asked, confidence=None)
    greatest = None
    if asked.claims and rows.weighted:
        weights = (weights for weights in rows.weights() if weights is not None and weights.numel())
        greatest = max((float(some.max()) for some in weights), default=0.0)
    tuner = asked.tuner(len(names), prior=prior, method=method, clustered=rows.clustered, greatest_weight=greatest)
    done = 0
    for done in rows.count(tuner):
        yield Progress("calibrate", done, rows.num_rows)
    yield from rows.notes(done)
    fresh, unlabelled = None, names_of(asked.unlabelled)
    if unlabelled:
        fresh = LabelHistogram(len(names))
        count = fresh.update
        yield from rows.unlabelled(
            unlabelled, lambda logits: count(logits, torch.zeros_like(logits, dtype=torch.uint8))
        )
    if known is None and fresh is None:
        return tuner.thresholds()
    return shifted_thresholds(tuner, known, fresh)
