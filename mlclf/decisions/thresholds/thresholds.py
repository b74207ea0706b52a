"""Per-label thresholds: what they decide, how they did on the rows that they were chosen from, and their file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mlclf.decisions.cells.in_memory import columns_of, in_order
from mlclf.decisions.cells.scores import at_least
from mlclf.decisions.cells.top_labels import is_top
from mlclf.errors import ConfigError, DataError, RunError
from mlclf.messages import some_of

FORMAT_VERSION = 1
STATUSES = ("tuned", "shrunk", "fallback", "unattainable")


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each label, and how it did on the rows that it was chosen from.

    A decision is ``score >= threshold``, both float32; NaN is never positive.

    Attributes:
        thresholds: [K] float32.
        status: K of `tuned`, `shrunk` (shrinkage changed the choice), `fallback` (0.5: nothing to choose from) or
            `unattainable` (no cut-off meets the constraint: never positive).
        support: [K] int64, observed positive rows, unweighted.
        precision, recall, f1: [K] float64, on these rows, weighted; NaN where undefined and for `fallback`.
        intervals: [K, 2] float32: every cut-off above the first number and up to the second decides these rows alike.
            For a label that is never positive the second is NaN (no end); for `fallback` both are.
        objective: the text of the objective.
        method: `shrinkage` or `empirical`.
        confidence: the level that the constraint holds with; None = no claim.
        holds_up_to: what the claim supposes of rows that were not seen: `weight`, none weighs more, or `cluster`, none
            has rows of more weight in all that the constraint is about (flagged ones for precision, positives for
            recall, negatives for fpr). It is the greatest seen, the least of it over the labels `tuned`.
        per_row: labels of a row that are flagged at most, those with the largest scores; None = no limit.
        details: more about single labels, such as the best that an unattainable constraint can do; by position.
        label_names: [K], where they are known.
    """

    thresholds: Tensor
    status: list[str]
    support: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    intervals: Tensor
    objective: str
    method: str
    confidence: float | None = None
    holds_up_to: Mapping[str, float] = field(default_factory=dict)
    per_row: int | None = None
    details: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None

    @overload
    def decide(self, scores: Tensor) -> Tensor: ...

    @overload
    def decide(self, scores: Any) -> Any: ...

    def decide(self, scores: Any) -> Any:
        """Decide each score by the threshold of its label: bool of the same shape, as a tensor or a NumPy array.

        Args:
            scores: [n, K], or [n] for one label, in what `tune_thresholds` takes; compared as float32. Columns of a
                frame are taken by name where the labels have names.

        Raises:
            DataError: there is not a column for each label.
        """
        if not isinstance(scores, Tensor):
            numbers = in_order(columns_of(scores, "scores"), self.label_names, "scores")
            try:
                held = torch.from_numpy(np.ascontiguousarray(numbers, np.float32))
            except (TypeError, ValueError) as error:
                raise DataError(f"scores must be numbers ({error})") from error
            return self.decide(held).numpy()
        num_labels = len(self.thresholds)
        if scores.shape[-1:] != (num_labels,) and not (num_labels == 1 and scores.dim() == 1):
            raise DataError(
                f"scores must have a column for each of {num_labels} labels, got the shape {list(scores.shape)}"
            )
        decisions = at_least(scores, self.thresholds.to(scores.device))
        if self.per_row is None:
            return decisions
        return decisions & is_top(scores, torch.ones_like(decisions), self.per_row)

    def to_json(self, label_names: list[str]) -> dict[str, Any]:
        """Return the document of `thresholds.json`; NaN becomes None, and every float32 reads back exactly."""
        columns: dict[str, list[Any]] = {
            "threshold": _numbers(self.thresholds),
            "status": self.status,
            "support": self.support.tolist(),
            "precision": _numbers(self.precision),
            "recall": _numbers(self.recall),
            "f1": _numbers(self.f1),
            "interval": [_numbers(interval) for interval in self.intervals],
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for index, more in self.details.items():
            rows[index] |= more
        return {
            "format_version": FORMAT_VERSION,
            "objective": self.objective,
            "method": self.method,
            "confidence": self.confidence,
            **({"holds_up_to": dict(self.holds_up_to)} if self.holds_up_to else {}),
            **({} if self.per_row is None else {"per_row": self.per_row}),
            "labels": dict(zip(label_names, rows, strict=True)),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], label_names: list[str]) -> Thresholds:
        """Read what `to_json` returned, in the order of `label_names`.

        Raises:
            RunError: The format version is another one, or an entry is not what it has to be.
            ConfigError: Labels are missing from the document or unknown.
        """
        _check_document(document, label_names)
        entries = [document["labels"][name] for name in label_names]
        return cls(
            thresholds=_tensor([entry["threshold"] for entry in entries], torch.float32),
            status=[entry["status"] for entry in entries],
            support=torch.tensor([entry["support"] for entry in entries], dtype=torch.int64),
            precision=_tensor([entry["precision"] for entry in entries], torch.float64),
            recall=_tensor([entry["recall"] for entry in entries], torch.float64),
            f1=_tensor([entry["f1"] for entry in entries], torch.float64),
            intervals=torch.stack([_tensor(entry["interval"], torch.float32) for entry in entries]),
            objective=document["objective"],
            method=document["method"],
            confidence=document["confidence"],
            holds_up_to=document.get("holds_up_to", {}),
            per_row=document.get("per_row"),
            label_names=tuple(label_names),
        )


