"""Shuffling: the same rows in an order that the seed alone decides, in files that appear whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.convert import buckets, shuffling
from mlclf.data.convert import row_groups as writing
from mlclf.data.convert.row_groups import cut, even_parts, group_rows
from mlclf.data.convert.shuffling import shuffle, shuffle_steps
from mlclf.data.parquet.column_statistics import read_footers
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema import common_schema as unified
from mlclf.errors import ConfigError, DataError
from mlclf.files import is_temporary

TINY = {"LEAST_BUDGET_BYTES": 1, "LEAST_SLICE_BYTES": 1, "SLICE_BYTES_PER_COLUMN": 0, "LEAST_GROUP_ROWS": 1}
"""Limits that let a budget of a few bytes through."""


@contextmanager
def limits(**changed: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (TINY | changed).items():
            for module in (buckets, shuffling, writing):
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield


def write(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def read(folder: Path) -> pa.Table:
    """What was written, in its order."""
    return pa.concat_tables([pq.read_table(path) for path in parts(folder)])


def in_order(data: str, rows: pa.Table, seed: int) -> pa.Table:
    """The slow oracle: every row of the plan by its random number."""
    plan = make_plan(data)
    streams = [np.random.SeedSequence([seed, index]).generate_state(2, np.uint64) for index in range(len(plan.units))]
    numbers = [np.random.Philox(key=key).random_raw(unit.rows) for key, unit in zip(streams, plan.units, strict=True)]
    return rows.take(pa.array(np.argsort(np.concatenate(numbers), kind="stable")))


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# ── the rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "number": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "word": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=20)),
    "level": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from("abc")),
    "tags": (pa.list_(pa.string()), st.lists(st.text("xyz", max_size=3), max_size=3)),
    "vector": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2)),
    "nested": (
        pa.struct([("a", pa.int8()), ("b", pa.list_(pa.struct([("c", pa.bool_())])))]),
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.lists(st.fixed_dictionaries({"c": st.booleans()}))}),
    ),
    "map": (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(st.text("k", max_size=2), st.integers(0, 9)))),
    "money": (pa.decimal128(10, 2), st.integers(0, 10**9).map(lambda cents: Decimal(cents) / 100)),
    "nothing": (pa.null(), st.none()),
}


@st.composite
def shards(draw: st.DrawFn) -> list[pa.Table]:
    """Ragged, empty and one-row shards of the same columns, which may be of any kind and have nulls."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 17]), min_size=1, max_size=4).filter(any))
    tables, start = [], 0
    for size in sizes:
        columns = {"id": pa.array(range(start, start + size), pa.int64())}
        for name in names:
            kind, values = VALUES[name]
            cells = draw(st.lists(st.none() | values, min_size=size, max_size=size))
            columns[name] = pa.array(cells, kind)
        tables.append(pa.table(columns))
        start += size
    return tables


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    tables=shards(),
    group=st.sampled_from([1, 3, 100]),
    seed=st.integers(0, 2**63),
    budget=st.sampled_from([400, 2_000, 10_000, 1 << 30]),
    most_buckets=st.sampled_from([2, 7, 1_024]),
)
def test_every_row_comes_out_once_in_the_order_of_the_seed(
    tmp_path_factory: pytest.TempPathFactory,
    tables: list[pa.Table],
    group: int,
    seed: int,
    budget: int,
    most_buckets: int,
) -> None:
    folder = tmp_path_factory.mktemp("shuffle")
    for index, table in enumerate(tables):
        write(folder / "in" / f"{index}.parquet", table, row_group_size=group)
    with limits(MAX_BUCKETS=most_buckets, GROUP_ROWS=5, FILE_GROUPS=2, FILE_BYTES=1):
        done = shuffle(str(folder / "in"), folder / "out", seed=seed, memory_budget=budget)
    before = pa.concat_tables([table.cast(unified.materialized_schema(table.schema)) for table in tables])
    after = read(folder / "out")
    assert [str(each) for each in after.schema.names] == before.schema.names
    after = after.cast(before.schema)
    assert Counter(map(repr, after.to_pylist())) == Counter(map(repr, before.to_pylist()))
    assert after.to_pylist() == in_order(str(folder / "in"), before, seed).to_pylist()
    assert (done.rows, done.files) == (before.num_rows, len(parts(folder / "out")))
    assert not any(is_temporary(path) for path in folder.iterdir())


