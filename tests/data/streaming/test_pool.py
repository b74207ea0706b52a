from __future__ import annotations

import re
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.batch import Batch, joined, padded
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.parquet.plan import Unit
from mlclf.data.parquet.planning import make_plan
from mlclf.data.parquet.spans import SPAN_ROWS
from mlclf.data.streaming.memory_budget import (
    DECODED_COPIES,
    LANES,
    MAX_SLAB_ROWS,
    MAX_SLABS,
    MIN_SLABS,
    OVERHEAD,
    PoolShape,
    ReaderBytes,
    pool_shape,
    reader_bytes,
)
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.slab import RowLayout, Slab
from mlclf.errors import ConfigError


@pytest.mark.parametrize("budget", [2**16, 2**20, 2**29, 2**36])
@pytest.mark.parametrize("row_bytes", [32.0, 500.0])
@pytest.mark.parametrize("decoded", [8.0, 900.0])
def test_the_pool_stays_within_its_budget(budget: int, row_bytes: float, decoded: float) -> None:
    smallest = OVERHEAD * (SPAN_ROWS * (MIN_SLABS * row_bytes + row_bytes + DECODED_COPIES * decoded))
    if smallest > budget:
        message = (
            f"runtime.memory_budget of {budget:,} bytes is too small for rows of {row_bytes:,.0f} bytes; "
            f"the smallest that works is {int(smallest) + 1:,}"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            pool_shape(budget, row_bytes, decoded)
        return
    pool = pool_shape(budget, row_bytes, decoded)
    assert pool.num_bytes <= budget
    assert MIN_SLABS <= pool.slabs <= MAX_SLABS
    assert pool.slab_rows % SPAN_ROWS == 0
    assert pool.lanes in LANES
    held = pool.slab_rows * (pool.slabs * row_bytes + pool.lanes * (row_bytes + DECODED_COPIES * decoded))
    assert pool.num_bytes == int(OVERHEAD * held)


@pytest.mark.parametrize("unit_rows", [1_000, 65_536, 1 << 20])
@pytest.mark.parametrize("budget", [2**26, 2**29, 2**31])
def test_readers_are_part_of_the_budget(unit_rows: int, budget: int) -> None:
    """Units that fit a slab are read whole, a few columns at a time, others in pieces of all columns."""
    reader = ReaderBytes(in_pieces=30e6, whole=8e6)
    pool = pool_shape(budget, 400.0, 400.0, reader, unit_rows)
    assert pool.num_bytes <= budget
    held = pool.slab_rows * (pool.slabs * 400.0 + pool.lanes * (400.0 + DECODED_COPIES * 400.0))
    is_whole = pool.slab_rows >= unit_rows
    assert pool.num_bytes == int(OVERHEAD * (held + pool.lanes * (reader.whole if is_whole else reader.in_pieces)))


def test_fetched_chunks_of_remote_files_are_part_of_the_budget(tmp_path: Path) -> None:
    table = pa.table({f"c{number}": np.arange(1000) for number in range(10)})
    pq.write_table(table, tmp_path / "a.parquet")
    with fsspec.open("memory://pool/a.parquet", "wb") as file:
        pq.write_table(table, file)
    local, remote = (reader_bytes(make_plan(name), 10) for name in (str(tmp_path), "memory://pool/a.parquet"))
    assert local.whole == local.in_pieces == pytest.approx(80_000, rel=0.2)
    assert remote.whole == remote.in_pieces == 2 * local.whole


def test_small_units_make_small_slabs_and_more_of_them() -> None:
    wide, narrow = (pool_shape(1 << 24, 100.0, 100.0, unit_rows=rows) for rows in (1 << 20, 1000))
    assert narrow.slab_rows == 1024
    assert narrow.slabs > wide.slabs
    assert narrow.lanes == LANES[0]


def test_a_unit_of_larger_rows_is_cut_into_shorter_spans() -> None:
    pool = PoolShape(8, 1024, span_bytes=1024 * 100.0)
    assert pool.rows_of(Unit(0, (0,), 5000, 0, row_bytes=50.0)) == 1024
    assert pool.rows_of(Unit(0, (0,), 5000, 0, row_bytes=400.0)) == 256
    assert pool.rows_of(Unit(0, (0,), 5000, 0, row_bytes=1e9)) == SPAN_ROWS


def test_a_unit_of_hardly_larger_rows_is_not_cut() -> None:
    pool = pool_shape(512 << 20, 420.0, 402.92, unit_rows=MAX_SLAB_ROWS)
    assert pool.slab_rows == MAX_SLAB_ROWS
    assert pool.rows_of(Unit(0, (0,), MAX_SLAB_ROWS, 0, row_bytes=402.93)) == MAX_SLAB_ROWS
    assert pool.rows_of(Unit(0, (0,), MAX_SLAB_ROWS, 0, row_bytes=450.0)) < MAX_SLAB_ROWS


def test_the_smallest_budget_that_the_refusal_names_works() -> None:
    with pytest.raises(ConfigError) as caught:
        pool_shape(1, 500.0, 900.0)
    named = int(str(caught.value).rpartition(" ")[2].replace(",", ""))
    assert pool_shape(named, 500.0, 900.0).slab_rows == 64


def test_memory_is_touched_as_far_as_it_is_there() -> None:
    pool = Pool(3, 64, RowLayout(1, 1))
    pool.touch(2)
    pool.touch(10)
    assert len({id(pool.acquire()) for _ in range(3)}) == 3
    assert pool.acquire() is None


def test_rows_that_cannot_be_read_weigh_nothing_and_have_numbers_of_their_own() -> None:
    pool = Pool(1, 64, RowLayout(1, 1, weighted=True, numbered=True))
    slab = pool.acquire()
    assert slab is not None
    slab.arrays["weights"].fill(1)
    slab.fill_with_nothing(3, 40, "a.parquet row group 0")
    batch = pool.gather([(slab, slab.order)])
    assert batch.weights.tolist() == [0, 0, 0]
    assert batch.rows.tolist() == [40, 41, 42]


def test_rows_of_no_size_have_a_pool() -> None:
    assert MIN_SLABS <= pool_shape(1 << 20, 0.0, 0.0).slabs <= MAX_SLABS


KINDS = {"ragged": None, "two each": 2, "none": 0}


def filled_pool(
    sizes: list[int], seed: int, complete: list[bool], tokens: str, valued: bool, numbered: bool
) -> tuple[Pool, list[Slab]]:
    """A pool with a slab of each size; the number of a row in the plan tells where it is."""
    rng = np.random.default_rng(seed)
    pool = Pool(
        len(sizes), max(sizes) + 2, RowLayout(2, 3, KINDS[tokens], weighted=True, parted=True, numbered=numbered)
    )
    slabs = []
    for index, rows in enumerate(sizes):
        slab = pool.acquire()
        assert slab is not None
        whole = complete[index]
        filled = {
            "dense": rng.normal(size=(rows, 2)), "codes": rng.integers(0, 2 if whole else 3, (rows, 3)),
            "weights": rng.random(rows), "parts": rng.integers(0, 3, rows),
            "numbers": np.arange(sum(sizes[:index]), sum(sizes[: index + 1])),
            "tokens": rng.integers(0, 99, (rows, KINDS[tokens] or 0)),
        }  # fmt: skip
        for name, array in slab.arrays.items():
            array[:rows] = filled[name]
        if tokens == "ragged":
            slab.offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))])
            slab.ids = rng.integers(0, 99, slab.offsets[-1]).astype(np.int32)
            slab.values = rng.random(len(slab.ids)).astype(np.float32) if valued else None
        slab.rows, slab.complete, slab.first_row = rows, whole, sum(sizes[:index])
        slab.order = slab.base + rng.permutation(rows)
        slab.keys = pa.table({"id": slab.first_row + np.arange(rows)})
        slabs.append(slab)
    return pool, slabs


