"""The families of calibration curves, the curves of K labels, and their document."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.isotonic import Knots, apply_knots
from mlclf.decisions.histograms.counting import LIMIT
from mlclf.errors import RunError

FORMAT_VERSION = 1
FAMILIES = ("identity", "temperature", "platt", "beta", "isotonic")
"""From simple to rich: the order in which they are tried."""

_KEYS = {
    "identity": (),
    "temperature": ("slope",),
    "platt": ("slope", "intercept"),
    "beta": ("low_slope", "high_slope", "intercept"),
    "isotonic": ("logits", "calibrated"),
}


@dataclass(frozen=True)
class Calibrators:
    """Curves of K labels, each not falling in the logit z.

    - `identity`: z.
    - `temperature`: slope · z; `platt`: slope · z + intercept (Platt 1999).
    - `beta` (Kull et al. 2017): low_slope · log p − high_slope · log(1 − p) + intercept with p = sigmoid(z). The slopes
      are those of the curve far to the left and far to the right.
    - `isotonic`: a line through knots.

    Beyond ±30, where histograms do not tell logits apart, all but the identity stay at their value there.

    Attributes:
        families: [K] int64, places in FAMILIES.
        low_slope, high_slope, intercept: [K] float64; the two slopes are the same but for `beta`. `isotonic` has none.
        knots: label → its knots, ``(logits, calibrated)``, [J] float64 each.
    """

    families: Tensor
    low_slope: Tensor
    high_slope: Tensor
    intercept: Tensor
    knots: dict[int, tuple[Tensor, Tensor]]

    @classmethod
    def identity(cls, num_labels: int) -> Calibrators:
        """Calibrators that leave every logit as it is."""
        ones = torch.ones(num_labels, dtype=torch.float64)
        return cls(torch.zeros(num_labels, dtype=torch.int64), ones, ones.clone(), torch.zeros_like(ones), {})

    @property
    def family(self) -> list[str]:
        """The family of each label."""
        return [FAMILIES[place] for place in self.families.tolist()]

    def logits(self, logits: Tensor, labels: slice) -> Tensor:
        """Return calibrated logits.

        Args:
            logits: [k, T] floating, a row for each label of the slice.
            labels: which labels these are.

        Returns:
            [k, T] float64, on the device of `logits`.
        """
        calibrated = logits.double()
        places, device = self.families[labels], logits.device
        for number, name in enumerate(FAMILIES[1:], 1):
            chosen = (places == number).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            inside = calibrated[chosen.to(device)].clamp(-LIMIT, LIMIT)
            if name == "isotonic":
                first = labels.indices(len(self.families))[0]
                curve = apply_knots(self._knots_of((chosen + first).tolist(), device), inside)
            else:
                low, high, intercept = (
                    values[labels][chosen, None].to(device)
                    for values in (self.low_slope, self.high_slope, self.intercept)
                )
                curve = beta_curve(inside, low, high, intercept) if name == "beta" else low * inside + intercept
            calibrated = calibrated.index_copy(0, chosen.to(device), curve)
        return calibrated

    def _knots_of(self, labels: list[int], device: torch.device) -> Knots:
        pairs = [self.knots[label] for label in labels]
        count = torch.tensor([len(logits) for logits, _ in pairs])
        logits = torch.nn.utils.rnn.pad_sequence([logits for logits, _ in pairs], True, math.inf)
        values = torch.nn.utils.rnn.pad_sequence([values for _, values in pairs], True, 0.0)
        return Knots(logits.to(device), values.to(device), count.to(device))

    def shifted(self, shifts: Tensor) -> Calibrators:
        """These curves moved up by `shifts`, [K] float64 finite: calibrated for other prevalences.

        Where the shift is not 0, `identity` and `temperature` become `platt`.
        """
        shifts = shifts.double().cpu()
        moved = shifts != 0
        families = torch.where(
            moved & (self.families < FAMILIES.index("platt")), FAMILIES.index("platt"), self.families
        )
        knots = {label: (logits, values + shifts[label]) for label, (logits, values) in self.knots.items()}
        return replace(self, families=families, intercept=self.intercept + shifts, knots=knots)

    def to_json(self) -> dict[str, Any]:
        """Return a document of plain numbers, an entry for each label in order."""
        columns = {
            "low_slope": self.low_slope.tolist(),
            "high_slope": self.high_slope.tolist(),
            "slope": self.low_slope.tolist(),
            "intercept": self.intercept.tolist(),
        }
        entries: list[dict[str, Any]] = []
        for label, family in enumerate(self.family):
            entry: dict[str, Any] = {"family": family}
            if family == "isotonic":
                entry |= dict(zip(_KEYS[family], (values.tolist() for values in self.knots[label]), strict=True))
            else:
                entry |= {key: columns[key][label] for key in _KEYS[family]}
            entries.append(entry)
        return {"format_version": FORMAT_VERSION, "labels": entries}

    @classmethod
    def from_json(cls, document: Any) -> Calibrators:
        """Read what `to_json` returned.

        Raises:
            RunError: The format version is another one, or an entry is not what it has to be; every bad one is named.
        """
        entries = _checked_entries(document)
        calibrators = cls.identity(len(entries))
        for label, entry in enumerate(entries):
            calibrators.families[label] = FAMILIES.index(entry["family"])
            if entry["family"] == "isotonic":
                pair = (torch.tensor(entry[key], dtype=torch.float64) for key in _KEYS["isotonic"])
                calibrators.knots[label] = (next(pair), next(pair))
                continue
            slope = entry.get("slope", 1.0)
            calibrators.low_slope[label] = entry.get("low_slope", slope)
            calibrators.high_slope[label] = entry.get("high_slope", slope)
            calibrators.intercept[label] = entry.get("intercept", 0.0)
        return calibrators


def beta_curve(logits: Tensor, low_slope: Tensor, high_slope: Tensor, intercept: Tensor) -> Tensor:
    """low_slope · log p − high_slope · log(1 − p) + intercept with p = sigmoid(logits), all float64."""
    return low_slope * functional.logsigmoid(logits) - high_slope * functional.logsigmoid(-logits) + intercept


# ── the document ────────────────────────────────────────────────────────────────────────────────────────────────────


def _checked_entries(document: Any) -> list[dict[str, Any]]:
    found = document.get("format_version") if isinstance(document, dict) else None
    if found != FORMAT_VERSION or isinstance(found, bool):
        raise RunError(
            f"calibrators must have format_version {FORMAT_VERSION}, got {found!r}; "
            "read them with the version of mlclf that wrote them"
        )
    entries = document.get("labels")
    if not isinstance(entries, list):
        raise RunError(f"calibrators must have a list of labels, got {type(entries).__name__}; fit them again")
    problems = [(label, _entry_problem(entry)) for label, entry in enumerate(entries)]
    lines = [f"label {label}: {problem}" for label, problem in problems if problem]
    if lines:
        raise RunError("calibrators must be as they were written, got\n" + "\n".join(lines))
    return entries


def _entry_problem(entry: Any) -> str | None:
    """What is wrong with a label's entry, or None."""
    if not isinstance(entry, dict) or entry.get("family") not in FAMILIES:
        family = entry.get("family") if isinstance(entry, dict) else entry
        return f"family must be one of {', '.join(FAMILIES)}, got {family!r}"
    keys = _KEYS[entry["family"]]
    if set(entry) != {"family", *keys}:
        return f"{entry['family']} must have {', '.join(keys) or 'nothing else'}, got {', '.join(sorted(entry))}"
    if entry["family"] == "isotonic":
        return _knots_problem(entry["logits"], entry["calibrated"])
    for key in keys:
        if not _is_number(entry[key]):
            return f"{key} must be a finite number, got {entry[key]!r}"
        if "slope" in key and entry[key] < 0:
            return f"{key} must not be negative, got {entry[key]!r}"
    return None


def _knots_problem(logits: Any, values: Any) -> str | None:
    for name, numbers in (("logits", logits), ("calibrated", values)):
        if not isinstance(numbers, list) or not numbers or not all(_is_number(number) for number in numbers):
            return f"{name} must be a list of finite numbers, got {numbers!r}"
    if len(logits) != len(values):
        return f"logits and calibrated must be as many, got {len(logits)} and {len(values)}"
    if any(after <= before for before, after in pairwise(logits)):
        return "logits must rise"
    if any(after < before for before, after in pairwise(values)):
        return "calibrated must not fall"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
