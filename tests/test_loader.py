from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlclf.data.loader import MAX_SLABS, MIN_SLABS, NUM_LANES, ParquetLoader, PoolShape, decoded_pieces, pool_shape
from mlclf.data.rows import RowEncoder
from mlclf.data.schema import find_schema
from mlclf.data.shards import Plan, make_plan
from mlclf.data.splits import CHOICE, DECISION, TRAIN, Split
from mlclf.data.statistics import fit_statistics
from mlclf.errors import ConfigError, DataError


def row(number: int) -> dict[str, Any]:
    """A row whose every column follows from its number."""
    return {
        "x": float(number) if number % 7 else None,
        "s": f"level {number % 5}" if number % 11 else None,
        "t": [f"t{number % 3}"] * (number % 4),
        "weight": 1.0 + number % 3,
        "y": None if number % 13 == 5 else number % 2,
        "z": bool(number % 3 == 0),
        "id": 2**53 + number,
    }


SCHEMA = pa.schema(
    [("x", pa.float64()), ("s", pa.string()), ("t", pa.list_(pa.string())), ("weight", pa.float64()),
     ("y", pa.int8()), ("z", pa.bool_()), ("id", pa.int64())]
)  # fmt: skip


def write(folder: Path, shards: list[list[int]]) -> Plan:
    """Files with row groups of the given sizes, rows numbered through."""
    start = 0
    for index, groups in enumerate(shards):
        with pq.ParquetWriter(str(folder / f"{index:03}.parquet"), SCHEMA) as writer:
            for rows in groups:
                batch = [row(number) for number in range(start, start + rows)]
                writer.write_table(pa.Table.from_pylist(batch, SCHEMA), row_group_size=max(1, rows))
                start += rows
    return make_plan(str(folder))


def encoder_of(plan: Plan, split: Split | None = None) -> RowEncoder:
    split = split or Split()
    schema = find_schema(plan, ["y", "z"], weight="weight", key="id")
    options = {"standardize": False, "vocabulary_levels": 100, "hash_limit": 1000, "hash_buckets": 16}
    statistics = [found for _, found in fit_statistics(plan, schema, split, label_values={}, threads=2, **options)][-1]
    assert statistics is not None
    return RowEncoder(schema, statistics.features, statistics.labels, 2, split, "weight", ("id",))


def epoch_of(loader: ParquetLoader) -> list[int]:
    """Row numbers of an epoch, after every row was checked against the oracle."""
    encoder = loader.encoder
    places = {name: index for index, name in enumerate(
        name for feature in encoder.features.tokens for name in feature.vocabulary_names())}  # fmt: skip
    names = [name for feature in encoder.features.dense for name in feature.dense_names()]
    drawn = []
    for batch in loader:
        assert 0 < len(batch) <= loader.batch_rows
        numbers = batch.rows.tolist()
        assert batch.keys is not None
        assert batch.keys["id"].to_pylist() == [2**53 + number for number in numbers]
        for index, number in enumerate(numbers):
            source = row(number)
            dense = dict(zip(names, batch.dense[index].tolist(), strict=True))
            if source["x"] is not None and "x" in dense:
                assert dense["x"] == source["x"]
            if "x:missing" in dense:
                assert dense["x:missing"] == (source["x"] is None)
            ids = batch.ids[batch.offsets[index] : batch.offsets[index + 1]].tolist()
            level = "s:missing" if source["s"] is None else f"s={source['s']}"
            expected = ([places[level]] if "s:other" in places else []) + [
                places[f"t={token}"] for token in source["t"] if "t:other" in places
            ]
            assert ids == expected
            mask = [True, True] if batch.label_mask is None else batch.label_mask[index].tolist()
            assert mask == [source["y"] is not None, True]
            assert batch.labels[index].tolist() == [source["y"] or 0, int(source["z"])]
            assert batch.weights[index] == source["weight"]
        drawn += numbers
    return drawn


