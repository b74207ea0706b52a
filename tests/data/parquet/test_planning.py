from __future__ import annotations

import re
from pathlib import Path

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet.plan import Unit
from mlclf.data.parquet.planning import UNIT_ROWS, make_plan
from mlclf.errors import DataError
from mlclf.messages import listed


def write(path: Path, table: pa.Table, **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return str(path)


def numbers(rows: int) -> pa.Table:
    return pa.table({"x": pa.array(range(rows), pa.int32())})


def refused(message: str) -> object:
    return pytest.raises(DataError, match=f"^{re.escape(message)}$")


def test_tiny_row_groups_are_joined_and_rows_numbered_in_plan_order(tmp_path: Path) -> None:
    first = write(tmp_path / "b.parquet", numbers(50_000), row_group_size=7_000)
    second = write(tmp_path / "a.parquet", numbers(5), row_group_size=2)
    plan = make_plan([first, second])
    assert plan.rows == 50_005
    assert plan.units == (
        Unit(0, (0, 1, 2), 21_000, 0),
        Unit(0, (3, 4, 5), 21_000, 21_000),
        Unit(0, (6, 7), 8_000, 42_000),
        Unit(1, (0, 1, 2), 5, 50_000),
    )
    assert all(unit.rows >= UNIT_ROWS for unit in plan.units[:2])


def test_empty_row_groups_and_files_are_skipped(tmp_path: Path) -> None:
    with pq.ParquetWriter(str(tmp_path / "a.parquet"), numbers(0).schema) as writer:
        for rows in (0, 3, 0, 0, 2, 0):
            writer.write_table(numbers(rows), row_group_size=10)
    write(tmp_path / "b.parquet", numbers(0))
    write(tmp_path / "c.parquet", numbers(1))
    plan = make_plan(str(tmp_path))
    assert [(unit.shard, unit.rows, unit.first_row) for unit in plan.units] == [(0, 5, 0), (2, 1, 5)]
    groups = [index for index, rows in enumerate(plan.shards[0].group_rows) if rows]
    assert plan.units[0].groups == tuple(groups)
    assert [plan.locate(row).rpartition(" ")[2] for row in range(6)] == [str(groups[i]) for i in (0, 0, 0, 1, 1)] + [
        "0"
    ]


def test_places_name_file_and_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", numbers(10), row_group_size=3)
    plan = make_plan(path)
    assert plan.place(plan.units[0]) == f"{path} row groups 0–3"
    assert [plan.locate(row) for row in (0, 2, 3, 9)] == [f"{path} row group {group}" for group in (0, 0, 1, 3)]
    assert plan.place_of(plan.groups_of(4, 4)) == f"{path} row groups 1–2"


def test_the_digest_follows_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", numbers(10), row_group_size=3)
    before = make_plan(path).digest
    assert make_plan(path).digest == before
    write(tmp_path / "a.parquet", numbers(10), row_group_size=4)
    assert make_plan(path).digest != before


def test_a_row_takes_at_least_its_fixed_widths(tmp_path: Path) -> None:
    constant = pa.table({"x": [1.0] * 10_000, "v": pa.array([[0.0] * 4] * 10_000, pa.list_(pa.float32(), 4))})
    assert make_plan(write(tmp_path / "a.parquet", constant)).row_bytes >= 8 + 16


def test_hive_columns_are_integers_where_all_values_are(tmp_path: Path) -> None:
    for year, city in (("2023", "Ulm"), ("-5", "7"), ("__HIVE_DEFAULT_PARTITION__", "8")):
        write(tmp_path / f"year={year}/city={city}/a.parquet", numbers(1))
    plan = make_plan(str(tmp_path))
    assert {str(shard.schema.field("year").type) for shard in plan.shards} == {"int64"}
    assert {str(shard.schema.field("city").type) for shard in plan.shards} == {"string"}


def test_a_column_in_the_file_comes_before_its_folder(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "x=abc/a.parquet", numbers(2)))
    assert plan.shards[0].partition == {}
    assert plan.shards[0].schema.field("x").type == pa.int32()


def test_files_behind_fsspec(tmp_path: Path) -> None:
    with fsspec.filesystem("memory").open("/mlclf-shards/a.parquet", "wb") as file:
        pq.write_table(numbers(4), file)
    assert make_plan("memory://mlclf-shards").rows == 4


def test_damaged_files_are_all_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", numbers(1_000))
    content = Path(good).read_bytes()
    not_parquet = "not a Parquet file (it does not begin and end with PAR1); give Parquet files, or convert it first"
    truncated = "truncated: a Parquet file ends with PAR1 and this one does not; copy or write it again"
    cases = {
        "a.parquet": (b"x,y\n1,2\n", not_parquet),
        "b.parquet": (content[:-500], truncated),
        "c.parquet": (b"", "the file is empty (0 bytes); copy or write it again"),
        "d.parquet": (b"PARE" + content[4:-4] + b"PARE", "the file is encrypted; write it without encryption"),
    }
    for name, (damaged, _) in cases.items():
        (tmp_path / name).write_bytes(damaged)
    lines = [f"{tmp_path / name}: {problem}" for name, (_, problem) in cases.items()]
    with refused("\n".join(lines)):
        make_plan(str(tmp_path))


def test_a_broken_footer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", numbers(1_000))
    content = bytearray(Path(path).read_bytes())
    content[-60:-8] = bytes(52)
    Path(path).write_bytes(content)
    with pytest.raises(
        DataError,
        match=rf"^{re.escape(path)}: the footer cannot be read \(.+\); the file is damaged, write it again$",
    ):
        make_plan(path)


def test_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", numbers(0))
    with refused(
        f"the data has no rows: 1 Parquet file(s) under {tmp_path} are empty; "
        "check the path or the export that wrote them"
    ):
        make_plan(str(tmp_path))


def test_names_are_distinct(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "y", "x"])
    path = write(tmp_path / "a.parquet", table)
    with refused(
        f"{path}: column names must be distinct, found 'x' more than once; rename the columns where the file is written"
    ):
        make_plan(path)


def test_long_lists_of_problems_are_cut() -> None:
    assert listed([str(number) for number in range(15)]).splitlines()[11:] == ["11", "… and 3 more"]


def test_a_type_that_cannot_be_read_is_no_damage(tmp_path: Path) -> None:
    table = pl.DataFrame({"big": pl.Series([1, 2, 3], dtype=pl.Int128), "x": [1.0, 2.0, 3.0]})
    table.write_parquet(tmp_path / "a.parquet")
    for skips in (False, True):
        with refused(
            f"{tmp_path}/a.parquet: a column has a type that cannot be read (Integers with more than 64 bits not "
            "implemented); convert the column, or leave it out, where the file is written"
        ):
            make_plan(str(tmp_path), skip_corrupt=skips)
