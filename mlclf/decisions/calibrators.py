"""Calibrators: for each label the curve from its logits to calibrated ones, of the family that held-out rows ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.histograms import LIMIT, LabelHistogram
from mlclf.decisions.isotonic import Knots, apply_knots, fit_isotonic
from mlclf.decisions.logit_groups import LogitGroups
from mlclf.decisions.slopes import SlopePrior, fit_logistic, platt_targets, pooled_slope
from mlclf.errors import RunError

FORMAT_VERSION = 1
FAMILIES = ("identity", "temperature", "platt", "beta", "isotonic")
"""From simple to rich: the order in which they are tried."""

ISOTONIC_ROWS = 1000
"""Rows of the rarer class that isotonic needs."""

RARE_ROWS = 100
"""Labels with fewer rows of the rarer class than this decide together which family to begin with."""

CLEAR_ERRORS = 1.0
CLEAR_NATS = 1.0
"""A family replaces a simpler one when it gains this many standard errors, and nats, of held-out log-likelihood."""

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


# ── fitting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fit_calibrators(folds: Sequence[LabelHistogram], richest: str = FAMILIES[-1]) -> Calibrators:
    """Fit each label's calibrator on held-out rows, of the family that does best on rows it was not fitted on.

    Each family is fitted on all folds but one and judged by its log-loss on that one, for each fold in turn. The slopes
    of `temperature`, `platt` and `beta` have a normal prior around the slope pooled over labels, as wide as the labels
    differ (`pooled_slope`), so a rare label follows the others and a frequent one itself. Isotonic takes part from
    ISOTONIC_ROWS rows of the rarer class up. A family replaces a simpler one where it gains at least CLEAR_NATS and
    CLEAR_ERRORS standard errors (of the sum over rows, from the bins). With few positives little is ever clear, so the
    labels with fewer than RARE_ROWS first choose a family together, by the sum of their gains, and depart from it one by
    one. A label of one class keeps its logits. The chosen family is then fitted on all folds.

    Args:
        folds: two or more histograms of disjoint rows, of the same labels and bins. Rows that belong together (of one
            group) have to be in one fold.
        richest: the last of FAMILIES that may be chosen.

    Raises:
        ValueError: There are fewer than two folds, or their shapes differ.
    """
    _check_folds(folds)
    groups = LogitGroups.of(folds)
    priors = _Priors.of(groups, None, None)
    training_priors = [_Priors.of(groups, fold, priors) for fold in range(len(folds))]
    curves, moments = [], []
    for part in groups.slices():
        fitted = _fitted(groups, None, part, priors, None)
        curves.append(fitted)
        moments.append(_held_out_moments(groups, part, fitted, training_priors))
    eligible = _eligible(groups)
    sums, squares = (torch.cat(list(column), -1) for column in zip(*moments, strict=True))
    chosen = _chosen(sums, squares, eligible, groups, FAMILIES.index(richest))
    return _put_together(chosen, curves, list(groups.slices()))


class _Priors(NamedTuple):
    """The priors of a slope without an intercept beside it and of one with."""

    temperature: SlopePrior
    platt: SlopePrior

    @classmethod
    def of(cls, groups: LogitGroups, fold: int | None, start: _Priors | None) -> _Priors:
        starts = (1.0, 1.0) if start is None else (start.temperature.centre, start.platt.centre)
        return cls(pooled_slope(groups, fold, False, starts[0]), pooled_slope(groups, fold, True, starts[1]))


class _Curves(NamedTuple):
    """All families fitted to k labels."""

    temperature: Tensor  # [k, 1]
    platt: Tensor  # [k, 2]
    beta: Tensor  # [k, 3]
    isotonic: Knots  # of the labels in `isotonic_labels`
    isotonic_labels: Tensor  # [i] int64, places within the slice

    def logits(self, z: Tensor) -> Tensor:
        """[5, k, C]: what each family makes of logits [k, C]; the identity where isotonic is not fitted."""
        low, high, intercept = (column[:, None] for column in self.beta.unbind(1))
        isotonic = z.index_copy(0, self.isotonic_labels, apply_knots(self.isotonic, z[self.isotonic_labels]))
        return torch.stack(
            [
                z,
                self.temperature * z,
                self.platt[:, :1] * z + self.platt[:, 1:],
                beta_curve(z, low, high, intercept),
                isotonic,
            ]
        )


def _fitted(groups: LogitGroups, fold: int | None, part: slice, priors: _Priors, start: _Curves | None) -> _Curves:
    """Every family fitted to a slice of labels on all folds but one."""
    z = groups.centres[part]
    positives, negatives = groups.training_counts(fold, part)
    targets, totals = platt_targets(positives, negatives), positives + negatives
    one = torch.ones_like(z)
    alone, beside, beta = (
        priors.temperature.coefficients(1, False),
        priors.platt.coefficients(1, True),
        priors.platt.coefficients(2, True, least=0.0),
    )
    firsts = (
        (alone.centre.expand(len(z), -1), beside.centre.expand(len(z), -1))
        if start is None
        else (start.temperature, start.platt)
    )
    temperature = fit_logistic(z[None], targets, totals, alone, firsts[0])
    platt = fit_logistic(torch.stack([z, one]), targets, totals, beside, firsts[1])
    sides = torch.stack([functional.logsigmoid(z), -functional.logsigmoid(-z), one])
    first = platt[:, [0, 0, 1]] if start is None else start.beta
    isotonic_labels = _eligible(groups)[part].nonzero()[:, 0]
    return _Curves(
        temperature,
        platt,
        fit_logistic(sides, targets, totals, beta, first),
        fit_isotonic(z[isotonic_labels], positives[isotonic_labels], negatives[isotonic_labels]),
        isotonic_labels,
    )


def _held_out_moments(
    groups: LogitGroups, part: slice, fitted: _Curves, priors: Sequence[_Priors]
) -> tuple[Tensor, Tensor]:
    """Sums [5, k] of what each family gains on the identity, row by row of held-out rows, and of products [5, 5, k]."""
    z = groups.centres[part]
    sums = torch.zeros(len(FAMILIES), len(z), dtype=torch.float64)
    products = torch.zeros(len(FAMILIES), len(FAMILIES), len(z), dtype=torch.float64)
    for fold, fold_priors in enumerate(priors):
        logits = _fitted(groups, fold, part, fold_priors, fitted).logits(z)
        for counts, sign in ((groups.positives[fold, part], 1), (groups.negatives[fold, part], -1)):
            gain = functional.logsigmoid(sign * logits)
            gain = gain - gain[:1]
            sums += (gain * counts).sum(2)
            products += torch.einsum("akc,bkc->abk", gain * counts, gain)
    return sums, products


def _eligible(groups: LogitGroups) -> Tensor:
    """[K] bool: labels that isotonic may be fitted to."""
    return groups.rows_of_rarer_class() >= ISOTONIC_ROWS


def _chosen(sums: Tensor, products: Tensor, eligible: Tensor, groups: LogitGroups, richest: int) -> Tensor:
    """[K] int64: the family of each label."""
    rarer = groups.rows_of_rarer_class()
    rare, both = (rarer > 0) & (rarer < RARE_ROWS), rarer > 0
    allowed = torch.ones(len(FAMILIES), len(rarer), dtype=torch.bool)
    allowed[-1] = eligible
    allowed[richest + 1 :] = False
    together = choose_families(
        sums[:, rare].sum(1, keepdim=True),
        products[:, :, rare].sum(2, keepdim=True),
        allowed[:, :1] & torch.tensor([name != "isotonic" for name in FAMILIES])[:, None],
        torch.zeros(1, dtype=torch.int64),
    )
    start = torch.where(rare, together, 0)
    return choose_families(sums, products, allowed, start).where(both, 0)


def choose_families(gains: Tensor, products: Tensor, allowed: Tensor, start: Tensor) -> Tensor:
    """Return [K] int64, the family of each label: `start`, or one that is clearly better, tried from simple to rich.

    Args:
        gains: [5, K] float64, held-out nats by which each family is better than the identity.
        products: [5, 5, K] float64, sums over rows of the product of two families' gains.
        allowed: [5, K] bool.
        start: [K] int64.
    """
    current = start
    each = torch.arange(len(start))
    for family in range(len(FAMILIES)):
        gain = gains[family] - gains[current, each]
        variance = products[family, family] + products[current, current, each] - 2 * products[family, current, each]
        clear = gain > torch.maximum(CLEAR_ERRORS * variance.clamp_min(0).sqrt(), torch.tensor(CLEAR_NATS).double())
        current = torch.where(clear & allowed[family], family, current)
    return current


def _put_together(chosen: Tensor, curves: Sequence[_Curves], parts: Sequence[slice]) -> Calibrators:
    """The curves of the chosen families."""
    result = replace(Calibrators.identity(len(chosen)), families=chosen)
    for part, fitted in zip(parts, curves, strict=True):
        family = chosen[part]
        one, zero = torch.ones(len(family), dtype=torch.float64), torch.zeros(len(family), dtype=torch.float64)
        slope, platt, beta = fitted.temperature[:, 0], fitted.platt, fitted.beta
        columns = (
            (result.low_slope, (one, slope, platt[:, 0], beta[:, 0], one)),
            (result.high_slope, (one, slope, platt[:, 0], beta[:, 1], one)),
            (result.intercept, (zero, zero, platt[:, 1], beta[:, 2], zero)),
        )
        for column, values in columns:
            column[part] = torch.stack(values).gather(0, family[None])[0]
        for index, label in enumerate(fitted.isotonic_labels.tolist()):
            if FAMILIES[int(family[label])] == "isotonic":
                count = int(fitted.isotonic.count[index])
                pair = (fitted.isotonic.logits[index, :count], fitted.isotonic.values[index, :count])
                result.knots[part.start + label] = (pair[0].clone(), pair[1].clone())
    return result


def _check_folds(folds: Sequence[LabelHistogram]) -> None:
    if len(folds) < 2:
        raise ValueError(f"calibrators need two or more folds to choose a family by, got {len(folds)}")
    shapes = [(fold.num_labels, fold.num_bins) for fold in folds]
    if len(set(shapes)) > 1:
        raise ValueError(f"folds must have the same labels and bins, got {shapes}")


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
    if any(after <= before for before, after in zip(logits, logits[1:], strict=False)):
        return "logits must rise"
    if any(after < before for before, after in zip(values, values[1:], strict=False)):
        return "calibrated must not fall"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