def fallback_thresholds(num_labels: int, support: Tensor, objective: str = "f1") -> Thresholds:
    """Return 0.5 for every label with status `fallback`, for when there are no rows to choose from.

    `support` is [K] int64, the observed positive rows.
    """
    unknown = torch.full((num_labels,), torch.nan, dtype=torch.float64)
    return Thresholds(
        thresholds=torch.full((num_labels,), 0.5),
        status=["fallback"] * num_labels,
        support=support.cpu(),
        precision=unknown,
        recall=unknown,
        f1=unknown,
        intervals=torch.full((num_labels, 2), torch.nan),
        objective=objective,
        method="empirical",
    )


def _numbers(values: Tensor) -> list[float | None]:
    return [None if math.isnan(number) else number for number in values.tolist()]


def _tensor(numbers: list[float | None], dtype: torch.dtype) -> Tensor:
    return torch.tensor([math.nan if number is None else number for number in numbers], dtype=dtype)


def _check_document(document: dict[str, Any], label_names: list[str]) -> None:
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise RunError(
            f"thresholds must have format_version {FORMAT_VERSION}, got {found!r}; "
            "read them with the version of mlclf that wrote them"
        )
    per_row = document.get("per_row")
    if per_row is not None and (type(per_row) is not int or per_row < 1):
        raise RunError(f"thresholds must have a count of 1 or more as 'per_row', got {per_row!r}; run calibrate again")
    limits = document.get("holds_up_to", {})
    if not isinstance(limits, dict) or not all(type(limit) in (int, float) for limit in limits.values()):
        raise RunError(f"thresholds must have numbers by name as 'holds_up_to', got {limits!r}; run calibrate again")
    missing_keys = [key for key in ("objective", "method", "confidence", "labels") if key not in document]
    if missing_keys:
        raise RunError(f"thresholds must have {', '.join(map(repr, missing_keys))}; run calibrate again")
    labels = document["labels"]
    missing = [name for name in label_names if name not in labels]
    unknown = sorted(set(labels) - set(label_names))
    if missing or unknown:
        parts = [
            f"{kind}: {some_of(names, 10)}" for kind, names in (("missing", missing), ("unknown", unknown)) if names
        ]
        raise ConfigError(f"thresholds must be of the labels that are scored, got {'; '.join(parts)}")
    problems = [(name, _entry_problem(labels[name])) for name in label_names]
    lines = [f"label {name!r}: {problem}" for name, problem in problems if problem]
    if lines:
        raise RunError("thresholds must be as calibrate writes them, got\n" + "\n".join(lines))


def _entry_problem(entry: Any) -> str | None:
    """Return what is wrong with a label's entry, or None."""
    keys = ("threshold", "status", "support", "precision", "recall", "f1", "interval")
    missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
    if missing:
        return f"no {', '.join(missing)}"
    interval = entry["interval"]
    if not isinstance(interval, list) or len(interval) != 2:
        return f"interval must be two numbers or nulls, got {interval!r}"
    shares = {key: entry[key] for key in ("threshold", "precision", "recall", "f1")}
    shares |= {"interval start": interval[0], "interval end": interval[1]}
    for key, share in shares.items():
        if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1):
            return f"{key} must be a number from 0 to 1 or null, got {share!r}"
    if entry["status"] not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}, got {entry['status']!r}"
    if type(entry["support"]) is not int or entry["support"] < 0:
        return f"support must be a count of rows, got {entry['support']!r}"
    return None