def test_the_order_does_not_depend_on_the_budget_but_on_the_seed(tmp_path: Path) -> None:
    table = pa.table({"id": np.arange(40_000), "text": [f"row {row}" * (row % 9) for row in range(40_000)]})
    write(tmp_path / "in.parquet", table, row_group_size=9_000)
    orders = {}
    for name, seed, budget in (("a", 3, 1 << 30), ("b", 3, 70_000), ("c", 3, 5_000_000), ("d", 4, 1 << 30)):
        with limits(MAX_BUCKETS=8):
            shuffle(str(tmp_path / "in.parquet"), tmp_path / name, seed=seed, memory_budget=budget)
        orders[name] = read(tmp_path / name).column("id").to_numpy()
    assert np.array_equal(orders["a"], orders["b"])
    assert np.array_equal(orders["a"], orders["c"])
    assert not np.array_equal(orders["a"], orders["d"])
    # in random order neither the place of a row nor its neighbour tells anything: both correlations are 0 ± 1/√n
    for order in (orders["a"], orders["d"]):
        assert abs(np.corrcoef(order, np.arange(40_000))[0, 1]) < 4 / 200
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / 200


def test_a_bucket_that_is_too_large_is_dealt_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary hides from the footer how large the rows are."""
    levels = [f"{level:04d}" * 250 for level in range(10)]
    table = pa.table({"id": np.arange(5_000), "text": pa.array([levels[row % 10] for row in range(5_000)])})
    write(tmp_path / "in.parquet", table)
    dealers = []
    original = buckets.Dealer.sorted

    def watched(self: Any, bucket: Any) -> Iterator[pa.Table]:
        dealers.append(self)
        for found in original(self, bucket):
            assert found.nbytes < 2 * self.held_bytes
            yield found

    monkeypatch.setattr(buckets.Dealer, "sorted", watched)
    with limits():
        shuffle(str(tmp_path / "in.parquet"), tmp_path / "out", memory_budget=1 << 20)
    assert dealers[0].made > 15
    assert read(tmp_path / "out").equals(in_order(str(tmp_path / "in.parquet"), table, 0))


def test_memory_is_bounded_by_the_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        columns = {f"x{column}": rng.normal(size=250_000) for column in range(8)}
        write(tmp_path / "in" / f"{index}.parquet", columns, row_group_size=50_000)
    default = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(default)
    pa.set_memory_pool(counted)
    try:
        shuffle(str(tmp_path / "in"), tmp_path / "out", memory_budget=16 << 20)
    finally:
        pa.set_memory_pool(default)
    # 61 MiB of rows; beside the budget there is the open reader, at most 8 columns of 50,000 values
    assert counted.max_memory() < (16 << 20) + 2 * 8 * 50_000 * 8


# ── the files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_have_sized_groups_checksums_and_statistics(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(2_000.0), "n": np.arange(2_000), "tags": [["a", "b"]] * 2_000})
    write(tmp_path / "in.parquet", table, row_group_size=7)
    with limits(GROUP_ROWS=300, FILE_GROUPS=4, FILE_BYTES=1):
        done = shuffle(str(tmp_path / "in.parquet"), tmp_path / "out")
    out = tmp_path / "out"
    assert [path.name for path in sorted(out.iterdir())] == [
        "_SUCCESS",
        "_written.jsonl",
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert (done.folder, done.rows, done.files, done.row_groups) == (out, 2_000, 2, 7)
    plan = make_plan(str(out))
    assert [shard.group_rows for shard in plan.shards] == [(286, 286, 286, 286), (286, 285, 285)]
    footers = read_footers(plan.shards)
    assert footers is not None
    assert all(footers.checksums.values())
    assert set(footers.codecs) == {"SNAPPY"}
    assert (footers.columns["n"].low, footers.columns["n"].high, footers.columns["n"].nulls) == (0, 1_999, 0)
    chunks = pq.read_metadata(out / "part-00000.parquet").row_group(0)
    assert ["RLE_DICTIONARY" in chunks.column(index).encodings for index in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("row_bytes", "budget", "rows"),
    [
        (10, 512 << 20, 65_536),
        (512, 512 << 20, 65_536),
        (2_048, 512 << 20, 16_384),
        (20_480, 512 << 20, 1_638),
        (100_000, 512 << 20, 1_024),
        (512, 64 << 20, 32_768),
        (100_000, 64 << 20, 335),
        (1 << 30, 16 << 20, 1),
    ],
)
def test_row_groups_are_as_large_as_reading_and_the_budget_allow(row_bytes: int, budget: int, rows: int) -> None:
    assert group_rows(row_bytes, budget) == rows


@given(total=st.integers(1, 500), most=st.integers(1, 60), pieces=st.lists(st.integers(0, 50), min_size=1))
def test_parts_are_even_and_tables_are_cut_to_them(total: int, most: int, pieces: list[int]) -> None:
    sizes = even_parts(total, most)
    assert sum(sizes) == total
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-total // most)
    bounds = np.clip(np.cumsum([0, *pieces, total]), 0, total)
    tables = [pa.table({"x": np.arange(low, high)}) for low, high in pairwise(bounds)]
    found = list(cut(tables, sizes))
    assert [table.num_rows for table in found] == sizes
    assert pa.concat_tables(found).column("x").to_pylist() == list(range(total))


def test_folders_names_become_columns_and_common_metadata_is_kept(tmp_path: Path) -> None:
    for year, owner in (("2020", "a"), ("2021", "b")):
        columns = pa.table({"x": [1.0, 2.0]}).replace_schema_metadata({"unit": "kg", "owner": owner})
        write(tmp_path / "in" / f"year={year}" / "a.parquet", columns)
    shuffle(str(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out")
    assert found.schema.field("year").type == pa.int64()
    assert sorted(zip(*found.to_pydict().values(), strict=True)) == [(1.0, 2020), (1.0, 2021), (2.0, 2020), (2.0, 2021)]
    assert found.schema.metadata == {b"unit": b"kg"}


# ── types that differ between shards ────────────────────────────────────────────────────────────────────────────────

TOGETHER: dict[str, tuple[pa.Array, pa.Array, pa.DataType]] = {
    "integers": (pa.array([1], pa.int32()), pa.array([2]), pa.int64()),
    "signs": (pa.array([1], pa.uint32()), pa.array([-2], pa.int32()), pa.int64()),
    "integers and floats": (pa.array([1]), pa.array([2.5], pa.float32()), pa.float64()),
    "bool and integer": (pa.array([True]), pa.array([0], pa.int16()), pa.int16()),
    "bool and float": (pa.array([0.5]), pa.array([True]), pa.float64()),
    "strings": (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string()),
    "string and dictionary": (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), pa.string()),
    "dictionaries": (
        pa.array(["a"]).dictionary_encode(),
        pa.array(["b"]).cast(pa.dictionary(pa.int8(), pa.string())),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "views": (pa.array(["a"], pa.string_view()), pa.array(["b"]), pa.string()),
    "decimals": (
        pa.array([Decimal("1.5")], pa.decimal128(5, 1)),
        pa.array([Decimal("2.25")], pa.decimal128(5, 2)),
        pa.decimal128(6, 2),
    ),
    "null": (pa.nulls(1), pa.array([[1, 2]]), pa.list_(pa.int64())),
    "times": (pa.array([1], pa.timestamp("s")), pa.array([2], pa.timestamp("ms")), pa.timestamp("ms")),
    "lists": (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2]]), pa.list_(pa.int64())),
    "empty lists": (pa.array([[]], pa.list_(pa.null())), pa.array([["x"]]), pa.list_(pa.string())),
    "structs": (
        pa.array([{"a": 1}], pa.struct([("a", pa.int32())])),
        pa.array([{"a": 2, "b": "x"}]),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
}


@pytest.mark.parametrize("case", TOGETHER)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_go_together_become_one(tmp_path: Path, case: str, turned: bool) -> None:
    first, second, kind = TOGETHER[case]
    for index, array in enumerate((second, first) if turned else (first, second)):
        write(tmp_path / "in" / f"{index}.parquet", {"x": array})
    shuffle(str(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out").column("x")
    assert found.type == kind
    expected = [value for array in (first, second) for value in array.cast(unified.materialized_type(kind)).to_pylist()]
    assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, expected))


def test_a_column_that_a_shard_lacks_is_null_there(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), False), pa.field("x", pa.float64(), False)])
    write(tmp_path / "in" / "0.parquet", pa.table({"id": [0, 1], "x": [0.5, 1.5]}, schema=schema))
    write(tmp_path / "in" / "1.parquet", {"id": [2], "tags": [["a"]]})
    shuffle(str(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out")
    assert found.schema.names == ["id", "x", "tags"]
    assert sorted(found.to_pylist(), key=lambda row: row["id"]) == [
        {"id": 0, "x": 0.5, "tags": None},
        {"id": 1, "x": 1.5, "tags": None},
        {"id": 2, "x": None, "tags": ["a"]},
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array(["a"]), pa.array([1])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([True]), pa.array(["a"])),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.array([[1.0]], pa.list_(pa.float32(), 1))),
        (pa.array([[1.0]], pa.list_(pa.float32(), 1)), pa.array([[1.0]], pa.list_(pa.float32()))),
        (pa.array([{"a": 1}]), pa.array([1])),
        (pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("s", "UTC"))),
    ],
)
def test_types_that_do_not_go_together_are_refused(tmp_path: Path, first: pa.Array, second: pa.Array) -> None:
    write(tmp_path / "in" / "0.parquet", {"y": pa.nulls(1), "x": first, "z": [1]})
    write(tmp_path / "in" / "1.parquet", {"y": [1], "x": second, "z": ["a"]})
    write(tmp_path / "in" / "2.parquet", {"y": [1], "x": second, "z": ["a"]})
    with pytest.raises(DataError) as error:
        shuffle(str(tmp_path / "in"), tmp_path / "out")
    zero, one = (tmp_path / "in" / f"{index}.parquet" for index in range(2))
    kind, other = (pq.read_schema(path).field("x").type for path in (zero, one))  # Parquet changes some
    assert str(error.value) == (
        f"column 'x' must have types that go together, got {kind} in {zero} and {other} in {one}\n"
        f"column 'z' must have types that go together, got int64 in {zero} and string in {one}\n"
        "cast it where the files are written"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_value_that_does_not_fit_the_common_type_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.parquet", {"x": [1, 2**53 + 1]})
    write(tmp_path / "in" / "1.parquet", {"x": [0.5]})
    with pytest.raises(DataError) as error:
        shuffle(str(tmp_path / "in"), tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / 'in' / '0.parquet'} row group 0 column 'x': int64 must become double, the type that holds what "
        "all files have (Integer value 9007199254740993 not in range: -9007199254740992 to 9007199254740992); cast it "
        "where the files are written"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ── whole or not at all ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with data in `in` and an earlier output of it in `out`."""
    write(tmp_path / "in" / "a.parquet", {"x": np.arange(100.0)}, row_group_size=30)
    shuffle(str(tmp_path / "in"), tmp_path / "out", seed=1)
    return tmp_path


