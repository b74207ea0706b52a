"""Slopes are the minimum of their penalised loss, and what labels say together is what they were drawn from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logits import folds_of, histogram_of, true_logits
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.logistic import (
    GREATEST_SLOPE,
    LEAST_SLOPE,
    CoefficientPrior,
    SlopePrior,
    fit_logistic,
    platt_targets,
    pooled_slope,
    slope_bounds,
)
from mlclf.decisions.calibration.logit_groups import LogitGroups
from mlclf.decisions.histograms.filled_bins import filled_bins
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.calibration_error import recalibration


def penalised_loss(theta: Tensor, features: Tensor, targets: Tensor, totals: Tensor, prior: CoefficientPrior) -> Tensor:
    eta = torch.einsum("pkc,kp->kc", features, theta)
    data = (totals * functional.softplus(eta, threshold=100) - targets * eta).sum(1)
    return data + 0.5 * (prior.precision * (theta - prior.centre).square()).sum(1)


def problem(rows: int, labels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    z, y = true_logits(rows, labels, seed)
    groups = LogitGroups.of([histogram_of(1.5 * z + 1, y, num_bins=256)])
    return groups.centres, *groups.training_counts(None, slice(0, labels))


@pytest.mark.parametrize("rows", [20, 3000])
def test_the_fit_is_the_minimum_by_its_gradient(rows: int) -> None:
    """The gradient is taken by autograd; at a bound it may only push outwards."""
    z, positives, negatives = problem(rows, 4, 0)
    features = torch.stack([functional.logsigmoid(z), -functional.logsigmoid(-z), torch.ones_like(z)])
    prior = SlopePrior(0.8, 0.3).coefficients(2, True, least=0.0)
    targets, totals = platt_targets(positives, negatives), positives + negatives
    theta = fit_logistic(features, targets, totals, prior, torch.zeros(4, 3).double()).requires_grad_()
    penalised_loss(theta, features, targets, totals, prior).sum().backward()
    assert theta.grad is not None
    inside = (theta > prior.least) & (theta < prior.greatest)
    assert bool(inside.any())
    assert float(theta.grad[inside].abs().max()) < 1e-3  # of a loss in nats, stopped at 1e-9 of them
    assert bool((theta.grad[~inside] > 0).all())


def test_the_fit_is_that_of_a_slow_optimiser_with_bounds() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    z, positives, negatives = problem(200, 5, 3)
    z = torch.cat([z, -z])  # labels that run against their scores end at the bound
    positives, negatives = positives.repeat(2, 1), negatives.repeat(2, 1)
    features = torch.stack([functional.logsigmoid(z), -functional.logsigmoid(-z), torch.ones_like(z)])
    prior = SlopePrior(1.0, 2.0).coefficients(2, True, least=0.0)
    totals = positives + negatives
    ours = fit_logistic(features, positives, totals, prior, torch.ones(10, 3).double())
    assert bool((ours[5:, :2] == 0).any())
    for label in range(10):
        part = slice(label, label + 1)

        def loss(theta: object, part: slice = part) -> float:
            at = torch.tensor(np.array([theta]))
            return float(penalised_loss(at, features[:, part], positives[part], totals[part], prior))

        bounds = [(0, GREATEST_SLOPE)] * 2 + [(None, None)]
        best = optimize.minimize(loss, [1, 1, 0], bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}).fun
        assert loss(ours[label].numpy()) <= best + 1e-6


def searched(z: Tensor, targets: Tensor, totals: Tensor, prior: CoefficientPrior) -> Tensor:
    """[1, 2], the slope by thirds of its range, for each the intercept by halving: slow, and nothing can go wrong."""

    def at(slope: float) -> Tensor:
        low, high = -3200.0, 3200.0
        for _ in range(50):
            middle = (low + high) / 2
            rising = float((totals * torch.sigmoid(slope * z + middle) - targets).sum()) > 0
            low, high = (low, middle) if rising else (middle, high)
        return torch.tensor([[slope, (low + high) / 2]], dtype=torch.float64)

    features = torch.stack([z, torch.ones_like(z)])
    low, high = LEAST_SLOPE, GREATEST_SLOPE
    for _ in range(60):
        thirds = low + (high - low) / 3, high - (high - low) / 3
        first, second = (float(penalised_loss(at(third), features, targets, totals, prior)) for third in thirds)
        low, high = (low, thirds[1]) if first < second else (thirds[0], high)
    return at(low)


def assert_least(z: Tensor, positives: Tensor, negatives: Tensor, slope: SlopePrior) -> None:
    """The fit of one label, [1, C], is as good as the search; that of the slope alone finds the same slope."""
    prior, features = slope.coefficients(1, True), torch.stack([z, torch.ones_like(z)])
    targets, totals = platt_targets(positives, negatives), positives + negatives
    theta = fit_logistic(features, targets, totals, prior, prior.centre[None])
    assert torch.isfinite(theta).all()
    assert LEAST_SLOPE <= float(theta[0, 0]) <= GREATEST_SLOPE
    best = searched(z, targets, totals, prior)
    found, least = (penalised_loss(at, features, targets, totals, prior) for at in (theta, best))
    assert float(found) <= float(least) * (1 + 1e-9) + 1e-6
    alone = slope.coefficients(1, False)
    given = fit_logistic(z[None], targets, totals, alone, alone.centre[None], best[:, 1:].expand_as(z))
    found = penalised_loss(torch.cat([given, best[:, 1:]], 1), features, targets, totals, prior)
    assert float(found) <= float(least) * (1 + 1e-9) + 1e-6


@pytest.mark.slow
@given(
    st.lists(st.floats(-30, 30) | st.floats(-0.2, 0.2), min_size=2, max_size=8, unique=True),
    st.sampled_from([0.1, 1.0, 3.0, 50.0]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_the_fit_ends_at_the_minimum_on_any_counts(
    values: list[float], centre: float, spread: float, data: st.DataObject
) -> None:
    counts = st.lists(st.sampled_from([0.0, 1.0, 7.0, 1e6]), min_size=len(values), max_size=len(values))
    z = torch.tensor(sorted(values)).double()[None]
    positives, negatives = (torch.tensor(data.draw(counts)).double()[None] for _ in range(2))
    assert_least(z, positives, negatives, SlopePrior(centre, spread * centre))


@pytest.mark.parametrize(
    ("values", "positives", "negatives", "slope"),
    [
        ([-11.0, -10.5, 0.0, 0.0625], [0, 1e6, 0, 7], [0, 0, 0, 0], SlopePrior(1.0, 0.5)),  # the curvature is lost
        ([15.0, 16.0], [1e6, 0], [0, 1e6], SlopePrior(1.0, 0.5)),  # runs into a bound
        ([-0.1, 0.1, 30.0], [0, 1e6, 1], [1e6, 0, 0], SlopePrior(1.0, 0.5)),  # one row far away, and a way to go
        ([-30.0, 30.0], [1, 0], [0, 1e6], SlopePrior(50.0, 20.0)),
    ],
)
def test_the_fit_ends_at_the_minimum_where_it_once_did_not(
    values: list[float], positives: list[float], negatives: list[float], slope: SlopePrior
) -> None:
    assert_least(*(torch.tensor([column]).double() for column in (values, positives, negatives)), slope)


def extreme_problem(seed: int, num_bins: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [C] of any scale and counts [C] from none to millions: rare, separated, steep, backwards or at random."""
    random = np.random.default_rng(seed)
    z = random.normal(size=num_bins) * 10 ** random.uniform(-2, 3) + random.normal() * 10 ** random.uniform(-1, 2)
    z = z.round() if random.random() < 0.3 else z
    totals = (10 ** (random.random(num_bins) * 7 * random.random())).round()
    totals *= random.random(num_bins) < 1.2 * random.random()
    standard = (z - z.mean()) / (z.std() + 1e-3)
    rate = 10 ** -random.uniform(0, 6)
    shares = [
        rate * random.random(num_bins),
        z > np.median(z),
        1 / (1 + np.exp(-10 * standard)),
        1 / (1 + np.exp(np.clip(z, -700, 700))),
        random.random(num_bins) < 10 * rate,
    ][int(random.integers(5))]
    positives = (totals * shares).round()
    return tuple(torch.from_numpy(column) for column in (z, positives, totals - positives))


