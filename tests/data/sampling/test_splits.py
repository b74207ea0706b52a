from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.arrow.row_hashes import group_hashes, mixed, row_hashes
from mlclf.data.sampling.splits import CHOICE, DECISION, TRAIN, Split

ROWS = 40_000


def table_of(rows: int) -> pa.Table:
    return pa.table({"x": pa.nulls(rows)})


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_held_out_fractions(fraction: float) -> None:
    parts = Split("held_out", fraction=fraction, seed=3).parts(np.arange(ROWS), table_of(ROWS))
    assert parts.dtype == np.int8
    # Five standard deviations of a binomial count.
    margin = 5 * np.sqrt(ROWS * fraction * (1 - fraction))
    assert abs((parts != TRAIN).sum() - ROWS * fraction) < margin
    assert abs((parts == CHOICE).sum() - (parts == DECISION).sum()) < 2 * margin


def test_the_whole_can_be_held_out() -> None:
    assert (Split("held_out", fraction=1.0).parts(np.arange(1000), table_of(1000)) != TRAIN).all()


@pytest.mark.parametrize("num_folds", [2, 5, 7])
def test_folds_are_even(num_folds: int) -> None:
    split = Split("folds", num_folds=num_folds, seed=1)
    counts = np.bincount(split.parts(np.arange(ROWS), table_of(ROWS)), minlength=num_folds)
    assert len(counts) == split.num_parts == num_folds
    expected = ROWS / num_folds
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 499), max_size=6), seed=st.integers(0, 2**63 - 1))
def test_parts_do_not_depend_on_how_rows_are_read(cuts: list[int], seed: int) -> None:
    split = Split("folds", num_folds=5, seed=seed)
    whole = split.parts(np.arange(500), table_of(500))
    edges = [0, *sorted(cuts), 500]
    pieces = [split.parts(np.arange(start, end), table_of(end - start)) for start, end in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_seeds_differ() -> None:
    one, two = (Split("folds", num_folds=5, seed=seed).parts(np.arange(1000), table_of(1000)) for seed in (1, 2))
    assert 0.1 < (one == two).mean() < 0.3


def test_rows_of_a_group_stay_together() -> None:
    groups = np.random.default_rng(0).integers(0, 2000, ROWS)
    text = pa.array([str(group) for group in groups])
    for split in (Split("folds", num_folds=5, group="g"), Split("held_out", fraction=0.2, group="g")):
        parts = split.parts(np.arange(len(groups)), pa.table({"g": groups}))
        by_group: dict[int, set[int]] = {}
        for group, part in zip(groups.tolist(), parts.tolist(), strict=True):
            by_group.setdefault(group, set()).add(part)
        assert all(len(found) == 1 for found in by_group.values())
        assert len({part for found in by_group.values() for part in found}) == split.num_parts
        for same in (text, text.dictionary_encode(), text.cast(pa.string_view()), pa.array(groups, pa.int16())):
            np.testing.assert_array_equal(split.parts(np.arange(99, 99 + len(same)), pa.table({"g": same})), parts)


def test_group_keys_are_exact_and_nulls_are_one_group() -> None:
    column = pa.chunked_array([pa.array([2**53, 2**53 + 1, None, None])])
    hashes = group_hashes(column, 0)
    assert hashes[0] != hashes[1]
    assert hashes[2] == hashes[3]


def test_the_latest_rows_are_held_out_whatever_the_unit() -> None:
    moments = [dt.datetime(2024, 1, day) for day in range(1, 11)]
    split = Split("held_out", fraction=0.3, time="t", cut=moments[6].replace(tzinfo=dt.UTC).timestamp())
    for kind in (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"), pa.date32()):
        values = [moment.date() for moment in moments] if kind == pa.date32() else moments
        parts = split.parts(np.arange(len(values) + 1), pa.table({"t": pa.array([*values, None], kind)}))
        assert (parts != TRAIN).tolist() == [False] * 7 + [True] * 3 + [False]


def test_without_a_split_all_rows_are_in_one_part() -> None:
    assert set(Split().parts(np.arange(5), table_of(5)).tolist()) == {TRAIN}
    assert set(Split(part=CHOICE).parts(np.arange(5), table_of(5)).tolist()) == {CHOICE}


def test_hashes_are_those_of_splitmix64() -> None:
    def finalizer(value: int) -> int:
        mask = 2**64 - 1
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
        return value ^ value >> 31

    values = [0, 1, 2**63, 2**64 - 1]
    assert mixed(np.array(values, np.uint64)).tolist() == [finalizer(value) for value in values]
    assert len(set(row_hashes(np.arange(100_000), 7).tolist())) == 100_000
