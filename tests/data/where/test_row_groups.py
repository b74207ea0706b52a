from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_conditions import COLUMNS, conditions, tables

from mlclf.data.parquet.child_process import FileFooter
from mlclf.data.parquet.planning import make_plan
from mlclf.data.where.condition import parse_where
from mlclf.data.where.row_groups import groups_that_may_match, matching_groups
from mlclf.errors import ConfigError


def groups(path: Path, text: str, schema: pa.Schema | None = None) -> list[int]:
    file = FileFooter(str(path), path.stat().st_size, schema or pq.read_schema(path), {}, path.read_bytes())
    return groups_that_may_match(file, text, pq.read_metadata(path).num_row_groups)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(data=st.data(), table=tables(), text=conditions(list(COLUMNS)))
def test_no_group_with_a_row_that_is_used_is_excluded(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, table: pa.Table, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "brute.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=data.draw(st.integers(1, 4)),
        write_statistics=data.draw(st.sampled_from([True, True, True, False, ["double", "word"]])),
        use_dictionary=data.draw(st.booleans()),
        store_schema=data.draw(st.booleans()),
    )
    where = parse_where(text)
    found = groups(path, text)
    with pq.ParquetFile(path) as file:
        needed = [group for group in range(file.num_row_groups) if where.mask(file.read_row_group(group)).any()]
        assert set(needed) <= set(found) <= set(range(file.num_row_groups))
    assert found == sorted(found)


def write(path: Path, rows: int = 2, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [1, 2, 3, 4, 5, 6]),
        (pa.uint64(), [1, 2, 3, 4, 2**64 - 2, 2**64 - 1]),
        (pa.float32(), [1, 2, 3, 4, 5, 6]),
        (pa.float64(), [1, 2, 3, 4, 5, 6]),
        (pa.decimal128(9, 2), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_statistics_exclude_groups_of_numbers(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    path = write(tmp_path / "a.parquet", x=pa.array(values, kind))
    assert groups(path, "x > 4") == [2]
    assert groups(path, "x <= 2.5") == [0]
    assert groups(path, "NOT x > 2.5 OR x = 3") == [0, 1]
    assert groups(path, "x IN (1, 4)") == [0, 1]
    assert groups(path, "x BETWEEN 3 AND 4 AND x != 0.5") == [1]
    assert groups(path, "x < -1e30") == []
    assert groups(path, "x = 2.5 OR FALSE") == []


def test_statistics_exclude_groups_of_texts_and_times(tmp_path: Path) -> None:
    days = pa.array([1, 2, 3, 4, 5, 6], pa.date32())
    columns = {"s": pa.array(list("abcdef")), "d": days, "t": days.cast(pa.timestamp("ms", "UTC")), "l": [[1]] * 6}
    path = write(tmp_path / "a.parquet", **columns)
    assert groups(path, "s >= 'e'") == [2]
    assert groups(path, "s IN ('a', 'f')") == [0, 2]
    assert groups(path, "d < '1970-01-03 12:00'") == [0]
    assert groups(path, "t > '1970-01-05'") == [2]
    assert groups(path, "s IS NULL") == []
    assert groups(path, "l IS NULL") == [0, 1, 2]
    assert groups(path, "TRUE") == [0, 1, 2]


def test_a_number_beside_nan_is_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=pa.array([5.0, math.nan, 5.0, 5.0, None, None]))
    assert groups(path, "x IS NULL") == [0, 1, 2]
    assert groups(path, "x IS NOT NULL") == [0, 1]
    assert groups(path, "x != 5") == []


def test_loose_bounds_of_strings_exclude_less(tmp_path: Path) -> None:
    """Other writers cut long bounds short; here the footer is changed so that it says mmmmmmma of mmmmmmmm."""
    path = write(tmp_path / "a.parquet", s=pa.array(["mmmmmmmm", "pppppppp"]))
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    changed = content[footer:].replace(b"mmmmmmmm", b"mmmmmmma").replace(b"pppppppp", b"pppppppz")
    path.write_bytes(content[:footer] + changed)
    assert changed != content[footer:]
    assert groups(path, "s < 'mmmmmmmc'") == [0]
    assert groups(path, "s >= 'pppppppq'") == [0]
    assert groups(path, "s > 'q'") == []


@pytest.mark.slow
def test_folders_give_columns(tmp_path: Path) -> None:
    for day, word in ((1, "a"), (2, "b"), (3, None)):
        folder = tmp_path / f"day={day}" / f"word={word or '__HIVE_DEFAULT_PARTITION__'}"
        folder.mkdir(parents=True)
        write(folder / "a.parquet", x=pa.array([1, 2, 3, 4]))
    plan = make_plan(str(tmp_path))

    def found(text: str) -> list[tuple[int, ...]]:
        where = parse_where(text)
        files = [
            FileFooter(shard.source.name, 0, shard.schema, shard.partition, shard.footer_as_planned())
            for shard in plan.shards
        ]
        each = [tuple(groups_that_may_match(file, text, 2)) for file in files]
        assert matching_groups(plan.shards, where) == each
        return each

    assert found("day >= 2") == [(), (0, 1), (0, 1)]
    assert found("day = 2 AND x > 2 OR day > 2.5 AND x < 2") == [(), (1,), (0,)]
    assert found("word = 'a'") == [(0, 1), (), ()]
    assert found("word IS NULL") == [(), (), (0, 1)]
    assert found("word NOT IN ('a') AND x != day") == [(), (0, 1), ()]
    assert found("x = day") == [(0,), (0,), (1,)]
    assert matching_groups(plan.shards, parse_where("TRUE")) == [(0, 1)] * 3


def test_a_column_of_the_file_goes_before_the_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    path = write(tmp_path / "day=1" / "a.parquet", day=[1, 2, 3, 4])
    assert groups(path, "day = 4") == [1]


def test_what_cannot_be_told_excludes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[1, 2, 3, 4], s=pa.array(list("abcd")).dictionary_encode())
    assert groups(path, "x > 3", pa.schema({"x": pa.float64()})) == [0, 1]
    assert groups(path, "y > 3", pa.schema({"y": pa.float64()})) == [0, 1]
    assert groups(path, "s > 'c'") == [0, 1]
    file = FileFooter(str(path), 0, pa.schema({"x": pa.int64()}), {}, b"PAR1 no longer PAR1")
    assert groups_that_may_match(file, "x > 3", 7) == list(range(7))


def test_a_column_that_does_not_suit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[1, 2])
    with pytest.raises(
        ConfigError, match=r"^data\.where: no column 'y' in .*a\.parquet; the nearest columns are 'x'\Z"
    ):
        groups(path, "y > 3")


def test_many_terms_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=np.arange(6))
    assert groups(path, " OR ".join(f"x = {number}" for number in range(4, 4000))) == [2]
    assert groups(path, "(" * 50 + "x > 3" + ")" * 50) == [2]
