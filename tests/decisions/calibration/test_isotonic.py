"""Isotonic curves are scikit-learn's pools, never fall, and are never 0 or 1."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.decisions.calibration.isotonic import END_SLOPE, apply_knots, fit_isotonic


def counts_of(seed: int, labels: int = 6, places: int = 80) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    z = np.sort(rng.normal(0, 3, (labels, places)), 1)
    totals = rng.integers(0, 30, (labels, places))
    positives = rng.binomial(totals, 1 / (1 + np.exp(-z)))
    return tuple(torch.from_numpy(x).double() for x in (z, positives, totals - positives))  # type: ignore[return-value]  # three


@pytest.mark.parametrize("seed", range(4))
def test_pools_are_those_of_scikit_learn(seed: int) -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    z, positives, negatives = counts_of(seed)
    knots = fit_isotonic(z, positives, negatives)
    for label in range(len(z)):
        totals = (positives + negatives)[label]
        used = totals > 0
        model = isotonic.IsotonicRegression()
        share = (positives[label] / totals)[used].numpy()
        fitted = model.fit_transform(z[label][used].numpy(), share, sample_weight=totals[used].numpy())
        values, first = np.unique(fitted.round(12), return_index=True)
        assert int(knots.num[label]) == len(first)
        ours = torch.sigmoid(knots.values[label, : len(first)]).numpy()
        inside = (values > 0) & (values < 1)
        np.testing.assert_allclose(ours[inside], values[inside], rtol=1e-9)
        ends = np.append(first, used.sum())
        means = [np.average(z[label][used][a:b], weights=totals[used][a:b]) for a, b in pairwise(ends)]
        np.testing.assert_allclose(knots.logits[label, : len(first)], means, rtol=1e-9, atol=1e-12)


def test_the_ends_are_smoothed() -> None:
    z = torch.tensor([[-2.0, 0.0, 1.0]]).double()
    knots = fit_isotonic(z, torch.tensor([[0.0, 4.0, 9.0]]).double(), torch.tensor([[9.0, 6.0, 0.0]]).double())
    assert torch.sigmoid(knots.values)[0].tolist() == pytest.approx([0.5 / 10, 0.4, 9.5 / 10])


def test_smoothing_the_ends_keeps_the_order() -> None:
    z = torch.tensor([[-2.0, 0.0, 1.0]]).double()
    knots = fit_isotonic(z, torch.tensor([[0.0, 1.0, 1.0]]).double(), torch.tensor([[1.0, 99.0, 0.0]]).double())
    shares = torch.sigmoid(knots.values)[0]
    assert shares.tolist() == pytest.approx([0.01, 0.01, 0.75])  # (0 + ½)/(1 + 1) would be above the second


@pytest.mark.parametrize(("positives", "share"), [([3.0, 2.0], 2.5 / 11 + 3 / 11), ([0.0, 0.0], 0.5 / 11)])
def test_one_pool_is_one_share(positives: list[float], share: float) -> None:
    p = torch.tensor([positives]).double()
    knots = fit_isotonic(torch.tensor([[0.0, 1.0]]).double(), p, 5 - p)
    expected = share if not p.any() else 0.5
    assert int(knots.num) == 1
    assert float(torch.sigmoid(knots.values[0, 0])) == pytest.approx(expected)
    assert torch.isfinite(apply_knots(knots, torch.tensor([[-9.0, 0.5, 9.0]]).double())).all()


def test_the_curve_is_straight_between_knots_and_nearly_flat_beyond() -> None:
    z = torch.tensor([[-1.0, 1.0]]).double()
    knots = fit_isotonic(z, torch.tensor([[1.0, 3.0]]).double(), torch.tensor([[3.0, 1.0]]).double())
    value = np.log(3)
    curve = apply_knots(knots, torch.tensor([[-11.0, -1.0, 0.0, 0.5, 1.0, 11.0]]).double())[0]
    expected = [-value - 10 * END_SLOPE, -value, 0, value / 2, value, value + 10 * END_SLOPE]
    assert curve.tolist() == pytest.approx(expected)


def test_no_rows_are_no_error() -> None:
    none = torch.zeros(0, 5).double()
    assert len(fit_isotonic(none, none, none).num) == 0


@given(st.integers(0, 10_000), st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_curve_never_falls(seed: int, logits: list[float]) -> None:
    knots = fit_isotonic(*counts_of(seed, 3, 20))
    curve = apply_knots(knots, torch.tensor(sorted(logits)).double().expand(3, -1))
    assert torch.isfinite(curve).all()
    assert (curve.diff(dim=1) >= 0).all()
