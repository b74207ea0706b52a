"""How far scores are from being probabilities: errors over groups of equal mass, and logistic recalibration."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from mlclf.decisions.calibration.logistic import fit_logistic, slope_bounds
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.filled_bins import FilledBins, Measure, over_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram

_FINE_BINS = 1024
_STEPS = 60
_ENOUGH, _NEARLY = 1e-8, 1e-6
"""The length of a step on standardised logits after which no more are taken, and that of one which would be short."""

_FREE = slope_bounds(-math.inf, math.inf)


class CalibrationErrors(NamedTuple):
    """Distances between scores and frequencies, each [K] float64, NaN without an observed row.

    Attributes:
        expected: mean over rows of |share of positives − mean score| of the row's group (Nixon et al. 2019).
        debiased: the same, less its bias from finite groups, not below 0.
        root_mean_square: root of the mean over rows of the square of that difference, debiased, not below 0.
        maximum: the largest such difference of a group.
    """

    expected: Tensor
    debiased: Tensor
    root_mean_square: Tensor
    maximum: Tensor


class Recalibration(NamedTuple):
    """Logistic regression of the labels on the logits, logit P = intercept + slope · z; each [K] float64.

    Calibrated scores have intercept 0 and slope 1; a slope below 1 says that scores are too extreme (Cox 1958). NaN for
    a label without both classes, or whose classes the logits separate.
    """

    intercept: Tensor
    slope: Tensor


def calibration_errors(
    histogram: LabelHistogram,
    effective_rows: Tensor | None = None,
    num_groups: int = 15,
) -> CalibrationErrors:
    """Measure the calibration of each label over groups of equal mass.

    Bins of the histogram are never cut: each belongs to the group in which the middle of its mass lies, and its scores
    count as the middle of its least and greatest. So equal scores stay together, and groups are as equal as ties allow.

    A group of n rows with a share ȳ of positives has ȳ known up to a variance of ȳ(1 − ȳ)/n, which inflates plain
    errors. As Kumar, Liang and Ma ("Verified uncertainty calibration", NeurIPS 2019) have it: for squares,
    ȳ(1 − ȳ)/(n − 1) is subtracted (Bröcker 2012); for |d|, the bias that normal noise of that variance would add to it
    once more, E|N(d, ȳ(1 − ȳ)/n)| − |d|, in closed form rather than by simulation. Roelofs et al. (AISTATS 2022) find
    the combination of such debiasing with groups of equal mass among the least biased.

    Args:
        histogram: of K labels.
        effective_rows: [K] float64, (Σw)²/Σw² of the weights; None where all are 1.
        num_groups: groups a label.
    """
    rows = histogram.rows.double() if effective_rows is None else effective_rows
    return CalibrationErrors(*over_labels(histogram, errors_measure(rows, num_groups))[0])


def errors_measure(rows: Tensor, num_groups: int = 15) -> Measure:
    """The numbers of `calibration_errors` in their order, [4, k] of k labels; `rows` are the effective ones, [K]."""
    borders = torch.arange(num_groups + 1, dtype=torch.float64, device=rows.device)
    borders[-1] = torch.inf  # the last group has no end

    def errors(bins: FilledBins, labels: slice) -> Tensor:
        mass = bins.positives + bins.negatives
        below = mass.cumsum(1)
        middle = ((below - mass / 2) / below[:, -1:]).nan_to_num_()
        starts = torch.searchsorted(middle.mul_(num_groups), borders.expand(len(mass), -1).contiguous())
        lengths = starts.diff(dim=1).view(-1)
        sums = [
            torch.segment_reduce(part.reshape(-1), "sum", lengths=lengths, unsafe=True).view(len(mass), -1)
            for part in (bins.positives, mass, bins.middle(scores_of).mul_(mass))
        ]
        return _errors(sums[0], sums[1], sums[2], rows[labels, None])

    return errors


def _errors(positives: Tensor, mass: Tensor, scores: Tensor, rows: Tensor) -> Tensor:
    """The four errors [4, k] from sums over groups, each [k, G]."""
    total = mass.sum(1, keepdim=True)
    share, group_rows = mass / total, (rows * mass / total)
    rate = (positives / mass).nan_to_num(0.0).clamp(max=1)
    distance = ((positives - scores) / mass).nan_to_num(0.0).abs()
    noise = rate * (1 - rate)
    deviation = (noise / group_rows.clamp(min=1)).sqrt()
    inflated = _folded_normal_mean(distance, deviation)
    squares = distance.square() - noise / (group_rows - 1).clamp(min=1)
    return torch.stack(
        [
            (share * distance).sum(1),
            (share * (2 * distance - inflated)).sum(1).clamp(min=0),
            (share * squares).sum(1).clamp(min=0).sqrt(),
            distance.amax(1) + 0 * total[:, 0] / total[:, 0],  # NaN without a row
        ]
    )


def _folded_normal_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """E|X| of X normal: σ √(2/π) e^(−μ²/2σ²) + μ erf(μ / σ√2); |μ| where σ is 0."""
    ratio = (mean / deviation).nan_to_num(torch.inf, posinf=torch.inf)
    spread: Tensor = deviation * (2 / torch.pi) ** 0.5 * torch.exp(-ratio.square() / 2)
    return spread + mean * torch.erf(ratio / 2**0.5)


def recalibration(histogram: LabelHistogram, within: float = math.inf) -> Recalibration:
    """Fit a logistic regression of the labels on their logits, without a penalty; those beyond ±`within` count as it.

    Logits count as the middle of the least and the greatest of their bin; above 1,024 occupied bins, neighbours share
    their mean, which changes the second derivatives alone at first order in the square of their width.
    """
    return Recalibration(*over_labels(histogram, recalibration_measure(within))[0])


def recalibration_measure(within: float = math.inf) -> Measure:
    """The numbers of `recalibration` in their order, [2, k] of k labels."""

    def measure(bins: FilledBins, labels: slice) -> Tensor:
        if not bins.positives.shape[1]:
            return bins.positives.new_full((2, len(bins.positives)), torch.nan)
        logits = bins.middle(lambda ends: ends.clamp(-within, within))
        return torch.stack(_logistic(bins.positives, bins.positives + bins.negatives, logits))

    return measure


def _logistic(positives: Tensor, mass: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Intercept and slope [k] by damped Newton steps (Levenberg 1944) on standardised logits [k, t].

    They are fast and end nearly always; where the curvature is lost on the way, `fit_logistic` goes on.
    """
    separated = _separated(positives, mass - positives)
    target, moment = positives.sum(1), (positives * logits).sum(1)
    mass, logits = _merged(mass, logits)
    total = mass.sum(1)
    mean = (mass * logits).sum(1) / total
    scale = ((mass * (logits - mean[:, None]).square()).sum(1) / total).sqrt().clamp(min=1e-12)
    z = (logits - mean[:, None]) / scale[:, None]
    goal = torch.stack([target, (moment - mean * target) / scale], 1)
    powers = torch.stack([torch.ones_like(z), z, z * z], 2)
    point = torch.stack([mean, scale], 1)  # intercept 0 and slope 1, on the standardised logits
    damping = torch.full_like(total, 1e-3)
    fitted = _fitted(point, z)
    loss = _loss(fitted, mass, goal, point)
    for _ in range(_STEPS):
        step = _newton_step(fitted, mass, powers, goal, damping)
        trial = point + step
        trial_fitted = _fitted(trial, z)
        trial_loss = _loss(trial_fitted, mass, goal, trial)
        better = trial_loss <= loss
        point = torch.where(better[:, None], trial, point)
        fitted = torch.where(better[:, None], trial_fitted, fitted)
        loss = torch.where(better, trial_loss, loss)
        damping = torch.where(better, damping / 10, damping * 10)
        if bool((step.abs().amax(1) < _ENOUGH).logical_or(step.isnan().any(1)).all()):
            break
    step = _newton_step(fitted, mass, powers, goal, torch.zeros_like(total))
    unfinished = (~separated & ~(step.abs().amax(1) < _NEARLY)).nonzero()[:, 0]
    if len(unfinished):
        start = torch.stack([mean, scale], 1)[unfinished]
        point[unfinished] = _finished(z[unfinished], mass[unfinished], goal[unfinished], start)
    slope = point[:, 1] / scale
    defined = ~separated & slope.isfinite()
    return (point[:, 0] - mean * slope).where(defined, torch.nan), slope.where(defined, torch.nan)


