from __future__ import annotations

import json
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
from made_streams import file_stream, rows_of

from mlclf.data.batch import Batch
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.statistics import Statistics, fit_statistics
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import CHOICE, DECISION, TRAIN, Split
from mlclf.data.schema.finding import find_schema
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.data.streaming.memory_budget import PoolShape
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.errors import CheckpointError, ConfigError
from mlclf.progress import drain


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


def statistics_of(plan: Plan, split: Split | None = None) -> Statistics:
    schema = find_schema(plan, ["y", "z"], weight="weight", key="id")
    options = EncodingOptions(False, 100, 1000, 16)
    return drain(fit_statistics(plan, schema, split or Split(), label_values={}, options=options, threads=2))


def encoder_of(plan: Plan, split: Split | None = None) -> RowEncoder:
    schema, found = find_schema(plan, ["y", "z"], weight="weight", key="id"), statistics_of(plan, split)
    return RowEncoder(schema, found.features, found.labels, 2, split or Split(), "weight", ("id",))


def epoch_of(loader: BatchStream) -> list[int]:
    """Row numbers of an epoch, after every row was checked against the oracle."""
    encoder = rows_of(loader).reading.encoder
    places = {name: index for index, name in enumerate(
        encoder.features.vocabulary_names())}  # fmt: skip
    names = encoder.features.dense_names()
    drawn = []
    for batch in loader:
        assert 0 < len(batch) <= loader.order.batch_rows
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
    st.lists(st.sampled_from([0, 1, 1, 2, 3, 17, 60, 200]), max_size=5), min_size=1, max_size=4
).filter(lambda shards: sum(map(sum, shards)) >= 4)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=LAYOUTS, batch_rows=st.integers(1, 50), slabs=st.integers(4, 9),
    shuffle=st.booleans(), seed=st.integers(0, 2**63 - 1), unit_rows=st.sampled_from([1, 10, 16_384]),
    lanes=st.integers(1, 3), cut=st.integers(0, 1000), world_size=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_every_row_once_with_its_labels(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, shards: list[list[int]],
    batch_rows: int, slabs: int, shuffle: bool, seed: int, unit_rows: int, lanes: int, cut: int, world_size: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("mlclf.data.parquet.planning.UNIT_ROWS", unit_rows)
    plan = write(tmp_path_factory.mktemp("loader"), shards)
    encoder = encoder_of(plan)
    pool = PoolShape(slabs, 64, lanes=lanes)

    def loader_of(threads: int, rank: int = 0, world_size: int = 1) -> BatchStream:
        return file_stream(
            plan, encoder, pool, batch_rows, seed=seed, shuffle=shuffle, threads=threads, rank=rank,
            world_size=world_size,
        )  # fmt: skip

    first = epoch_of(loader_of(1))
    assert sorted(first) == list(range(plan.rows))
    assert shuffle or first == sorted(first)
    assert epoch_of(loader_of(4)) == first
    loader = loader_of(2)
    assert len(loader) == -(-plan.rows // batch_rows)
    assert epoch_of(loader) == epoch_of(loader) == first
    loader.set_epoch(1)
    second = epoch_of(loader)
    assert sorted(second) == sorted(first)
    if shuffle and plan.rows > 30:
        assert second != first

    cut %= len(loader) + 1
    state = stopped_after(loader_of(8), cut, epoch=1)
    resumed = loader_of(1)
    resumed.load_state_dict(state)
    assert epoch_of(resumed) == second[cut * batch_rows :]

    ranks = [loader_of(2, rank, world_size) for rank in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(state)
        rank.set_epoch(1)
    together = []
    for step in zip(*ranks, strict=True):
        assert len({len(batch) for batch in step}) == 1
        together += [number for batch in step for number in real_rows(batch)]
    assert together == second[cut * batch_rows :]


def stopped_after(loader: BatchStream, batches: int, epoch: int) -> dict[str, Any]:
    """The state after some batches of an epoch, as a file would keep it."""
    loader.set_epoch(epoch)
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    state: dict[str, Any] = json.loads(json.dumps(loader.state_dict()))
    del iterator
    return state


def real_rows(batch: Batch) -> list[int]:
    """Numbers of the rows, after those that fill up were seen to weigh nothing."""
    filled = batch.rows < 0
    assert (batch.weights[filled] == 0).all()
    assert (batch.weights[~filled] > 0).all()
    return batch.rows[~filled].tolist()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return write(tmp_path_factory.mktemp("plan"), [[700, 300], [1, 0, 999], [2000]])


def test_batches_are_full_but_the_last(plan: Plan) -> None:
    loader = file_stream(plan, encoder_of(plan), PoolShape(4, 128), batch_rows=64)
    sizes = [len(batch) for batch in loader]
    assert sizes == [64] * 62 + [32]


def test_seeds_give_other_orders(plan: Plan) -> None:
    encoder = encoder_of(plan)
    orders = [
        [number for batch in file_stream(plan, encoder, PoolShape(4, 128), batch_rows=64, seed=seed)
         for number in batch.rows.tolist()]
        for seed in (1, 2)
    ]  # fmt: skip
    assert orders[0] != orders[1]


def test_a_batch_mixes_all_slabs_of_the_pool(plan: Plan) -> None:
    loader = file_stream(plan, encoder_of(plan), PoolShape(8, 256), batch_rows=80)
    middle = [batch.rows.numpy() for batch in loader][10]
    assert len({number // 256 for number in middle.tolist()}) >= 5


def test_parts_of_a_split(plan: Plan) -> None:
    split = Split("held_out", fraction=0.3, seed=5)
    encoder = encoder_of(plan, split)
    expected = split.parts(np.arange(plan.rows), None)
    drawn: list[int] = []
    for parts in ((TRAIN,), (CHOICE, DECISION)):
        mine = []
        for batch in file_stream(plan, encoder, PoolShape(4, 128), batch_rows=64, selection=Selection(split, parts)):
            mine += batch.rows.tolist()
            assert batch.parts.tolist() == expected[batch.rows.numpy()].tolist()
        assert sorted(mine) == np.flatnonzero(np.isin(expected, parts)).tolist()
        drawn += mine
    assert sorted(drawn) == list(range(plan.rows))


def test_leaving_early_and_starting_again(plan: Plan) -> None:
    loader = file_stream(plan, encoder_of(plan), PoolShape(4, 128), batch_rows=64)
    whole = [batch.rows.tolist() for batch in loader]
    before = threading.active_count()
    iterator = iter(loader)
    assert next(iterator).rows.tolist() == whole[0]
    del iterator
    assert [batch.rows.tolist() for batch in loader] == whole
    assert threading.active_count() <= before + 3


def test_slab_memory_is_used_again(plan: Plan) -> None:
    shape = PoolShape(4, 64)
    loader = file_stream(plan, encoder_of(plan), shape, batch_rows=32)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for _batch in loader:
            pass
    pool = rows_of(loader).pool(loader.order)
    assert pool.num_slabs == shape.slabs + shape.lanes
    assert len(pool.arrays["dense"]) == pool.num_slabs * shape.slab_rows
    free = [pool.acquire() for _ in range(pool.num_slabs)]
    assert len({id(slab) for slab in free}) == pool.num_slabs
    assert pool.acquire() is None


def test_small_data_touches_little_memory(plan: Plan) -> None:
    pool = Pool(1000, 1000, encoder_of(plan).layout)
    slab = pool.acquire()
    assert slab is not None
    assert pool.acquire() is not slab
    pool.release(slab)
    assert pool.acquire() is slab


def test_only_what_is_live_is_read_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,000 rows, 3,000 were drawn: what is left of them is in the pool, and the rest is read for the first time."""
    loader = file_stream(plan, encoder_of(plan), PoolShape(4, 64, lanes=2), batch_rows=50)
    state = stopped_after(loader, 60, epoch=0)
    read = []
    original = RowEncoder.encode

    def counted(self: RowEncoder, numbers: Any, table: pa.Table, place: str, slab: Any) -> None:
        read.append(table.num_rows)
        original(self, numbers, table, place, slab)

    monkeypatch.setattr(RowEncoder, "encode", counted)
    loader.load_state_dict(state)
    assert sum(len(batch) for batch in loader) == 1000
    assert sum(read) < 1000 + 4 * 64


def test_a_state_taken_at_the_end_of_an_epoch(plan: Plan) -> None:
    loader = file_stream(plan, encoder_of(plan), PoolShape(4, 64), batch_rows=64)
    state = stopped_after(loader, len(loader), epoch=0)
    loader.load_state_dict(state)
    assert list(loader) == []
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert sum(map(len, loader)) == plan.rows


def test_a_state_of_other_data_or_another_order_is_refused(plan: Plan, tmp_path: Path) -> None:
    encoder = encoder_of(plan)
    state = file_stream(plan, encoder, PoolShape(4, 64), batch_rows=64).state_dict()
    message = "the order of the rows has changed since the state was saved: seed was 0, is 7, batch_rows was 64, is 32"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        file_stream(plan, encoder, PoolShape(4, 64), batch_rows=32, seed=7).load_state_dict(state)
    for shards, difference in [
        ([[10]], "it had 4,000 rows, has 10"),
        ([[4000]], "it has as many rows, of other contents"),
    ]:
        (tmp_path / difference).mkdir()
        other = write(tmp_path / difference, shards)
        message = f"the data has changed since the state was saved: {difference}; put it back, or start again"
        with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
            file_stream(other, encoder, PoolShape(4, 64), batch_rows=64).load_state_dict(state)


def test_a_rank_is_one_of_its_world(plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"^rank must be from 0 to 1, got 2$"):
        file_stream(plan, encoder_of(plan), PoolShape(4, 64), batch_rows=64, rank=2, world_size=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "split",
    [
        Split("held_out", fraction=0.3, seed=5),
        Split("folds", num_folds=3, seed=1),
        Split("held_out", fraction=0.3, group="s"),
        Split("held_out", 0, 0.3, time="x", cut=3e3),
    ],
)
def test_rows_of_a_split_are_counted_before_they_are_read(plan: Plan, split: Split) -> None:
    encoder = encoder_of(plan, split)
    census = statistics_of(plan, split).census
    assert (census is None) == split.by_number
    for parts in [(0,), (1, 2), None]:
        selection = Selection(split, parts, census)
        for world_size in (1, 4):
            streams = [
                file_stream(plan, encoder, PoolShape(4, 64), batch_rows=50, selection=selection, rank=rank,
                            world_size=world_size)
                for rank in range(world_size)
            ]  # fmt: skip
            drawn = [number for step in zip(*streams, strict=True) for batch in step for number in real_rows(batch)]
            assert len(drawn) == len(set(drawn)) == streams[0].num_rows
        found = {number: part for stream in streams for batch in stream for number, part in
                 zip(batch.rows.tolist(), batch.parts.tolist(), strict=True) if number >= 0}  # fmt: skip
        assert parts is None or set(found.values()) <= set(parts)


def test_unshuffled_batches_follow_the_plan(plan: Plan) -> None:
    loader = file_stream(plan, encoder_of(plan), PoolShape(4, 128), batch_rows=64, shuffle=False)
    assert [number for batch in loader for number in batch.rows.tolist()] == list(range(plan.rows))
