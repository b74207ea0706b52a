"""The pool on a device gives, batch by batch, what the stream reads."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_streams import file_stream, rows_of

from mlclf.data.batch import ON_HOST, Batch
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.statistics import Statistics, fit_statistics
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.finding import find_schema
from mlclf.data.streaming.batch_stream import BatchStream
from mlclf.data.streaming.memory_budget import PoolShape
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab import Slab
from mlclf.data.where.condition import parse_where
from mlclf.errors import CorruptDataError
from mlclf.progress import drain
from mlclf.training.mini_batch.device_pool import DevicePool, room_on

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]

ROWS = 1500
TABLE = {
    "x": lambda n: None if n % 7 == 0 else n / 10,
    "s": lambda n: f"level {n % 5}",
    "u": lambda n: None if n % 11 == 0 else f"place {n % 3}",
    "group": lambda n: n % 37,
    "words": lambda n: [f"w{(n + k) % 9}" for k in range(n % 4)],
    "item_indices": lambda n: [(n + k) % 6 for k in range(n % 3)],
    "item_values": lambda n: [0.5 + k + n % 2 for k in range(n % 3)],
    "y": lambda n: None if n % 300 < 100 and n % 13 == 5 else n % 2,
    "z": lambda n: n % 3 == 0,
    "tags": lambda n: [f"t{k}" for k in range(n % 4)],
    "weight": lambda n: 0.5 + n % 3,
}
HELD_OUT = Split("held_out", fraction=0.3, seed=5)


class Case(NamedTuple):
    """Columns, and which of their rows are drawn."""

    inputs: tuple[str, ...]
    labels: tuple[str, ...] = ("y", "z")
    weight: str | None = None
    split: Split = Split()
    parts: tuple[int, ...] | None = None
    where: str | None = None
    shuffle: bool = True
    group: str | None = None


CASES = {
    "dense": Case(("x",)),
    "one id each": Case(("x", "s", "u")),
    "only ids": Case(("s",)),
    "lists of words": Case(("words", "s")),
    "sparse values": Case(("x", "item_*")),
    "tags": Case(("x",), ("tags",)),
    "weights": Case(("x", "words"), weight="weight"),
    "a part": Case(("x", "s"), split=HELD_OUT, parts=(0,)),
    "parts by group": Case(("x",), split=Split("held_out", fraction=0.6, group="group"), parts=(1, 2)),
    "where": Case(("x", "words"), where="x > 30"),
    "where in a part": Case(("x",), split=HELD_OUT, parts=(0,), where="x > 30 AND s <> 'level 1'"),
    "groups": Case(("x", "words"), split=HELD_OUT, parts=(0, 1), group="group"),
    "in order": Case(("x", "item_*"), shuffle=False),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    table = pa.table({name: pa.array([value(n) for n in range(ROWS)]) for name, value in TABLE.items()})
    folder = tmp_path_factory.mktemp("rows")
    for number, start in enumerate(range(0, ROWS, 300)):
        pq.write_table(table.slice(start, 300), folder / f"{number}.parquet", row_group_size=100)
    return make_plan(str(folder))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class Made:
    """Streams of a case, and the pool that holds its rows."""

    def __init__(self, plan: Plan, case: Case) -> None:
        self.plan, self.case = plan, case
        self.where = None if case.where is None else parse_where(case.where)
        schema = find_schema(plan, list(case.labels), features=list(case.inputs), weight=case.weight)
        self.found = self.statistics(schema)
        self.encoder = RowEncoder(
            schema, self.found.features, self.found.labels, len(self.found.label_names), case.split, case.weight,
            numbered=case.where is not None, group=case.group,
        )  # fmt: skip

    def statistics(self, schema: Any) -> Statistics:
        options = EncodingOptions(True, 100, 1000, 16)
        return drain(fit_statistics(
            self.plan, schema, self.case.split, label_values={}, options=options, threads=2, where=self.where,
        ))  # fmt: skip

    def stream(self, parts: tuple[int, ...] | None, shuffle: bool, **options: Any) -> BatchStream:
        selection = Selection(self.case.split, parts, self.found.census, self.where)
        return file_stream(
            self.plan, self.encoder, PoolShape(5, 64, lanes=2), 48, selection, seed=3, shuffle=shuffle, **options
        )

    def streams(self, **options: Any) -> BatchStream:
        return self.stream(self.case.parts, self.case.shuffle, **options)

    def pool(self, device: str) -> DevicePool:
        return pool_of(self.stream(None, shuffle=False), device)


def pool_of(everything: BatchStream, device: str) -> DevicePool:
    pool = DevicePool(rows_of(everything).reading.encoder.layout, everything.num_rows, torch.device(device))
    for batch in everything:
        pool.add(batch)
    pool.close()
    return pool


def assert_same(batch: Batch, expected: Batch, device: str) -> None:
    """Every tensor, its type, and the device it is on."""
    for name, value in vars(expected).items():
        own = getattr(batch, name)
        if name == "values" and not len(expected.ids):
            continue  # nothing, or no values of nothing
        assert (own is None) == (value is None), name
        if isinstance(value, torch.Tensor):
            assert own.device.type == ("cpu" if name in ON_HOST else device), name
            assert own.dtype == value.dtype, name
            assert torch.equal(own.cpu(), value), name


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_batches_of_the_stream_in_their_order(plan: Plan, case: Case, device: str) -> None:
    made = Made(plan, case)
    pool = made.pool(device)
    masks, orders = set(), set()
    for rank, world_size in [(0, 1), (0, 3), (1, 3), (2, 3)]:
        read = made.streams(rank=rank, world_size=world_size)
        held = BatchStream(read.order, pool)
        for epoch in range(3):
            read.set_epoch(epoch)
            held.set_epoch(epoch)
            for batch, expected in zip(held, read, strict=True):
                assert_same(batch, expected, device)
                assert held.state_dict() == read.state_dict()
                masks.add(expected.label_mask is None)
                orders.add(int(expected.rows[0]))
    assert len(orders) > 3
    assert masks == ({True} if "tags" in case.labels else {True, False}) or case.where is not None


def test_there_is_padding_to_compare(plan: Plan) -> None:
    made = Made(plan, CASES["a part"])
    assert any((batch.rows < 0).any() for rank in range(3) for batch in made.streams(rank=rank, world_size=3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cut", [0, 1, 7, 22])
@pytest.mark.parametrize("direction", ["to the pool", "from the pool"])
def test_resumed_at_any_batch(plan: Plan, device: str, cut: int, direction: str) -> None:
    """A state is that of the stream, so that either goes on where the other was."""
    made = Made(plan, CASES["a part"])
    whole, read = made.streams(), made.streams()
    held = BatchStream(read.order, made.pool(device))
    first, second = (read, held) if direction == "to the pool" else (held, read)
    for stream in (first, whole):
        stream.set_epoch(2)
    batches = iter(first)
    for _ in range(cut):
        next(batches)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [batch.rows.tolist() for batch in second]
    assert rest == [batch.rows.tolist() for batch in whole][cut:]
    assert rest or cut == 22


@pytest.mark.parametrize("name", ["a part", "where"])
def test_rows_that_turn_out_to_be_damaged_keep_their_places(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They weigh nothing, wherever they come from; which of them is which nobody can say."""
    made = Made(plan, CASES[name])
    original = RowEncoder.encode

    def encode(self: RowEncoder, numbers: Any, table: pa.Table, place: str, slab: Slab) -> None:
        if 700 <= numbers[0] < 800:
            raise CorruptDataError(f"{place}: damaged")
        original(self, numbers, table, place, slab)

    monkeypatch.setattr(RowEncoder, "encode", encode)
    everything, read = made.stream(None, shuffle=False, skip_corrupt=True), made.streams(skip_corrupt=True)
    pool = pool_of(everything, "cpu")
    held = BatchStream(read.order, pool)
    for batch, expected in zip(held, read, strict=True):
        numbers = expected.rows.where(expected.weights > 0, batch.rows)
        assert_same(batch, replace(expected, rows=numbers), "cpu")
    assert rows_of(read).reading.lost
    assert sum(int((batch.weights == 0).sum()) for batch in pool.in_order(100)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_all_rows_in_order(plan: Plan, case: Case, device: str) -> None:
    made = Made(plan, case)
    rows = made.stream(None, shuffle=False)
    for batch, expected in zip(made.pool(device).in_order(48), rows, strict=True):
        assert_same(batch, expected, device)


def test_rows_after_those_of_the_plan_are_never_drawn(plan: Plan) -> None:
    made = Made(plan, CASES["dense"])
    pool = DevicePool(made.encoder.layout, 2 * ROWS, torch.device("cpu"), plan_rows=ROWS)
    for batch in [*made.stream(None, shuffle=False), *made.stream(None, shuffle=False)]:
        pool.add(batch)
    read = made.streams()
    held = BatchStream(read.order, pool)
    for batch, expected in zip(held, read, strict=True):
        assert_same(batch, expected, "cpu")
    assert sum(map(len, pool.in_order(400))) == 2 * ROWS


def test_bytes_are_those_of_the_tensors(plan: Plan) -> None:
    pool = Made(plan, CASES["weights"]).pool("cpu")
    words = sum(n % 4 for n in range(ROWS))
    dense = pool.layout.num_dense
    assert pool.num_bytes == ROWS * (4 * dense + 2 + 4 + 1 + 8 + 4) + 4 * words
    assert pool.peak_bytes == pool.num_bytes + 4 * words


def test_the_cpu_has_its_rows_already() -> None:
    assert room_on(torch.device("cpu")) is None


@pytest.mark.gpu
@needs_gpu
def test_room_is_half_of_what_is_free() -> None:
    room = room_on(torch.device("cuda"))
    assert room is not None
    assert 0 < room < torch.cuda.mem_get_info()[1] / 2


@pytest.mark.gpu
@needs_gpu
def test_no_batch_waits_for_the_device(plan: Plan, case: Case) -> None:
    made = Made(plan, case)
    pool = made.pool("cuda")
    orders = [made.streams().order, made.streams(rank=1, world_size=3).order]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for order in orders:
            stream = BatchStream(order, pool)
            assert sum(1 for _ in stream) == len(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
