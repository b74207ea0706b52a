from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.arrow.row_hashes import group_hashes, identities_of, is_missing, row_hashes
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes import group_parts
from mlclf.data.passes.group_parts import GroupSizes, dealt, even_folds, group_sizes, held_out, is_far
from mlclf.data.sampling.splits import CHOICE, DECISION, HALVES, TRAIN, GroupParts, Split, held_out_parts
from mlclf.data.where.condition import parse_where


def plan_of(folder: Path, values: Any, row_group_size: int = 7) -> Plan:
    table = pa.table({"g": values, "x": range(len(values))})
    pq.write_table(table, folder / "a.parquet", row_group_size=row_group_size)
    return make_plan(str(folder))


def sizes_of(rows: list[int], alone: int = 0) -> GroupSizes:
    hashes = np.sort(row_hashes(np.arange(len(rows)), 9))
    return GroupSizes(hashes, np.array(rows, np.int64), alone)


def test_rows_of_groups_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = [None if value == 0 else f"g{value}" for value in rng.integers(0, 30, 500)]
    plan = plan_of(tmp_path, values)
    for most in (1 << 20, 40):
        monkeypatch.setattr(group_parts, "MOST_GROUPS", most)
        sizes = group_sizes(plan, "g", 3)
        assert sizes is not None
        counts = Counter(values)
        assert (sizes.alone, sizes.total, sizes.count) == (counts.pop(None), 500, 29 + sizes.alone)
        hashes = group_hashes(pa.chunked_array([list(counts)]), 3)
        assert dict(zip(sizes.hashes.tolist(), sizes.rows.tolist(), strict=True)) == dict(
            zip(hashes.tolist(), counts.values(), strict=True)
        )
    monkeypatch.setattr(group_parts, "MOST_GROUPS", 20)
    assert group_sizes(plan, "g", 3) is None
    some = group_sizes(plan, "g", 3, parse_where("x < 100 AND g <> 'g1'"))
    monkeypatch.setattr(group_parts, "MOST_GROUPS", 40)
    some = group_sizes(plan, "g", 3, parse_where("x < 100 AND g <> 'g1'"))
    assert some is not None
    assert some.total == sum(value not in (None, "g1") for value in values[:100])


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.integers(1, 50), min_size=1, max_size=30), num_parts=st.integers(2, 6))
def test_groups_fill_parts_evenly(rows: list[int], num_parts: int) -> None:
    parts = dealt(sizes_of(rows), np.full(num_parts, 1 / num_parts))
    filled = np.bincount(parts, rows, minlength=num_parts)
    assert filled.sum() == sum(rows)
    if len(rows) >= num_parts:
        assert filled.min() > 0
        # No fold has more than the fewest and a group more (Graham, 1966).
        assert filled.max() - filled.min() <= max(rows)
    np.testing.assert_array_equal(parts, dealt(sizes_of(rows), np.full(num_parts, 1 / num_parts)))


def test_shares_are_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    sizes = sizes_of(rng.integers(1, 100, 1000).tolist())
    filled = np.bincount(dealt(sizes, np.array([0.7, 0.2, 0.1])), sizes.rows) / sizes.total
    np.testing.assert_allclose(filled, [0.7, 0.2, 0.1], atol=0.002)
    few = np.bincount(dealt(sizes_of([100, 1, 1]), np.array([0.8, 0.1, 0.1])), [100, 1, 1])
    assert few.tolist() == [100, 1, 1]


@pytest.mark.parametrize("names", [["site0", "site1", "site4"], ["site0", "site1"], ["a", "b", "c"], list(range(7))])
def test_folds_are_even_whatever_groups_are_called(tmp_path: Path, names: list[Any]) -> None:
    values = pa.array([names[row % len(names)] for row in range(420)])
    plan = plan_of(tmp_path, values)
    table = pa.table({"g": values})
    sizes = group_sizes(plan, "g", 0)
    assert sizes is not None
    folds = min(5, len(names))
    split = Split("folds", num_folds=folds, group="g", group_parts=even_folds(sizes, folds))
    parts = split.parts(np.arange(420), table)
    counts = np.bincount(parts, minlength=folds)
    assert counts.max() <= -(-len(names) // folds) * (420 // len(names))
    assert counts.min() >= len(names) // folds * (420 // len(names))
    for name in names:
        assert len(set(parts[np.array(values.to_pylist()) == name])) == 1


def test_rows_without_a_group_are_each_their_own() -> None:
    rng = np.random.default_rng(0)
    values = [None if rng.random() < 0.5 else float("nan") if rng.random() < 0.2 else 7.0 for _ in range(4000)]
    table, numbers = pa.table({"g": pa.array(values, pa.float64())}), np.arange(4000)
    own = np.array([value != 7.0 for value in values])
    for split in (Split("folds", num_folds=4, group="g"), Split("held_out", fraction=0.4, group="g")):
        parts = split.parts(numbers, table)
        assert len(set(parts[~own])) == 1
        shares = np.bincount(parts[own], minlength=3) / own.sum()
        expected = [0.25] * 4 if split.kind == "folds" else [0.6, 0.2, 0.2]
        np.testing.assert_allclose(shares, expected, atol=0.03)  # four standard errors
        np.testing.assert_array_equal(parts[own], split.parts(numbers[own], table.filter(pa.array(own))))
    identities = identities_of(table.column("g"), numbers)
    assert len(set(identities[own])) == own.sum()
    assert len(set(identities[~own])) == 1


def test_missing_is_told_from_the_empty_text() -> None:
    column = pa.chunked_array([pa.array(["", None, "null"])])
    assert is_missing(group_hashes(column, 5), 5).tolist() == [False, True, False]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    alone=st.integers(0, 50),
    fraction=st.sampled_from([0.1, 0.2, 0.5]),
)
def test_held_out_groups_are_neither_none_nor_all(rows: list[int], alone: int, fraction: float) -> None:
    sizes = sizes_of(rows, alone)
    if sizes.count < 2:
        return
    by_hash = held_out_parts(sizes.hashes, fraction)
    found = held_out(sizes, fraction, by_hash)
    parts = by_hash if found is None else found.parts
    held = int(sizes.rows[parts != TRAIN].sum())
    assert held + alone > 0
    assert held < sum(rows) or alone
    wanted = fraction * sizes.total
    near = abs(held + fraction * alone - wanted)
    assert near <= max(group_parts.FAR * wanted, max(rows))
    if found is not None and not alone:
        assert HALVES in parts or {CHOICE, DECISION} <= set(parts.tolist())


def test_one_held_out_group_is_halved() -> None:
    values = pa.chunked_array([["a"] * 900 + ["b"] * 100])
    hashes = np.sort(group_hashes(pa.chunked_array([["a", "b"]]), 0))
    small = group_hashes(pa.chunked_array([["b"]]), 0)[0]
    parts = GroupParts(hashes, np.where(hashes == small, HALVES, TRAIN).astype(np.int8))
    split = Split("held_out", fraction=0.1, group="g", group_parts=parts)
    found = split.parts(np.arange(1000), pa.table({"g": values}))
    assert set(found[:900]) == {TRAIN}
    assert 30 <= (found[900:] == CHOICE).sum() <= 70
    assert set(found[900:]) == {CHOICE, DECISION}
    assert repr(parts) != repr(GroupParts(hashes, np.zeros(2, np.int8)))


def test_far_is_beyond_chance() -> None:
    assert is_far([10, 0], [0.9, 0.1])
    assert is_far([600, 400], [0.8, 0.2])
    assert not is_far([75, 25], [0.8, 0.2])
    assert not is_far([805, 195], [0.8, 0.2])