def check(batch: Batch, slabs: list[Slab]) -> None:
    for index, number in enumerate(batch.rows.tolist()):
        slab = next(slab for slab in slabs if 0 <= number - slab.first_row < slab.rows)
        row = number - slab.first_row
        cells = {name: array[row].tolist() for name, array in slab.arrays.items()}
        assert batch.dense[index].tolist() == cells["dense"]
        span = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
        if slab.offsets is None:
            assert batch.ids[span].tolist() == cells["tokens"]
        else:
            source = slice(int(slab.offsets[row]), int(slab.offsets[row + 1]))
            assert slab.ids is not None
            assert batch.ids[span].tolist() == slab.ids[source].tolist()
            if slab.values is not None:
                assert batch.values is not None
                assert batch.values[span].tolist() == slab.values[source].tolist()
        mask = batch.label_mask[index].tolist() if batch.label_mask is not None else [True] * 3
        assert mask == [code != UNOBSERVED for code in cells["codes"]]
        assert batch.labels[index].tolist() == [int(code == 1) for code in cells["codes"]]
        assert batch.weights[index] == cells["weights"]
        assert batch.parts[index] == cells["parts"]
        assert batch.keys is not None
        assert batch.keys["id"][index].as_py() == number


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4), draws=st.lists(st.integers(1, 5), max_size=6),
    seed=st.integers(0, 99), complete=st.lists(st.booleans(), min_size=4, max_size=4), valued=st.booleans(),
    tokens=st.sampled_from(sorted(KINDS)), numbered=st.booleans(),
)  # fmt: skip
def test_rows_stay_whole(
    sizes: list[int], draws: list[int], seed: int, complete: list[bool], valued: bool, tokens: str, numbered: bool
) -> None:  # fmt: skip
    pool, slabs = filled_pool(sizes, seed, complete, tokens, valued, numbered)
    batches, drawn = [], 0
    for count in [*draws, 99]:
        picks = [(slab, slab.order[drawn : drawn + count]) for slab in slabs]
        drawn += count
        batches.append(pool.gather(picks))
        check(batches[-1], slabs)
    whole = joined(batches)
    check(whole, slabs)
    assert sorted(whole.rows.tolist()) == list(range(sum(sizes)))
    check(whole.slice(len(whole) // 3, len(whole)), slabs)
    filled_up = padded(whole, len(whole) + 3)
    assert filled_up.rows.tolist() == [*whole.rows.tolist(), -1, -1, -1]
    assert filled_up.weights[-3:].tolist() == [0, 0, 0]
    assert filled_up.offsets[-4:].tolist() == [len(whole.ids)] * 4
    check(filled_up.slice(0, len(whole)), slabs)
    assert padded(whole, len(whole) - 1) is whole