def test_what_shuffle_wrote_is_replaced_if_asked(written: Path) -> None:
    before = everything(written / "out")
    assert shuffle(str(written / "in"), written / "out", seed=2, overwrite=True).rows == 100
    after = everything(written / "out")
    assert before.keys() == after.keys()
    assert before["part-00000.parquet"] != after["part-00000.parquet"]
    assert sorted(path.name for path in written.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    "stop",
    [
        "data.convert.row_groups.pq.ParquetWriter.write_table",
        "outputs.building.write_text",
        "outputs.replacement.take_place",
        "data.convert.buckets.pa.ipc.new_stream",
    ],
)
@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_a_shuffle_that_fails_leaves_what_was_there(
    written: Path, monkeypatch: pytest.MonkeyPatch, stop: str, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    before = everything(written)
    monkeypatch.setattr(f"mlclf.{stop}", fail)
    for out in ("out", "new"):
        with pytest.raises(type(error)):
            shuffle(str(written / "in"), written / out, overwrite=True)
    assert everything(written) == before


def test_a_shuffle_that_is_left_removes_its_temporaries(written: Path) -> None:
    before = everything(written)
    steps = shuffle_steps(str(written / "in"), written / "new")
    assert next(steps).total == 100
    assert (written / ".new.mlclf").is_dir()
    steps.close()
    assert everything(written) == before


def test_a_shuffle_that_is_killed_leaves_what_was_there(written: Path) -> None:
    code = (
        "import os\nfrom mlclf.data.convert import shuffling\nfrom mlclf.outputs import replacement\n"
        "replacement.take_place = lambda *_: os.kill(os.getpid(), 9)\n"
        f"shuffling.shuffle({str(written / 'in')!r}, {str(written / 'out')!r}, overwrite=True)"
    )
    before = everything(written)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (written / ".out.mlclf" / "new" / "_SUCCESS").exists()
    assert {name: content for name, content in everything(written).items() if ".mlclf" not in name} == before


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def refusal(data: str, out: str | Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        shuffle(data, out, **options)
    return str(error.value)


def test_a_folder_that_is_not_ours_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    Path("link").symlink_to("in")
    Path("other").mkdir()
    Path("other/mine.txt").touch()
    Path("out/mine.txt").touch()
    assert refusal("in/a.parquet", "out", overwrite=True) == (
        "out: --overwrite replaces only what shuffle wrote, and this folder holds 'mine.txt', which is not on the "
        "list; move it away, or give another --out"
    )
    Path("out/mine.txt").unlink()
    before = everything(written)
    assert refusal("in", "out") == "out: the folder is not empty; give another --out, or --overwrite"
    assert refusal("in/a.parquet", "other", overwrite=True) == (
        "other: --overwrite replaces only what shuffle wrote, and this folder has no list of that (_written.jsonl; "
        "releases before this one wrote none); it holds 'mine.txt': give another --out, or, if nothing of it is "
        f"needed, remove it first: rm -r {written / 'other'}"
    )
    assert refusal("in", "in", overwrite=True) == "in: --out must not be in the input folder in; give another --out"
    assert refusal("link", "in/new") == "in/new: --out must not be in the input folder link; give another --out"
    assert refusal("i*", "in/new") == "in/new: --out must not be in the input folder in; give another --out"
    assert refusal(f"file://{written}/in", "in/new").startswith("in/new: --out must not be in the input folder")
    assert refusal("out/part-00000.parquet", "out", overwrite=True) == (
        "out: --out must not hold the input out/part-00000.parquet; give another --out"
    )
    assert refusal("in", "in/a.parquet/x") == (
        "in/a.parquet/x: --out must not be in the input folder in; give another --out"
    )
    assert refusal("out", "in/a.parquet") == "'in/a.parquet' must be a folder, found a file; name a folder"
    assert everything(written) == before


def test_numbers_out_of_range_are_refused(written: Path) -> None:
    data, new = str(written / "in"), written / "new"
    assert refusal(data, new, seed=-1) == "--seed must be 0 or more, and below 2**63, got -1"
    assert refusal(data, new, memory_budget=100) == (
        "--memory-budget must be at least 16 MiB (16,777,216 bytes), got 100 bytes"
    )


def test_data_without_columns_is_refused(written: Path) -> None:
    plan = make_plan(str(written / "in"))
    object.__setattr__(plan.shards[0], "schema", pa.schema([]))
    with pytest.raises(DataError) as error:
        unified.unified_schema(plan)
    assert str(error.value) == "the data has no columns; check the path or the export that wrote the files"