def _finished(z: Tensor, mass: Tensor, goal: Tensor, start: Tensor) -> Tensor:
    """Intercept and slope [k, 2] by `fit_logistic`; the loss knows the positives from their sums `goal` alone.

    z has a mean of 0 and a variance of 1, so targets mass · (a + b z) have these sums.
    """
    targets = mass * ((goal[:, :1] + goal[:, 1:] * z) / mass.sum(1, keepdim=True))
    return fit_logistic(torch.stack([torch.ones_like(z), z]), targets, mass, _FREE, start)


def _separated(positives: Tensor, negatives: Tensor) -> Tensor:
    """[k] bool, True where no negative is above a positive, or none below, or one of the classes is missing."""
    (low, high), (least, greatest) = _span(positives), _span(negatives)
    return (greatest <= low) | (high <= least)


def _span(counts: Tensor) -> tuple[Tensor, Tensor]:
    """[k] int64 each, the first and the last of the bins [k, t] that are not empty; t and -1 where all are."""
    used = (counts > 0).cpu().numpy()  # NumPy finds the first True twenty times as fast
    first, last, some = used.argmax(1), used.shape[1] - 1 - used[:, ::-1].argmax(1), used.any(1)
    ends = np.where(some, first, used.shape[1]), np.where(some, last, -1)
    low, high = (torch.from_numpy(end).to(counts.device) for end in ends)
    return low, high


