"""Logistic curves of the logit, fitted label by label in one go, their slopes drawn to those of the other labels."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.logit_groups import LogitGroups

LEAST_SLOPE, GREATEST_SLOPE = 0.01, 100.0
"""Bounds of a slope. The least one keeps the order of scores that say nothing, or say the contrary."""

TYPICAL_SPREAD = 0.5
"""Standard deviation, relative to the pooled slope, that slopes of labels have as far as two labels' worth of doubt."""

_NEWTON_STEPS = 100
_MOST_CHANGE = 8.0
"""Of a logit in the first step. Where the curvature is lost, Newton's is too long, and from its end none leads back."""

_HALVINGS = 12
_INSIDE, _AT_LEAST, _AT_GREATEST = range(3)
_ENOUGH_NATS = 1e-9
_POOLED_STEPS = 60


class CoefficientPrior(NamedTuple):
    """Normal priors and bounds of P coefficients, [P] float64 each; precision 0 means no prior."""

    centre: Tensor
    precision: Tensor
    least: Tensor
    greatest: Tensor


class SlopePrior(NamedTuple):
    """What the labels together say of a slope: its centre, and the standard deviation of slopes around it."""

    centre: float
    deviation: float

    def coefficients(self, num_slopes: int, intercept: bool, least: float = LEAST_SLOPE) -> CoefficientPrior:
        """The prior of `num_slopes` slopes and, perhaps, a free intercept after them."""
        free = [math.inf] if intercept else []
        columns = (
            [self.centre] * num_slopes + [0.0] * intercept,
            [self.deviation**-2] * num_slopes + [0.0] * intercept,
            [least] * num_slopes + [-value for value in free],
            [GREATEST_SLOPE] * num_slopes + free,
        )
        return CoefficientPrior(*(torch.tensor(column, dtype=torch.float64) for column in columns))


def slope_bounds(least: float, greatest: float) -> CoefficientPrior:
    """No prior of a slope within bounds, and of a free intercept after it."""
    columns = [0.0, 0.0], [0.0, 0.0], [least, -math.inf], [greatest, math.inf]
    return CoefficientPrior(*(torch.tensor(column, dtype=torch.float64) for column in columns))


def platt_targets(positives: Tensor, negatives: Tensor) -> Tensor:
    """Expected positives [k, C] when a positive counts (N₊ + 1)/(N₊ + 2) and a negative 1/(N₋ + 2) (Platt 1999)."""
    num_positive, num_negative = positives.sum(1, keepdim=True), negatives.sum(1, keepdim=True)
    return positives * ((num_positive + 1) / (num_positive + 2)) + negatives / (num_negative + 2)


def fit_logistic(
    features: Tensor,
    targets: Tensor,
    totals: Tensor,
    prior: CoefficientPrior,
    start: Tensor,
    offset: Tensor | None = None,
) -> Tensor:
    """Coefficients [k, P] float64 that minimise the penalised log-loss of each label, by Newton's method in the bounds.

    The loss is Σ totals · log(1 + e^η) − targets · η + ½ Σ precision (θ − centre)² with η = offset + Σ θ · features, so
    convex. A step goes towards the minimum of its second-order expansion within the bounds, so downhill, and is halved
    until it gains. It changes no logit that counts by more than _MOST_CHANGE, doubled as long as no step is halved.

    Args:
        features: [P, k, C] float64.
        targets, totals: [k, C] float64, 0 <= targets <= totals.
        prior: of the P coefficients.
        start: [k, P] float64.
        offset: [k, C] float64 or None.
    """

    def logits_of(theta: Tensor) -> Tensor:
        eta = torch.einsum("pkc,kp->kc", features, theta)
        return eta if offset is None else eta + offset

    def loss_of(theta: Tensor) -> Tensor:
        eta = logits_of(theta)
        data = (totals * -functional.logsigmoid(-eta) - targets * eta).sum(1)
        return data + 0.5 * (prior.precision * (theta - prior.centre).square()).sum(1)

    theta = start.clamp(prior.least, prior.greatest)
    loss = loss_of(theta)
    most = torch.full_like(loss, _MOST_CHANGE)
    for _ in range(_NEWTON_STEPS):
        step, gain = _newton_step(features, targets, totals, prior, theta, logits_of(theta))
        running = gain > _ENOUGH_NATS + 1e-15 * loss.abs()
        if not bool(running.any()):
            break
        reach = torch.einsum("pkc,kp->kc", features, step).where(totals > 0, 0.0).abs().amax(1)
        first = length = running * (most / reach).clamp(max=1)
        for _ in range(_HALVINGS):
            trial = (theta + length[:, None] * step).clamp(prior.least, prior.greatest)
            new = loss_of(trial)
            worse = running & ~(new < loss)
            if not bool(worse.any()):
                break
            length = torch.where(worse, length / 2, length)
        better = running & (new < loss)
        if not bool(better.any()):
            break
        theta, loss = torch.where(better[:, None], trial, theta), torch.where(better, new, loss)
        most = torch.where(length < first, _MOST_CHANGE, 2 * most)
    return theta


