"""Thresholds in the scale of score files, and decisions by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.cells.top_labels import is_top
from mlclf.decisions.score_files.columns import LARGEST_LOGIT, LOGIT, PROBABILITY, file_logits
from mlclf.decisions.thresholds.thresholds import FORMAT_VERSION, Thresholds
from mlclf.errors import ConfigError, RunError
from mlclf.files import read_json

KIND_FIELD = "score_kind"
"""Field of `thresholds.json` that says which scale its thresholds are in; without it they are probabilities."""


def in_file_scale(thresholds: Thresholds, kind: str) -> Thresholds:
    """The same decisions by the scores as the files have them.

    Scores of files are binned by their logits, and thresholds are probabilities of those; the way there and back may
    move the last bits, but it never falls. So the threshold is the least float32 score whose probability by that way
    reaches the old one: it decides every row as the old one does, exactly. NaN (never positive) stays, and 0.5 is
    0.5, or the logit 0.
    """
    cuts, ends = thresholds.thresholds.numpy(), thresholds.intervals.numpy()
    half = np.float32(0.5) if kind == PROBABILITY else np.float32(0)
    cut = np.where(cuts == np.float32(0.5), half, _least(cuts, kind, np.greater_equal))
    low = _before(_least(ends[:, 0], kind, np.greater), kind)
    high = np.where(cuts == ends[:, 1], cut, _least(ends[:, 1], kind, np.greater_equal))
    return replace(
        thresholds,
        thresholds=torch.from_numpy(cut.astype(np.float32)),
        intervals=torch.from_numpy(np.stack([low, high], 1).astype(np.float32)),
    )


def _least(wanted: NDArray[np.float32], kind: str, reaches: Callable[[Any, Any], Any]) -> NDArray[np.float32]:
    """The least float32 score of each label whose probability `reaches` the wanted one, NaN for NaN: [K] float32."""
    low = np.full(len(wanted), _ordinal(0.0 if kind == PROBABILITY else -LARGEST_LOGIT), np.int64)
    high = np.full(len(wanted), _ordinal(1.0 if kind == PROBABILITY else LARGEST_LOGIT) + 1, np.int64)
    known = np.nan_to_num(wanted, nan=0.0)
    while (low < high).any():
        middle = (low + high) >> 1
        found = scores_of(torch.from_numpy(file_logits(_float(middle), kind))).numpy()
        reached = reaches(found, known)
        high, low = np.where(reached, middle, high), np.where(reached, low, np.minimum(middle + 1, high))
    return np.where(np.isnan(wanted), np.float32(np.nan), _float(low))


def _before(scores: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """The float32 just below each score, within the scale."""
    return np.maximum(np.nextafter(scores, np.float32(-np.inf)), 0 if kind == PROBABILITY else -LARGEST_LOGIT)


def _ordinal(value: float) -> int:
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
    """The float32 numbers of ordinals, which grow with them."""
    bits = np.where(ordinals >= 0, ordinals, -ordinals | 0x80000000)
    return bits.astype(np.uint32).view(np.float32)


@dataclass(frozen=True)
class FileThresholds:
    """What `thresholds.json` says to do with scores.

    Attributes:
        kind: the scale: probability or logit.
        cuts: [K] float32, NaN = never positive.
        per_row: labels of a row that are flagged at most, those with the largest scores; None = no limit.
    """

    kind: str
    cuts: NDArray[np.float32]
    per_row: int | None = None

    def decide(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Decisions of scores [K, n] float32 in the same scale: [K, n], True where score >= threshold."""
        decisions: NDArray[np.bool_] = np.greater_equal(scores, self.cuts[:, None])
        if self.per_row is None:
            return decisions
        ranked = scores_of(torch.from_numpy(scores)) if self.kind == LOGIT else torch.from_numpy(scores)
        top = is_top(ranked.t(), torch.ones(scores.shape[::-1], dtype=torch.bool), self.per_row)
        decisions &= top.numpy().T
        return decisions


