"""Shifted prevalence: how often a label occurs in new rows, known or estimated from their scores, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.calibration.logistic import fit_logistic, pooled_slope
from mlclf.decisions.calibration.logit_groups import LogitGroups
from mlclf.decisions.histograms.derived import scaled_weights
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.machine.workers import one_thread

INFORMATIVE_ERRORS = 2.0
"""The AUROC of a label has to be above ½ by this many of the errors that it has for scores without meaning."""

GREATEST_ERROR = 1 / 3
"""The greatest standard error of a prevalence π that is told apart: this × the larger of π(1 − π), old and new."""

_STEPS = 200
_ENOUGH = 1e-9


@dataclass(frozen=True)
class Prevalence:
    """How often each of K labels occurs in unlabelled rows.

    Attributes:
        old: [K] float64, in the labelled rows; NaN without any.
        values: [K] float64; the old one where it is not identifiable.
        standard_errors: [K] float64, of the sampling of both kinds of rows; NaN where it is not identifiable.
        converged: [K] bool, False where the search ended before it stood still.
        identifiable: [K] bool, False where the scores cannot tell: a label of one class, no unlabelled row, an AUROC
            near ½, or a standard error above GREATEST_ERROR × the larger of π(1 − π), old and new.
    """

    old: Tensor
    values: Tensor
    standard_errors: Tensor
    converged: Tensor
    identifiable: Tensor


def reweighted(histogram: LabelHistogram, old: Tensor, new: Tensor) -> LabelHistogram:
    """A copy of a histogram as if its labels had the new prevalences: what thresholds for them are computed from.

    Positives count new / old times as much and negatives (1 − new) / (1 − old) times, so the total of a label whose
    share of positives is `old` stays. Counts of rows stay too. What was certified on the histogram does not hold on
    this one: its weights are no longer those of rows that were seen.

    Args:
        histogram: of K labels.
        old, new: [K] floating, strictly between 0 and 1 where they differ.

    Raises:
        ValueError: A prevalence is not in [0, 1], or it is 0 or 1 and has changed.
    """
    old, new = _checked(old, new)
    same = old == new
    positives, negatives = torch.where(same, 1.0, new / old), torch.where(same, 1.0, (1 - new) / (1 - old))
    return scaled_weights(histogram, positives, negatives)


def _checked(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    old, new = old.double().cpu(), new.double().cpu()
    if old.shape != new.shape or old.dim() != 1:
        raise ValueError(f"prevalences must be one a label, old and new, got {list(old.shape)} and {list(new.shape)}")
    bad = ~((old >= 0) & (old <= 1) & (new >= 0) & (new <= 1))
    bad |= (old != new) & ~((old > 0) & (old < 1) & (new > 0) & (new < 1))
    if bool(bad.any()):
        label = int(bad.nonzero()[0])
        raise ValueError(
            "prevalences must be strictly between 0 and 1 where they change, "
            f"got {float(old[label])!r} and {float(new[label])!r} for label {label}"
        )
    return old, new


# ── estimation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def estimate_prevalence(labelled: LabelHistogram, unlabelled: LabelHistogram) -> Prevalence:
    """Estimate how often each label occurs in unlabelled rows, from how their scores are spread.

    The logits are calibrated on the labelled rows by a slope and an intercept, so that their mean is the prevalence
    there: bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020), for two classes the same as
    Platt's without his targets; slopes of rare labels are drawn to the pooled one. The estimate π is the fixed point of
    the EM algorithm of Saerens, Latinne and Decaestecker (2002), the maximum of Σ log(1 + π(ρ − 1)) with ρ the ratio of
    the densities of the classes. It is concave, so safeguarded Newton steps find it where EM would take thousands. π
    stays within ½/(n + 1) of 0 and 1, n unlabelled rows.

    The variance is that of the unlabelled rows (Fisher information) and that of the calibration; the intercept less the
    logit of the old prevalence has that of a case-control study (Prentice and Pyke 1979).

    Args:
        labelled: histogram of logits of rows that were not trained on, with their labels.
        unlabelled: histogram of logits by the same model; how its rows are labelled does not matter.

    Raises:
        ValueError: The histograms are not of the same labels.
    """
    if labelled.num_labels != unlabelled.num_labels:
        raise ValueError(
            f"histograms must be of the same labels, got {labelled.num_labels} labelled and {unlabelled.num_labels} not"
        )
    source, target = LogitGroups.of([labelled]), LogitGroups.of([unlabelled])
    with one_thread():
        ratios = _density_ratios(source)
        estimates = [_estimate(target, ratios, part) for part in target.slices()]
    values, variance, converged = (torch.cat(column) for column in zip(*estimates, strict=True))
    errors = variance.sqrt()
    larger = torch.maximum(values * (1 - values), ratios.old * (1 - ratios.old))
    identifiable = ratios.informative & (target.rows > 0) & converged & (errors <= GREATEST_ERROR * larger)
    return Prevalence(
        old=ratios.old,
        values=torch.where(identifiable, values, ratios.old),
        standard_errors=torch.where(identifiable, errors, torch.nan),
        converged=converged,
        identifiable=identifiable,
    )


class _DensityRatios(NamedTuple):
    """log ρ = slope · logit + intercept of K labels, and what is known of them."""

    coefficients: Tensor  # [K, 2]: slope, intercept
    covariance: Tensor  # [K, 2, 2]
    old: Tensor  # [K]: share of positives
    informative: Tensor  # [K] bool


def _density_ratios(source: LogitGroups) -> _DensityRatios:
    num_labels = len(source.rows)
    prior = pooled_slope(source, None, intercept=True).coefficients(1, True)
    coefficients = torch.zeros(num_labels, 2, dtype=torch.float64)
    covariance = torch.zeros(num_labels, 2, 2, dtype=torch.float64)
    old, informative = torch.zeros(num_labels, dtype=torch.float64), torch.zeros(num_labels, dtype=torch.bool)
    for part in source.slices():
        positives, negatives = source.training_counts(None, part)
        both = (positives.sum(1) > 0) & (negatives.sum(1) > 0)
        totals, z = (positives + negatives) * both[:, None], source.centres[part]
        features = torch.stack([z, torch.ones_like(z)])
        theta = fit_logistic(features, positives * both[:, None], totals, prior, prior.centre.expand(len(z), -1))
        p = torch.sigmoid(theta[:, :1] * z + theta[:, 1:])
        hessian = torch.einsum("pkc,qkc->kpq", features * (totals * p * (1 - p)), features)
        hessian = hessian + torch.diag(prior.precision) + 1e-9 * torch.eye(2, dtype=torch.float64)
        sampled = 1 / positives.sum(1) + 1 / negatives.sum(1)
        old[part] = positives.sum(1) / (positives + negatives).sum(1)
        coefficients[part] = torch.stack([theta[:, 0], theta[:, 1] - torch.logit(old[part])], 1)
        covariance[part] = torch.linalg.inv(hessian)
        covariance[part, 1, 1] -= sampled
        informative[part] = both & _above_chance(
            positives, negatives, source.positive_rows[part], source.negative_rows[part]
        )
    return _DensityRatios(coefficients, covariance, old, informative)


def _above_chance(positives: Tensor, negatives: Tensor, p: Tensor, n: Tensor) -> Tensor:
    """[k] bool: the AUROC is above ½ by INFORMATIVE_ERRORS × √((P + N + 1)/(12 P N)), P and N effective rows [k]."""
    below = negatives.cumsum(1) - negatives / 2
    area = (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))
    return area > 0.5 + INFORMATIVE_ERRORS * ((p + n + 1) / (12 * p * n)).sqrt()


def _estimate(target: LogitGroups, ratios: _DensityRatios, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Prevalence, its variance and whether the search converged, [k] each."""
    positives, negatives = target.training_counts(None, part)
    counts = positives + negatives
    z, total = target.centres[part], counts.sum(1)
    theta = ratios.coefficients[part].nan_to_num(0, 0, 0)
    log_ratio = theta[:, :1] * z + theta[:, 1:]
    least = 0.5 / (total + 1)
    low, high = least.clone(), 1 - least
    value = torch.minimum(torch.maximum(ratios.old[part].nan_to_num(0.5), low), high)
    converged = torch.zeros(len(value), dtype=torch.bool)
    for _ in range(_STEPS):
        rate = _scores(log_ratio, value)
        slope, curvature = (counts * rate).sum(1), (counts * rate.square()).sum(1)
        low, high = torch.where(slope >= 0, value, low), torch.where(slope <= 0, value, high)
        newton = value + slope / curvature.clamp_min(1e-300)
        middle = torch.sigmoid((torch.logit(low) + torch.logit(high)) / 2)
        new = torch.where((newton > low) & (newton < high), newton, middle)
        converged = ((new - value).abs() <= _ENOUGH * value) | (high - low <= _ENOUGH * low)
        value = torch.where(converged, value, new)
        if bool(converged.all()):
            break
    return value, _variance(counts, z, log_ratio, value, ratios.covariance[part]), converged


def _scores(log_ratio: Tensor, value: Tensor) -> Tensor:
    """Derivative of log(1 + π(ρ − 1)) in π, [k, C]: (q − π) / (π(1 − π)) with q the posterior."""
    value = value[:, None]
    return (torch.sigmoid(log_ratio + torch.logit(value)) - value) / (value * (1 - value))


def _variance(counts: Tensor, z: Tensor, log_ratio: Tensor, value: Tensor, covariance: Tensor) -> Tensor:
    information = (counts * _scores(log_ratio, value).square()).sum(1)
    q = torch.sigmoid(log_ratio + torch.logit(value)[:, None])
    slope = counts * q * (1 - q) / (value * (1 - value))[:, None]
    gradient = torch.stack([(slope * z).sum(1), slope.sum(1)], 1)
    calibration = torch.einsum("kp,kpq,kq->k", gradient, covariance, gradient).clamp_min(0)
    return 1 / information + calibration / information.square()
