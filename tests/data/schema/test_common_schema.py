"""Types of one column in several files become one type, whatever the order of the files."""

from __future__ import annotations

from decimal import Decimal
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.convert.shuffling import shuffle
from mlclf.data.schema.common_schema import merged_type

KINDS = [
    pa.bool_(), pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.decimal32(5, 1), pa.decimal128(10, 2), pa.decimal256(50, 5), pa.decimal128(10, -2), pa.date32(), pa.date64(),
    pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "Asia/Tokyo"),
    pa.time32("s"), pa.time64("us"), pa.duration("s"), pa.duration("ns"), pa.string(), pa.large_string(),
    pa.string_view(), pa.binary(), pa.binary(16), pa.uuid(), pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.int64()), pa.null(), pa.list_(pa.int8()), pa.list_(pa.int64()),
]  # fmt: skip


def test_order_does_not_matter() -> None:
    seen = 0
    for kinds in (*combinations(KINDS, 2), *combinations(KINDS, 3)):
        assert len({merged_type(order) for order in permutations(kinds)}) == 1, kinds
        seen += 1
    assert seen == 33 * 32 / 2 + 33 * 32 * 31 / 6


@pytest.mark.parametrize(
    ("kinds", "merged"),
    [
        ([pa.bool_(), pa.uint64()], pa.uint64()),
        ([pa.int8(), pa.uint8()], pa.int16()),
        ([pa.int8(), pa.float16()], pa.float16()),
        ([pa.int16(), pa.float16()], pa.float32()),
        ([pa.int64(), pa.float32()], pa.float64()),
        ([pa.float32(), pa.decimal128(10, 2)], pa.float64()),
        ([pa.int64(), pa.decimal128(10, 2)], pa.decimal128(21, 2)),
        ([pa.uint64(), pa.decimal128(30, 20)], pa.decimal256(40, 20)),
        ([pa.decimal32(5, 1), pa.decimal64(12, 5)], pa.decimal128(12, 5)),
        ([pa.decimal256(76, 0), pa.decimal256(76, 76)], None),
        ([pa.date32(), pa.timestamp("s")], pa.timestamp("s")),
        ([pa.date64(), pa.timestamp("s")], pa.timestamp("ms")),
        ([pa.timestamp("ns", "UTC"), pa.timestamp("s", "Asia/Tokyo")], pa.timestamp("ns", "UTC")),
        ([pa.timestamp("ns"), pa.timestamp("s", "Asia/Tokyo")], None),
        ([pa.date32(), pa.timestamp("s", "UTC")], None),
        ([pa.uuid(), pa.binary(16)], pa.binary(16)),
        ([pa.string(), pa.binary()], None),
        ([pa.string(), pa.int8()], None),
    ],
)
def test_types_that_hold_all(kinds: list[pa.DataType], merged: pa.DataType | None) -> None:
    assert merged_type(kinds) == merged


PARTS: list[tuple[list[pa.Array], list[Any]]] = [
    ([pa.array([True]), pa.array([7], pa.uint8()), pa.array([Decimal("1.25")]), pa.array([2**62])],
     [Decimal(1), Decimal("1.25"), Decimal(7), Decimal(2**62)]),
    ([pa.array([0.5], pa.float32()), pa.array([Decimal("1.25")]), pa.array([2**40])], [0.5, 1.25, 2.0**40]),
    ([pa.array([b"0123456789abcdef"], pa.uuid()), pa.array([b"x"]), pa.array([b"ab"], pa.binary(2))],
     [b"0123456789abcdef", b"ab", b"x"]),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "values"), PARTS)
def test_values_stay_whatever_the_order_of_the_files(tmp_path: Path, arrays: list[pa.Array], values: list[Any]) -> None:
    for number, order in enumerate(permutations(arrays)):
        folder = tmp_path / f"in{number}"
        folder.mkdir()
        for index, array in enumerate(order):
            pq.write_table(pa.table({"x": array}), folder / f"{index}.parquet")
        shuffle(str(folder), tmp_path / f"out{number}")
        found = pa.concat_tables(pq.ParquetFile(p).read() for p in (tmp_path / f"out{number}").rglob("*.parquet"))
        assert sorted(found["x"].to_pylist()) == values
