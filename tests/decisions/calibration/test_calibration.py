"""Calibration keeps the order of the scores, does nothing where nothing is needed, and puts probabilities right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.calibration import CALIBRATION_BINS, Calibration, calibrated_loss, fit_calibration
from mlclf.decisions.calibration.logit_bounds import LogitBounds, fit_bounds
from mlclf.decisions.calibration.pos_weight_refit import fit_slopes
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.training.hold_out import HeldOutCells


def counted(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> LabelHistogram:
    histogram = LabelHistogram(logits.shape[1], CALIBRATION_BINS)
    histogram.update(logits.float(), labels, None, weights)
    return histogram


def true_model(rows: int, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits [n, 1] that are right, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, scale, (rows, 1))
    labels = rng.random((rows, 1)) < 1 / (1 + np.exp(-logits))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def log_loss(logits: Tensor, labels: Tensor) -> float:
    return float(functional.binary_cross_entropy_with_logits(logits.double(), labels.double()))


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(5))
def test_bounds_are_not_set_on_logits_that_are_right(seed: int) -> None:
    logits, labels = true_model(3000, seed)
    bounds = fit_bounds(counted(logits, labels), torch.ones(1), torch.zeros(1))
    assert bounds.low.tolist() == [-math.inf]
    assert bounds.high.tolist() == [math.inf]
    values = torch.randn(50, 1)
    assert bounds.apply(values) is values  # bit for bit


@pytest.mark.parametrize("side", [1, -1])
def test_bounds_are_set_where_far_logits_are_wrong_and_lower_the_loss(side: int) -> None:
    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        logits, labels = true_model(4000, seed)
        far = torch.full((400, 1), -25.0)
        odd = torch.zeros(400, 1, dtype=torch.bool)
        odd[::50] = True  # one in fifty is positive though the model says one in 10¹¹
        return torch.cat([logits, far]) * side, torch.cat([labels, odd]) ^ (side < 0)

    logits, labels = drawn(0)
    bounds = fit_bounds(counted(logits, labels), torch.ones(1), torch.zeros(1))
    limit = bounds.low if side > 0 else -bounds.high
    assert -6 < float(limit) < -2
    other, truth = drawn(1)
    assert log_loss(bounds.apply(other), truth) < log_loss(other, truth) - 0.03


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30), st.floats(-14, -0.5), st.floats(0.5, 14))
def test_bounds_keep_the_order(values: list[float], low: float, high: float) -> None:
    bounds = LogitBounds(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    logits = torch.tensor(sorted(values), dtype=torch.float64)[:, None]
    bounded = bounds.apply(logits)
    assert (bounded.diff(dim=0) >= 0).all()
    assert torch.isfinite(bounded).all()
    assert (bounded >= low - math.log1p(math.exp(low - high)) - 1e-9).all()  # the upper bound is soft too
    assert (bounded <= high + 1e-9).all()


def test_bounds_of_one_label_leave_the_others_alone() -> None:
    bounds = LogitBounds(torch.tensor([-3.0, -math.inf]).double(), torch.tensor([math.inf, math.inf]).double())
    logits = torch.randn(20, 2) * 10
    bounded = bounds.apply(logits)
    assert bounded.dtype == torch.float32
    torch.testing.assert_close(bounded[:, 1], logits[:, 1], rtol=0, atol=0)
    expected = torch.log(torch.exp(torch.tensor(-3.0).double()) + torch.exp(logits[:, 0].double()))
    torch.testing.assert_close(bounded[:, 0].double(), expected, rtol=1e-6, atol=1e-6)


# ── the refit after pos_weight ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("weight", [5.0, 173.0])
def test_the_refit_recovers_probabilities(weight: float) -> None:
    """The weighted model's logits are shifted by log w and too steep, as over-fitted ones are."""
    logits, labels = true_model(20_000)
    weighted = 1.7 * logits + math.log(weight)
    calibration = fit_calibration(counted(weighted, labels), torch.tensor([weight]).double().log())
    fixed = calibration.apply(weighted)
    expected = torch.sigmoid(fixed).sum()
    assert float(labels.sum() / expected) == pytest.approx(1, abs=0.01)
    assert float(calibration.slope) == pytest.approx(1 / 1.7, abs=0.03)
    assert log_loss(fixed, labels) == pytest.approx(log_loss(logits, labels), abs=1e-3)


def test_subtracting_log_w_alone_would_not_do() -> None:
    logits, labels = true_model(20_000)
    weighted = 1.7 * logits + math.log(20)
    plain = torch.sigmoid(weighted - math.log(20)).sum()
    assert abs(float(labels.sum() / plain) - 1) > 0.05