def _newton_step(
    features: Tensor, targets: Tensor, totals: Tensor, prior: CoefficientPrior, theta: Tensor, eta: Tensor
) -> tuple[Tensor, Tensor]:
    """The step [k, P] to the minimum of the second-order expansion in the bounds, and what it gains there, [k] nats."""
    p = torch.sigmoid(eta)
    gradient = torch.einsum("pkc,kc->kp", features, totals * p - targets) + prior.precision * (theta - prior.centre)
    hessian = torch.einsum("pkc,qkc->kpq", features * (totals * p * (1 - p)), features) + torch.diag(prior.precision)
    hessian = hessian + torch.diag_embed(hessian.diagonal(dim1=1, dim2=2) * 1e-12 + 1e-12)
    return _bounded_minimum(gradient, hessian, prior.least - theta, prior.greatest - theta)


def _bounded_minimum(gradient: Tensor, hessian: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The step s [k, P] in low <= s <= high that minimises g s + ½ s H s, and the fall from 0 to there, [k].

    Each coefficient is inside its bounds or at one of them. There are few, so all combinations are tried. Bounds [k, P]
    are finite on both sides or on none, H [k, P, P] is positive definite.
    """
    ends = [[_INSIDE, _AT_LEAST, _AT_GREATEST] if finite else [_INSIDE] for finite in high.isfinite().all(0).tolist()]
    end = torch.tensor(list(product(*ends)))[:, None]
    inside = end == _INSIDE
    fixed = torch.where(end == _AT_LEAST, low, high).where(~inside, 0.0)
    matrix = hessian * (inside[..., :, None] & inside[..., None, :]) + torch.diag_embed((~inside).double())
    steps = torch.linalg.solve(matrix, (-gradient - _product(hessian, fixed)).where(inside, fixed)).clamp(low, high)
    falls = -(steps * (gradient + _product(hessian, steps) / 2)).sum(2)
    fall, best = falls.max(0)
    return steps[best, torch.arange(len(best))], fall


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """[m, k, P] of matrices [k, P, P] and vectors [m, k, P]."""
    return torch.einsum("kpq,mkq->mkp", matrices, vectors)


def pooled_slope(groups: LogitGroups, fold: int | None, intercept: bool, start: float = 1.0) -> SlopePrior:
    """What the labels say together of the slope: the common one, then how far labels lie from it.

    The common slope s maximises the likelihood of all labels, each with its own intercept (or none), less (s − 1)²/2.
    One Newton step of each label from there gives its own slope and the variance of that; the method of Paule and
    Mandel (1982) then finds the spread of the true ones and their mean, with TYPICAL_SPREAD counting as two labels. The
    step is too short for labels far away, so each label is then fitted with this prior, and mean and spread are taken
    once more: a step of EM with Laplace's approximation.

    Args:
        groups: of K labels.
        fold: the set of rows left out; None = none.
        intercept: whether each label has a free intercept.
        start: where the search begins.
    """
    intercepts = torch.zeros(len(groups.centres), dtype=torch.float64)
    low, high, slope = LEAST_SLOPE, GREATEST_SLOPE, min(max(start, LEAST_SLOPE), GREATEST_SLOPE)
    for _ in range(_POOLED_STEPS):
        score, information = _profile(groups, fold, slope, intercepts if intercept else None)
        total = float(score.sum()) + (slope - 1)
        low, high = (low, slope) if total > 0 else (slope, high)
        best = slope - total / (float(information.sum()) + 1)
        if abs(best - slope) <= 1e-4 * slope or high <= low * 1.0001:
            break
        slope = best if low < best < high else math.sqrt(low * high)
    prior = _spread_of(slope, score * slope, information * slope**2)
    return _refitted(groups, fold, prior, intercepts if intercept else None)


def _profile(groups: LogitGroups, fold: int | None, slope: float, intercepts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradient of each label's loss in the slope and its curvature, [K] each, at its best intercept (kept in place)."""
    score, information = torch.zeros(len(groups.centres)).double(), torch.zeros(len(groups.centres)).double()
    free = SlopePrior(1.0, 1.0).coefficients(0, True)
    for part in groups.slices():
        z = groups.centres[part]
        positives, negatives = groups.training_counts(fold, part)
        both = ((positives.sum(1) > 0) & (negatives.sum(1) > 0))[:, None]
        positives, totals = positives * both, (positives + negatives) * both
        eta = slope * z
        if intercepts is not None:
            ones = torch.ones_like(z)[None]
            intercepts[part] = fit_logistic(ones, positives, totals, free, intercepts[part, None], eta)[:, 0]
            eta = eta + intercepts[part, None]
        score[part] = ((totals * torch.sigmoid(eta) - positives) * z).sum(1)
        information[part] = _slope_information(z, totals, eta, intercepts is not None)
    return score, information


def _slope_information(z: Tensor, totals: Tensor, eta: Tensor, intercept: bool) -> Tensor:
    """Curvature of each label's loss in the slope, [k]; with an intercept, at the best one for each slope."""
    p = torch.sigmoid(eta)
    curvature = totals * p * (1 - p)
    if intercept:
        z = z - (curvature * z).sum(1, keepdim=True) / curvature.sum(1, keepdim=True).clamp_min(1e-300)
    return (curvature * z.square()).sum(1)


def _spread_of(slope: float, score: Tensor, information: Tensor) -> SlopePrior:
    """The prior by Paule and Mandel; score and information are of the slope relative to `slope`."""
    known = information > 1e-6
    distance, variance = -score[known] / information[known], 1 / information[known]

    def mean_and_excess(spread: float) -> tuple[float, float]:
        weights = 1 / (spread + variance)
        mean = float((weights * distance).sum() / weights.sum()) if len(weights) else 0.0
        fit = float((weights * (distance - mean).square()).sum()) - max(len(weights) - 1, 0)
        return mean, fit + 2 * (TYPICAL_SPREAD**2 / spread - 1)

    low, high = 1e-4, 4.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_and_excess(middle)[1] > 0 else (low, middle)
    mean, _ = mean_and_excess(low)
    centre = slope * min(max(1 + mean, 0.1), 10.0)
    return SlopePrior(min(max(centre, LEAST_SLOPE), GREATEST_SLOPE), math.sqrt(low) * slope)


def _refitted(groups: LogitGroups, fold: int | None, prior: SlopePrior, intercepts: Tensor | None) -> SlopePrior:
    """Mean and deviation of the labels' slopes when each is fitted with this prior, from these intercepts on."""
    coefficients = prior.coefficients(1, intercepts is not None)
    slopes, variances = [], []
    for part in groups.slices():
        positives, negatives = groups.training_counts(fold, part)
        both = (positives.sum(1) > 0) & (negatives.sum(1) > 0)
        z, positives, totals = groups.centres[part][both], positives[both], (positives + negatives)[both]
        start, features = torch.full_like(z[:, :1], prior.centre), z[None]
        if intercepts is not None:
            start = torch.cat([start, intercepts[part][both, None]], 1)
            features = torch.stack([z, torch.ones_like(z)])
        theta = fit_logistic(features, positives, totals, coefficients, start)
        eta = torch.einsum("pkc,kp->kc", features, theta)
        information = _slope_information(z, totals, eta, intercepts is not None)
        slopes.append(theta[:, 0])
        variances.append(1 / (information + prior.deviation**-2))
    slope, variance = torch.cat([*slopes, torch.zeros(0)]), torch.cat([*variances, torch.zeros(0)])
    centre = float(slope.mean()) if len(slope) else prior.centre
    squares = float(((slope - centre).square() + variance).sum()) + 2 * (TYPICAL_SPREAD * centre) ** 2
    return SlopePrior(centre, math.sqrt(squares / (len(slope) + 2)))