def least_loss(z: Tensor, targets: Tensor, totals: Tensor, least: float, greatest: float) -> Tensor:
    """[k], the least log-loss by halving alone: of the slope in its bounds, and of the intercept for each slope."""

    def intercept_of(slope: Tensor) -> Tensor:
        low, high = torch.full_like(slope, -1e6), torch.full_like(slope, 1e6)
        for _ in range(75):
            middle = (low + high) / 2
            rising = (totals * torch.sigmoid(slope[:, None] * z + middle[:, None]) - targets).sum(1) > 0
            low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
        return (low + high) / 2

    ends = [torch.full((len(z),), end, dtype=torch.float64) for end in (least, greatest)]
    low, high = ends
    for _ in range(50):
        middle = (low * high).sqrt()
        p = torch.sigmoid(middle[:, None] * z + intercept_of(middle)[:, None])
        rising = ((totals * p - targets) * z).sum(1) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    losses = [log_losses(z, targets, totals, slope, intercept_of(slope)) for slope in (low, high, *ends)]
    return torch.stack(losses).amin(0)


def log_losses(z: Tensor, targets: Tensor, totals: Tensor, slope: Tensor, intercept: Tensor) -> Tensor:
    eta = slope[:, None] * z + intercept[:, None]
    return (totals * functional.softplus(eta, threshold=600) - targets * eta).sum(1)


