"""Binomial tails against exact fractions and SciPy, and what is inverted from them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlclf.decisions.guarantees import binomial
from mlclf.decisions.guarantees.binomial import least_successes, log_upper_tail, share_below, upper_tail_within

ROUNDING = 1e-12
"""Of the incomplete beta function, which SciPy computes to a few units in the last place."""


def exact_tail(successes: int, trials: int, share: Fraction) -> Fraction:
    terms = (
        math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(max(successes, 0), trials + 1)
    )
    return sum(terms, Fraction(0))


def counts(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.integers(0, 120), st.integers(-1, 121), st.sampled_from([(1, 100), (1, 3), (1, 2), (9, 10), (99, 100)]))
@settings(max_examples=200, deadline=None)
def test_tail_is_exact(trials: int, successes: int, ratio: tuple[int, int]) -> None:
    share = Fraction(*ratio)
    found = float(log_upper_tail(counts(successes), counts(trials), float(share)).exp())
    assert found == pytest.approx(float(exact_tail(successes, trials, share)), rel=ROUNDING, abs=1e-300)


def test_ends_of_the_tail() -> None:
    tails = log_upper_tail(counts(0, 1, 3, 4, 0), counts(3, 3, 3, 3, 0), torch.tensor([0.5, 1.0, 1.0, 1.0, 0.0]))
    assert tails.tolist() == [0.0, 0.0, 0.0, -math.inf, 0.0]
    assert float(log_upper_tail(counts(1), counts(5), 0.0)) == -math.inf


@pytest.mark.parametrize("most", [100, 10_000, 1 << 20])
def test_tail_against_scipy(most: int) -> None:
    rng = np.random.default_rng(0)
    trials, share = rng.integers(1, most, 2_000), rng.choice([0.001, 0.1, 0.5, 0.9, 0.99], 2_000)
    deviations = rng.normal(1, 3, 2_000) * np.sqrt(trials * share * (1 - share))
    successes = np.clip(np.round(trials * share + deviations), 0, trials)
    found = log_upper_tail(torch.tensor(successes), torch.tensor(trials), torch.tensor(share)).numpy()
    assert np.abs(found - stats.binom.logsf(successes - 1, trials, share)).max() < 1e-10


@given(st.integers(1, 400), st.floats(0.01, 0.99), st.floats(1e-6, 0.9))
@settings(max_examples=60, deadline=None)
def test_within_agrees_with_the_tail(trials: int, share: float, level: float) -> None:
    successes = torch.arange(trials + 2, dtype=torch.float64)
    tails = log_upper_tail(successes, torch.full_like(successes, trials), share)
    found = upper_tail_within(successes, torch.full_like(successes, trials), share, level)
    clear = (tails - math.log(level)).abs() > 1e-9
    # All of n and no more can succeed: the count above it is never asked for.
    clear[-1] = False
    assert torch.equal(found[clear], (tails <= math.log(level))[clear])


def test_bound_above_the_exact_trials_is_at_most_one_success_away(monkeypatch: pytest.MonkeyPatch) -> None:
    successes, trials = torch.arange(801, dtype=torch.float64), torch.full((801,), 800.0, dtype=torch.float64)
    exact = upper_tail_within(successes, trials, 0.9, 0.05)
    monkeypatch.setattr(binomial, "EXACT_TRIALS", 1)
    bound = upper_tail_within(successes, trials, 0.9, 0.05)
    assert not (bound & ~exact).any()
    assert int(exact.sum()) - int(bound.sum()) in (0, 1)
    assert float(share_below(counts(760), counts(800), 0.05)) <= _clopper_pearson(760, 800, 0.05)


def test_level_of_each_count() -> None:
    found = upper_tail_within(counts(29, 29), counts(29, 29), 0.9, torch.tensor([0.05, 0.04], dtype=torch.float64))
    assert found.tolist() == [True, False]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(0, 20), st.floats(1e-4, 0.5))
@settings(max_examples=40, deadline=None)
def test_least_successes(trials: list[int], twentieths: int, level: float) -> None:
    found = least_successes(counts(*trials), twentieths / 20, level)
    for least, total in zip(found.tolist(), trials, strict=True):
        tails = [float(exact_tail(k, total, Fraction(twentieths, 20))) for k in range(total + 1)]
        if not any(abs(tail - level) < 1e-9 * level for tail in tails):
            assert least == next((k for k, tail in enumerate(tails) if tail <= level), total + 1)


def test_least_successes_of_a_large_count() -> None:
    assert float(least_successes(counts(10_000_000), 0.9, 0.05)) == pytest.approx(9_001_561, abs=2)


def _clopper_pearson(successes: int, trials: int, level: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = float(log_upper_tail(counts(successes), counts(trials), middle))
        low, high = (middle, high) if tail <= math.log(level) else (low, middle)
    return low


def test_share_below_against_scipy() -> None:
    successes, trials = counts(0, 1, 5, 29, 30, 950), counts(10, 10, 10, 29, 31, 1000)
    expected = [0.0, *stats.beta.ppf(0.05, successes[1:].numpy(), (trials - successes + 1)[1:].numpy())]
    assert share_below(successes, trials, 0.05).numpy() == pytest.approx(np.array(expected), abs=2e-9)


def test_share_below_of_nothing() -> None:
    assert float(share_below(counts(0), counts(0), 0.05)) == 0.0