LAYOUTS = st.lists(
    st.lists(st.sampled_from([0, 1, 1, 2, 3, 17, 60]), max_size=5), min_size=1, max_size=4
).filter(lambda shards: sum(map(sum, shards)) >= 4)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=LAYOUTS, batch_rows=st.integers(1, 50), slabs=st.integers(1, 9), slab_rows=st.integers(1, 40),
    shuffle=st.booleans(), seed=st.integers(0, 2**63 - 1), unit_rows=st.sampled_from([1, 10, 16_384]),
)  # fmt: skip
def test_every_row_once_with_its_labels(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, shards: list[list[int]],
    batch_rows: int, slabs: int, slab_rows: int, shuffle: bool, seed: int, unit_rows: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("mlclf.data.shards.UNIT_ROWS", unit_rows)
    plan = write(tmp_path_factory.mktemp("loader"), shards)
    encoder = encoder_of(plan)
    pool = PoolShape(slabs, slab_rows, 0)

    def loader_of(threads: int) -> ParquetLoader:
        return ParquetLoader(
            plan, encoder, pool, batch_rows=batch_rows, seed=seed, shuffle=shuffle, threads=threads
        )  # fmt: skip

    first = epoch_of(loader_of(1))
    assert sorted(first) == list(range(plan.rows))
    assert shuffle or first == sorted(first)
    assert epoch_of(loader_of(4)) == first
    loader = loader_of(2)
    assert epoch_of(loader) == epoch_of(loader) == first
    loader.set_epoch(1)
    second = epoch_of(loader)
    assert sorted(second) == sorted(first)
    if shuffle and plan.rows > 30:
        assert second != first


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return write(tmp_path_factory.mktemp("plan"), [[700, 300], [1, 0, 999], [2000]])


def test_batches_are_full_but_the_last(plan: Plan) -> None:
    loader = ParquetLoader(plan, encoder_of(plan), PoolShape(4, 100, 0), batch_rows=64)
    sizes = [len(batch) for batch in loader]
    assert sizes == [64] * 62 + [32]


def test_seeds_give_other_orders(plan: Plan) -> None:
    encoder = encoder_of(plan)
    orders = [
        [number for batch in ParquetLoader(plan, encoder, PoolShape(4, 100, 0), batch_rows=64, seed=seed)
         for number in batch.rows.tolist()]
        for seed in (1, 2)
    ]  # fmt: skip
    assert orders[0] != orders[1]


def test_a_batch_mixes_all_slabs_of_the_pool(plan: Plan) -> None:
    loader = ParquetLoader(plan, encoder_of(plan), PoolShape(8, 250, 0), batch_rows=80)
    middle = [batch.rows.numpy() for batch in loader][10]
    assert len({number // 250 for number in middle.tolist()}) >= 5


def test_parts_of_a_split(plan: Plan) -> None:
    split = Split("held_out", fraction=0.3, seed=5)
    encoder = encoder_of(plan, split)
    expected = split.parts(0, pa.table({"x": pa.nulls(plan.rows)}))
    drawn: list[int] = []
    for parts in ({TRAIN}, {CHOICE, DECISION}):
        mine = []
        for batch in ParquetLoader(plan, encoder, PoolShape(4, 100, 0), batch_rows=64, parts=parts):
            mine += batch.rows.tolist()
            assert batch.parts.tolist() == expected[batch.rows.numpy()].tolist()
        assert sorted(mine) == np.flatnonzero(np.isin(expected, list(parts))).tolist()
        drawn += mine
    assert sorted(drawn) == list(range(plan.rows))


def test_leaving_early_and_starting_again(plan: Plan) -> None:
    loader = ParquetLoader(plan, encoder_of(plan), PoolShape(4, 100, 0), batch_rows=64)
    whole = [batch.rows.tolist() for batch in loader]
    before = threading.active_count()
    iterator = iter(loader)
    assert next(iterator).rows.tolist() == whole[0]
    del iterator
    assert [batch.rows.tolist() for batch in loader] == whole
    assert threading.active_count() <= before + NUM_LANES


def test_slab_memory_is_used_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(plan)
    pool = PoolShape(4, 50, 0)
    buffers: set[int] = set()
    kept = []
    original = RowEncoder._buffer

    def counted(self: RowEncoder, capacity: int) -> Any:
        buffer = original(self, capacity)
        kept.append(buffer)  # so that an address is never given out twice
        buffers.add(id(buffer))
        return buffer

    monkeypatch.setattr(RowEncoder, "_buffer", counted)
    loader = ParquetLoader(plan, encoder, pool, batch_rows=32)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for _batch in loader:
            pass
    assert len(kept) == 3 * 80
    # The pool, a piece waiting in each lane, and the ones being encoded meanwhile.
    assert len(buffers) <= pool.slabs + 2 * NUM_LANES


def test_unshuffled_batches_follow_the_plan(plan: Plan) -> None:
    loader = ParquetLoader(plan, encoder_of(plan), PoolShape(4, 100, 0), batch_rows=64, shuffle=False)
    assert [number for batch in loader for number in batch.rows.tolist()] == list(range(plan.rows))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_come_in_one_order(plan: Plan, threads: int) -> None:
    def starts(lanes: int, threads: int) -> list[int]:
        work = lambda first_row, table, place: first_row  # noqa: E731
        return list(decoded_pieces(plan, range(len(plan.units)), ["x"], 128, work, lanes=lanes, threads=threads))

    assert starts(2, threads) == starts(2, 1)
    assert starts(1, threads) == sorted(starts(2, 1))


def test_an_error_names_the_one_row_group_and_ends_the_epoch(plan: Plan) -> None:
    def work(first_row: int, table: pa.Table, place: str) -> int:
        if (2**53 + 850) in table["id"].to_pylist():
            raise DataError(f"{place}: bad row")
        return first_row

    path = plan.shards[0].source.name
    with pytest.raises(DataError, match=f"^{re.escape(path)} row group 1: bad row$"):
        list(decoded_pieces(plan, range(len(plan.units)), ["id"], 10_000, work))


@pytest.mark.parametrize("budget", [2**16, 2**20, 2**29, 2**36])
@pytest.mark.parametrize("row_bytes", [32.0, 500.0])
@pytest.mark.parametrize("decoded", [8.0, 900.0])
def test_the_pool_stays_within_its_budget(budget: int, row_bytes: float, decoded: float) -> None:
    smallest = 64 * (MIN_SLABS * row_bytes + NUM_LANES * (2 * row_bytes + decoded))
    if smallest > budget:
        message = (
            f"runtime.memory_budget of {budget:,} bytes is too small for rows of {row_bytes:,.0f} bytes; "
            f"the smallest that works is {int(smallest):,}"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            pool_shape(budget, row_bytes, decoded)
        return
    pool = pool_shape(budget, row_bytes, decoded)
    assert pool.num_bytes <= budget
    assert MIN_SLABS <= pool.slabs <= MAX_SLABS
    assert pool.num_bytes == int(pool.slab_rows * (pool.slabs * row_bytes + NUM_LANES * (2 * row_bytes + decoded)))


def test_the_smallest_budget_that_the_refusal_names_works() -> None:
    with pytest.raises(ConfigError) as caught:
        pool_shape(1, 500.0, 900.0)
    named = int(str(caught.value).rpartition(" ")[2].replace(",", ""))
    assert pool_shape(named, 500.0, 900.0).slab_rows == 64


def test_rows_of_no_size_have_a_pool() -> None:
    assert MIN_SLABS <= pool_shape(1 << 20, 0.0, 0.0).slabs <= MAX_SLABS