def test_slopes_within_bounds_end_at_the_minimum_of_600_extreme_problems() -> None:
    """Halving needs no curvature. Losses reach 1e9 nats, of which float64 sums hold 1e-7."""
    z, positives, negatives = (torch.stack(column) for column in zip(*map(extreme_problem, range(600)), strict=True))
    both = (positives.sum(1) > 0) & (negatives.sum(1) > 0)
    assert int(both.sum()) > 400
    z, positives, negatives = z[both], positives[both], negatives[both]
    targets, totals = platt_targets(positives, negatives), positives + negatives
    start = torch.stack([torch.ones(len(z)), torch.linspace(-20, 20, len(z))], 1).double()
    theta = fit_logistic(torch.stack([z, torch.ones_like(z)]), targets, totals, slope_bounds(0.05, 20.0), start)
    found = log_losses(z, targets, totals, theta[:, 0], theta[:, 1])
    assert bool((found <= least_loss(z, targets, totals, 0.05, 20.0) * (1 + 1e-9) + 1e-6).all())


def test_platt_targets_are_his() -> None:
    targets = platt_targets(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 4.0]]))
    assert targets[0].tolist() == pytest.approx([3 * 5 / 6 + 2 / 8, 5 / 6 + 4 / 8])


def test_one_label_pools_to_its_own_slope() -> None:
    model = pytest.importorskip("sklearn.linear_model").LogisticRegression(C=np.inf, tol=1e-10)
    z, y = true_logits(4000)
    prior = pooled_slope(LogitGroups.of([histogram_of(3 * z + 1, y, num_bins=65_536)]), None, intercept=True)
    assert prior.centre == pytest.approx(model.fit(3 * z + 1, y[:, 0]).coef_[0, 0], rel=0.01)  # the pull to 1
    assert prior.deviation == pytest.approx(0.5 * prior.centre, rel=0.25)  # nothing is known of other labels


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.1, 0.4])
def test_the_spread_of_slopes_is_found_from_labels_with_few_positives(spread: float) -> None:
    rng = np.random.default_rng(0)
    z, y = true_logits(1000, 300, mean=-5)  # about 30 positives each
    slopes = 0.7 * np.exp(spread * rng.standard_normal(300))
    prior = pooled_slope(LogitGroups.of([histogram_of((z + 1) / slopes, y, num_bins=512)]), None, intercept=True)
    assert prior.centre == pytest.approx(slopes.mean(), abs=0.03)
    assert prior.deviation == pytest.approx(slopes.std(), abs=0.03)


def test_the_fold_left_out_has_no_say() -> None:
    z, y = true_logits(2000, 2)
    folds = folds_of(z, y)
    without = pooled_slope(LogitGroups.of(folds[:-1]), None, intercept=True)
    left_out = pooled_slope(LogitGroups.of(folds), len(folds) - 1, intercept=True)
    assert left_out.centre == pytest.approx(without.centre, rel=1e-3)


def test_nothing_to_pool_gives_slope_one() -> None:
    z, _ = true_logits(100)
    prior = pooled_slope(LogitGroups.of([histogram_of(z, np.zeros((100, 1)))]), None, intercept=True)
    assert prior.centre == pytest.approx(1, abs=1e-3)
    assert math.isfinite(prior.deviation)


def test_recalibration_ends_at_the_minimum_of_extreme_problems() -> None:
    """The fall that a second-order step would still bring is next to nothing, on the bins as they were counted."""
    problems = [extreme_problem(seed) for seed in range(600)]
    z, positives, negatives = (torch.stack(column, 1) for column in zip(*problems, strict=True))
    histogram = LabelHistogram(600, 1024)
    for label, counts in ((1, positives), (0, negatives)):
        histogram.update(z, torch.full(z.shape, label, dtype=torch.uint8), None, counts)
    found = recalibration(histogram)
    known = found.slope.isfinite()
    assert int(known.sum()) > 150
    bins = filled_bins(histogram, slice(0, 600))
    hits, totals = bins.positives[known], (bins.positives + bins.negatives)[known]
    logits, share = bins.middle(lambda ends: ends)[known], totals / totals.sum(1, keepdim=True)
    centred = logits - (share * logits).sum(1, keepdim=True)
    spread = (share * centred.square()).sum(1, keepdim=True).sqrt()
    known_spread = spread[:, 0] > 0
    features = torch.stack([torch.ones_like(centred), centred / spread])[:, known_spread]
    hits, totals, logits = hits[known_spread], totals[known_spread], logits[known_spread]
    p = torch.sigmoid(found.intercept[known][known_spread, None] + found.slope[known][known_spread, None] * logits)
    gradient = torch.einsum("pkc,kc->kp", features, totals * p - hits)
    hessian = torch.einsum("pkc,kc,qkc->kpq", features, totals * p * (1 - p), features)
    falls = (gradient * torch.linalg.solve(hessian + 1e-12 * torch.eye(2), gradient)).sum(1) / 2
    assert float(falls.abs().max()) < 1e-6
