"""Fixed sequences of tests: where they start, how far they come, and that they err as seldom as they promise."""

from __future__ import annotations

import math

import pytest
import torch

from mlclf.decisions.guarantees.binomial import upper_tail_within
from mlclf.decisions.guarantees.fixed_sequences import reached, reached_with_carry, start_counts, starts_of

GROWTH = -math.log(0.9)


@pytest.mark.parametrize("num_rows", [29, 50, 200, 2_000, 1_000_000])
def test_start_counts_begin_where_all_positive_rows_just_suffice(num_rows: int) -> None:
    counts = start_counts(num_rows, 0.05, GROWTH)
    share = 0.05 / len(counts)
    assert 0.9 ** counts[0] <= share < 0.9 ** (counts[0] - 1)
    assert counts == [counts[0] * 2**place for place in range(len(counts))]
    assert counts[-1] <= num_rows


@pytest.mark.parametrize(
    ("num_rows", "growth", "expected"), [(28, GROWTH, [14, 28]), (0, GROWTH, [1]), (40, 0.0, [10, 20, 40])]
)
def test_start_counts_where_none_can_succeed(num_rows: int, growth: float, expected: list[int]) -> None:
    assert start_counts(num_rows, 0.05, growth) == expected


def test_starts_are_the_laxest_cuts_within_a_count() -> None:
    flagged = torch.tensor([[2.0, 5.0, 5.0, 9.0, 20.0]], dtype=torch.float64)
    counts = torch.tensor([[1.0, 2.0, 5.0, 8.0, 9.0, 100.0]], dtype=torch.float64)
    assert starts_of(flagged, counts).tolist() == [[0, 0, 2, 2, 3, 4]]


def test_sequences_stop_at_their_first_failure() -> None:
    passed = torch.tensor([[False, True, True, False, True, True]])
    assert reached(passed, torch.tensor([[0, 1, 3, 4]])).tolist() == [[0, 3, 3, 6]]


def test_carried_levels_lower_the_bar_until_a_failure() -> None:
    # Alone a start needs log 4, with another's level log 2.
    wealth = torch.tensor([[4.0, 4.0, 2.5, 2.5, 1.0, 5.0]], dtype=torch.float64).log()
    least = torch.tensor([4.0], dtype=torch.float64).log()
    assert reached_with_carry(wealth, torch.tensor([[0, 2]]), least).tolist() == [[2, 4]]
    assert reached_with_carry(wealth, torch.tensor([[0, 3]]), least).tolist() == [[2, 3]]
    assert reached_with_carry(wealth, torch.tensor([[2, 2]]), least).tolist() == [[2, 4]]
    assert reached_with_carry(wealth, torch.tensor([[0, 6]]), least).tolist() == [[2, 6]]


@pytest.mark.parametrize("count", [60.0, 240.0])
def test_random_starts_keep_the_level_where_precision_swings(count: float) -> None:
    """Local precision swings around 0.905, so that true and false nulls take turns."""
    generator = torch.Generator().manual_seed(0)
    local = torch.where(torch.arange(60) // 4 % 2 == 0, 0.95, 0.85).double()
    is_null = local.cumsum(0) / torch.arange(1, 61) < 0.905
    assert 10 < int(is_null.sum()) < 50
    runs = 5_000
    rows = torch.poisson(torch.full((runs, 60), 12.0), generator=generator).double()
    positives = torch.binomial(rows, local.expand(runs, 60), generator=generator)
    flagged = rows.cumsum(1)
    starts = starts_of(flagged, torch.full((runs, 1), count, dtype=torch.float64))
    stops = reached(upper_tail_within(positives.cumsum(1), flagged, 0.905, 0.05), starts)
    place = torch.arange(60)
    errs = ((place >= starts) & (place < stops) & is_null).any(1)
    assert float(errs.double().mean()) <= 0.06  # 0.05 and three standard errors
