from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from mlclf.data.features.moments import Moments


def moments_of(values: np.ndarray, weights: np.ndarray | None = None, step: int = 7) -> Moments:
    moments = Moments.empty(values.shape[1])
    for start in range(0, len(values), step):
        moments.update(values[start : start + step], None if weights is None else weights[start : start + step])
    return moments


def exact(values: list[float], weights: list[float]) -> tuple[float, float]:
    """Mean and deviation in rational arithmetic."""
    pairs = [(Fraction(v), Fraction(w)) for v, w in zip(values, weights, strict=True) if v == v]
    total = sum(w for _, w in pairs)
    mean = sum(v * w for v, w in pairs) / total
    variance = sum(w * (v - mean) ** 2 for v, w in pairs) / total
    unit = Fraction(2) ** 2000
    return float(mean), float(Fraction(math.isqrt(int(variance * unit * unit))) / unit)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), step=st.integers(1, 9), scale=st.sampled_from([1.0, 1e-300, 1e300, 1e8]))
def test_mean_and_deviation(data: st.DataObject, step: int, scale: float) -> None:
    numbers = st.floats(-1, 1, width=32).map(lambda value: value * scale if abs(value) > 1e-3 else 0.0)
    values = data.draw(st.lists(st.just(np.nan) | numbers, min_size=1, max_size=30))
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=len(values), max_size=len(values)))
    moments = moments_of(np.array(values)[:, None], np.array(weights), step)
    known = [value for value in values if value == value]
    assert moments.missing[0] == len(values) - len(known)
    if known:
        mean, deviation = exact(values, weights)
        # The sums have at most 30 terms, each rounded to one part in 2 ** 53.
        assert moments.mean[0] == pytest.approx(mean, rel=1e-12, abs=1e-12 * scale)
        assert (moments.low[0], moments.high[0]) == (min(known), max(known))
        constant = min(known) == max(known)
        assert bool(moments.constant()[0]) is constant
        assert moments.deviation()[0] == (1 if constant else pytest.approx(deviation, rel=1e-7))


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 4)) * [1, 1e3, 1e-3, 1] + [0, 1e6, 5, 1e8]
    values[rng.random(values.shape) < 0.1] = np.nan
    weights = rng.random(500)
    scaler = StandardScaler().fit(values)
    moments = moments_of(values, step=64)
    np.testing.assert_allclose(moments.mean, scaler.mean_, rtol=1e-13)
    np.testing.assert_allclose(moments.deviation(), scaler.scale_, rtol=1e-7)  # 1e8 ± 1 keeps eight digits
    full = np.nan_to_num(values)
    weighted = StandardScaler().fit(full, sample_weight=weights)
    np.testing.assert_allclose(moments_of(full, weights, 64).deviation(), weighted.scale_, rtol=1e-7)


def test_a_constant_has_deviation_one_however_large() -> None:
    for constant in (1e8, 1e30, 1e300, 0.1, -5e-300):
        moments = moments_of(np.full((1001, 1), constant))
        assert moments.deviation()[0] == 1
        assert moments.mean[0] == constant
        assert moments.constant().all()


def test_squares_neither_overflow_nor_vanish() -> None:
    for scale in (1e30, 1e300, 1.7e308, 1e-200, 1e-300):
        moments = moments_of(np.array([[scale], [-scale], [scale], [-scale]]), step=1)
        assert moments.deviation()[0] == pytest.approx(scale, rel=1e-14)
        assert abs(moments.mean[0]) <= 1e-14 * scale


def test_no_value_and_no_weight() -> None:
    moments = moments_of(np.array([[np.nan, 1.0], [np.nan, 2.0]]), np.array([1.0, 0.0]))
    assert moments.constant().tolist() == [True, False]
    assert moments.deviation().tolist() == [1, 1]
    assert moments.mean[1] == 1
