"""Thresholds under prevalence shift: labels are more or less frequent than in the tuning rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlclf.decisions.calibration.prevalence import estimate_prevalence
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import ConfigError
from mlclf.files import parsed_json
from mlclf.given_files import read_given, reason_of
from mlclf.messages import quoted


def read_prevalences(path: str | Path, label_names: Sequence[str]) -> Tensor:
    """Prevalences of labels from a JSON file `{label: share}`: [K] float64, NaN for labels that it leaves out.

    Raises:
        ConfigError: the file cannot be read, names an unknown label, or holds no share between 0 and 1.
    """
    try:
        document = parsed_json(read_given(Path(path)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--prevalence: {str(path)!r} must be a JSON file {{label: share}}: {reason_of(error)}"
        ) from None
    if not isinstance(document, dict) or not document:
        raise ConfigError(f"--prevalence: {str(path)!r} must be a JSON file {{label: share}}, got {quoted(document)}")
    unknown = sorted(set(document) - set(label_names))
    if unknown:
        raise ConfigError(f"--prevalence: {str(path)!r} names {unknown[0]!r}, which is not a label here")
    for name, share in document.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ConfigError(f"--prevalence: the share of {name!r} must be above 0 and below 1, got {share!r}")
    return torch.tensor([document.get(name, math.nan) for name in label_names], dtype=torch.float64)


def shifted_thresholds(tuner: Tuner, known: Tensor | None, unlabelled: LabelHistogram | None) -> Thresholds:
    """Thresholds for prevalences that are known, or estimated from the scores of unlabelled rows.

    The rows are weighted so that the prevalences come out; what was certified on them does not hold any more, so
    nothing is claimed. A label whose prevalence is neither known nor told by its scores keeps its own.

    Args:
        tuner: that has counted the labelled rows.
        known: [K] float64, NaN where it is not known.
        unlabelled: histogram of logits of unlabelled rows.
    """
    positives = tuner.histogram.positives[:].sum(1)
    old = positives / (positives + tuner.histogram.negatives[:].sum(1))
    new, more = old.clone(), {}
    if unlabelled is not None:
        found = estimate_prevalence(tuner.histogram, unlabelled)
        new = torch.where(found.identifiable, found.values.to(new), new)
        more = {
            index: {"standard_error": error if math.isfinite(error) else None, "identifiable": told}
            for index, (error, told) in enumerate(
                zip(found.standard_errors.tolist(), found.identifiable.tolist(), strict=True)
            )
        }
    if known is not None:
        new = torch.where(known.isnan() | (old <= 0) | (old >= 1), new, known)
    thresholds = tuner.thresholds_at(old, new)
    details: dict[int, Mapping[str, Any]] = dict(thresholds.details)
    for index, (before, after) in enumerate(zip(old.tolist(), new.tolist(), strict=True)):
        shares = {"old": _share(before), "new": _share(after)}
        details[index] = {**details.get(index, {}), "prevalence": shares | more.get(index, {})}
    return replace(thresholds, details=details)


def _share(value: float) -> float | None:
    return value if math.isfinite(value) else None