def _fitted(point: Tensor, z: Tensor) -> Tensor:
    """Logits [k, t] with intercept and slope [k, 2] at z [k, t]."""
    return torch.addcmul(point[:, :1], point[:, 1:], z)


def _loss(fitted: Tensor, mass: Tensor, goal: Tensor, point: Tensor) -> Tensor:
    """Log-loss [k] of the fitted logits [k, t], with intercept and slope [k, 2]; see `_newton_step` for the others."""
    return (mass * softplus(fitted, threshold=40.0)).sum(1) - (goal * point).sum(1)


def _newton_step(fitted: Tensor, mass: Tensor, powers: Tensor, goal: Tensor, damping: Tensor) -> Tensor:
    """What to add to intercept and slope, [k, 2].

    Args:
        fitted, mass: [k, t], logits and weights of the bins.
        powers: [k, t, 3], 1, z and z² of their standardised logits.
        goal: [k, 2], sums of 1 and z over the positives.
        damping: [k].
    """
    share = torch.sigmoid(fitted)
    expected = mass * share
    curve = torch.addcmul(expected, expected, share, value=-1)
    slope_0, slope_1 = (torch.bmm(expected[:, None], powers[:, :, :2])[:, 0] - goal).unbind(1)
    a, b, c = torch.bmm(curve[:, None], powers)[:, 0].unbind(1)
    a, c = a * (1 + damping), c * (1 + damping)
    determinant = a * c - b * b
    return torch.stack([b * slope_1 - c * slope_0, b * slope_0 - a * slope_1], 1) / determinant[:, None]


def _merged(mass: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Merge neighbouring bins [k, t] until there are at most 1,024, with the mean of their logits."""
    width = -(-mass.shape[1] // _FINE_BINS)
    if width == 1:
        return mass, logits
    missing = -mass.shape[1] % width
    mass = torch.nn.functional.pad(mass, (0, missing))
    moments = mass * torch.nn.functional.pad(logits, (0, missing))
    merged, moments = (part.view(len(mass), -1, width).sum(2) for part in (mass, moments))
    return merged, (moments / merged).nan_to_num(0.0)