def described(path: Path) -> tuple[str, tuple[str, ...]]:
    """The scale and the labels of a file of thresholds, in its order.

    Raises:
        RunError: the file is missing, damaged or of another version.
    """
    document = read_json(path, FORMAT_VERSION, "thresholds")
    kind, labels = document.get(KIND_FIELD, PROBABILITY), document.get("labels")
    if kind not in (PROBABILITY, LOGIT):
        raise RunError(
            f"{str(path)!r}: {KIND_FIELD} must be 'probability' or 'logit', got {kind!r}; run calibrate again"
        )
    if not isinstance(labels, dict):
        raise RunError(f"{str(path)!r}: thresholds must have 'labels'; run calibrate again")
    return kind, tuple(labels)


def read_file_thresholds(path: Path, label_names: Sequence[str], *, only: bool = False) -> FileThresholds:
    """Read thresholds of exactly these labels, in their order; with `only`, the file may have others too.

    Raises:
        RunError: the file is missing, damaged or of another version.
        ConfigError: labels are missing from it, or it has others.
    """
    kind, names = described(path)
    document = read_json(path, FORMAT_VERSION, "thresholds")
    if only:
        document = document | {"labels": {name: document["labels"][name] for name in names if name in label_names}}
    cuts = None
    if kind == LOGIT:
        document, cuts = _as_probabilities(document)
    thresholds = Thresholds.from_json(document, list(label_names))
    numbers = thresholds.thresholds.numpy()
    if cuts is not None:
        numbers = np.array([cuts[name] for name in label_names], np.float32)
    return FileThresholds(kind, numbers, thresholds.per_row)


def read_prior(path: Path, label_names: Sequence[str], kind: str | None = None) -> Tensor:
    """Earlier thresholds as probabilities of logits, as tuning sees them: [K] float32, NaN where there is none.

    Args:
        path: their file; it may lack labels and have others.
        label_names: K.
        kind: what the scores are that are tuned on; None for those of a run.

    Raises:
        RunError: the file is missing, damaged or of another version.
        ConfigError: they are for scores of the other kind, or have no label in common with these.
    """
    known = set(described(path)[1])
    common = [name for name in label_names if name in known]
    if not common:
        raise ConfigError(f"--prior: {str(path)!r} has none of these labels; give thresholds of an earlier calibrate")
    earlier = read_of_kind(path, common, kind or PROBABILITY, only=True)
    cuts = torch.from_numpy(earlier.cuts)
    if kind is not None:
        cuts = scores_of(torch.from_numpy(file_logits(earlier.cuts, kind)))
    places = {name: index for index, name in enumerate(label_names)}
    result = torch.full((len(label_names),), torch.nan)
    result[[places[name] for name in common]] = cuts
    return result


def read_of_kind(path: Path, label_names: Sequence[str], kind: str, *, only: bool = False) -> FileThresholds:
    """Read thresholds for scores of a kind; see `read_file_thresholds`.

    Raises:
        ConfigError: they are for scores of the other kind.
    """
    thresholds = read_file_thresholds(path, label_names, only=only)
    if thresholds.kind != kind:
        raise ConfigError(
            f"{str(path)!r} holds thresholds of scores that are {thresholds.kind!r}, these scores are {kind!r}; "
            "calibrate on scores of one kind"
        )
    return thresholds


def _as_probabilities(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """The document with logits turned into probabilities, as the checks expect them, and the logits."""
    cuts, labels = {}, {}
    for name, entry in document["labels"].items():
        labels[name], cuts[name] = entry, np.nan
        if isinstance(entry, dict) and isinstance(entry.get("interval"), list):
            cut = entry.get("threshold")
            cuts[name] = cut if isinstance(cut, int | float) else np.nan
            labels[name] = entry | {
                "threshold": _probability(cut),
                "interval": [_probability(end) for end in entry["interval"]],
            }
    return document | {"labels": labels}, cuts


def _probability(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(torch.sigmoid(torch.tensor(float(value), dtype=torch.float64))) if is_number else value