def test_the_refit_is_the_maximum_of_the_likelihood() -> None:
    logits, labels = true_model(5000)
    steep = 3 * logits + 1
    slope, intercept = fit_slopes(counted(steep, labels), torch.zeros(1))
    model = LogisticRegression(C=1e12, tol=1e-10).fit(steep.numpy(), labels[:, 0].numpy())
    assert float(slope) == pytest.approx(model.coef_[0, 0], rel=0.01)  # 1,024 bins and Platt's targets
    assert float(intercept) == pytest.approx(model.intercept_[0], abs=0.02)


def test_no_pos_weight_means_no_refit() -> None:
    logits, labels = true_model(2000)
    calibration = fit_calibration(counted(2 * logits, labels), torch.zeros(1).double())
    assert calibration.slope.tolist() == [1.0]
    assert calibration.intercept.tolist() == [0.0]


def test_the_order_never_turns_round() -> None:
    logits, labels = true_model(500)
    slope, _ = fit_slopes(counted(-logits, labels), torch.zeros(1))
    assert float(slope) == 0.05


@pytest.mark.parametrize("labels", [torch.zeros(50, 1), torch.ones(50, 1)])
def test_one_class_keeps_the_shift_by_log_w(labels: Tensor) -> None:
    calibration = fit_calibration(counted(torch.randn(50, 1), labels.bool()), torch.tensor([3.0]).double())
    assert calibration.slope.tolist() == [1.0]
    assert calibration.intercept.tolist() == [-3.0]


def test_separated_classes_stay_finite() -> None:
    logits = torch.cat([torch.full((50, 1), -5.0), torch.full((50, 1), 5.0)])
    calibration = fit_calibration(counted(logits, logits > 0), torch.tensor([2.0]).double())
    assert torch.isfinite(calibration.apply(logits)).all()
    assert log_loss(calibration.apply(logits), logits > 0) < 0.05


def test_no_held_out_rows_give_no_calibration() -> None:
    calibration = fit_calibration(LabelHistogram(2, CALIBRATION_BINS), torch.zeros(2).double())
    values = torch.randn(5, 2)
    assert calibration.apply(values) is values
    assert Calibration.none(2).apply(values) is values


def test_held_out_loss_is_that_of_the_calibrated_logits_and_nan_without_rows() -> None:
    logits, labels = true_model(1000)
    both = torch.cat([logits, logits], 1).float()
    cells = torch.cat([torch.ones(1000, 1), torch.zeros(1000, 1)], 1).double()
    truth = torch.cat([labels, labels], 1).to(torch.uint8)
    parts = [HeldOutCells(both[rows], truth[rows], cells[rows]) for rows in (slice(0, 300), slice(300, 1000))]
    losses = calibrated_loss(parts, torch.zeros(2).double())
    assert float(losses[0]) == pytest.approx(log_loss(logits, labels), rel=1e-5)
    assert math.isnan(float(losses[1]))


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def weighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> LabelHistogram:
    histogram = LabelHistogram(logits.shape[1], CALIBRATION_BINS)
    histogram.update(logits, labels, None, weights.double())
    return histogram


def contaminated() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that claims too much far out: one row in fifty there is positive."""
    logits, labels = true_model(4000)
    far = torch.full((400, 1), -9.0)
    return torch.cat([logits.float(), far]), torch.cat([labels.bool(), (torch.arange(400) % 50 == 0)[:, None]])


def test_a_unit_of_weights_changes_no_bound_and_no_slope() -> None:
    logits, labels = contaminated()
    random = torch.rand(len(logits), generator=torch.Generator().manual_seed(0))
    ones, zeros = torch.ones(1).double(), torch.zeros(1).double()
    plain = counted(logits, labels)
    bounds, slopes = fit_bounds(plain, ones, zeros), fit_slopes(plain, zeros)
    for unit in (1e-6, 7.0, 1e6):
        same = weighted(logits, labels, torch.full((len(logits),), unit))
        assert torch.equal(fit_bounds(same, ones, zeros).low, bounds.low)
        torch.testing.assert_close(torch.cat(fit_slopes(same, zeros)), torch.cat(slopes), rtol=1e-6, atol=1e-6)
        one, other = weighted(logits, labels, random), weighted(logits, labels, random.double() * unit)
        assert torch.equal(fit_bounds(one, ones, zeros).low, fit_bounds(other, ones, zeros).low)
        torch.testing.assert_close(
            torch.cat(fit_slopes(one, zeros)), torch.cat(fit_slopes(other, zeros)), rtol=1e-6, atol=1e-6
        )


def test_one_heavy_row_is_no_evidence_for_a_bound() -> None:
    """It says what one row says, whatever it weighs: 8 nats where 10 are needed."""
    logits, labels = contaminated()
    ones, zeros = torch.ones(1).double(), torch.zeros(1).double()
    assert float(fit_bounds(counted(logits, labels), ones, zeros).low) > -math.inf
    weights = torch.ones(len(logits))
    weights[-400] = 1e8
    heavy = weighted(logits, labels, weights)
    assert float(heavy.effective_rows()) < 1.1
    assert float(fit_bounds(heavy, ones, zeros).low) == -math.inf
