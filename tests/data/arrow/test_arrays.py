from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlclf.data.arrow.arrays import as_floats, is_text, one_array

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=dt.UTC)
MOMENT_SECONDS = (MOMENT - EPOCH).total_seconds()

CASES: list[tuple[pa.DataType, list[Any], list[float]]] = [
    (pa.bool_(), [True, None, False], [1, np.nan, 0]),
    *((kind, [-5, None, 7], [-5, np.nan, 7]) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((kind, [5, None, 7], [5, np.nan, 7]) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.int64(), [-(2**53), None, 2**53], [-(2.0**53), np.nan, 2.0**53]),
    (pa.uint64(), [2**64 - 1, None], [2.0**64, np.nan]),
    (pa.float16(), [np.float16(0.5), None, np.float16("nan")], [0.5, np.nan, np.nan]),
    (pa.float32(), [0.5, None, float("nan")], [0.5, np.nan, np.nan]),
    (pa.float64(), [1e300, None, float("nan")], [1e300, np.nan, np.nan]),
    (pa.decimal32(5, 2), [Decimal("1.25"), None], [1.25, np.nan]),
    (pa.decimal128(20, 3), [Decimal("-1.125"), None], [-1.125, np.nan]),
    (pa.decimal256(60, 3), [Decimal("1.125"), None], [1.125, np.nan]),
    (pa.date32(), [dt.date(1970, 1, 3), None], [172_800, np.nan]),
    (pa.date64(), [dt.date(1970, 1, 3), None], [172_800, np.nan]),
    (pa.timestamp("s"), [dt.datetime(1970, 1, 1, 0, 1), None], [60, np.nan]),
    *(
        (pa.timestamp(unit, zone), [MOMENT.replace(tzinfo=None) if zone is None else MOMENT, None],
         [MOMENT_SECONDS, np.nan])
        for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")
    ),
    (pa.time32("s"), [dt.time(0, 1), None], [60, np.nan]),
    (pa.time32("ms"), [dt.time(0, 0, 0, 500_000), None], [0.5, np.nan]),
    (pa.time64("us"), [dt.time(0, 0, 0, 500_000), None], [0.5, np.nan]),
    (pa.time64("ns"), [dt.time(0, 0, 0, 500_000), None], [0.5, np.nan]),
    *((pa.duration(unit), [dt.timedelta(seconds=90), None], [90, np.nan]) for unit in ("s", "ms", "us", "ns")),
    (pa.null(), [None, None], [np.nan, np.nan]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "expected"), CASES, ids=[str(case[0]) for case in CASES])
def test_every_numeric_type(kind: pa.DataType, values: list[Any], expected: list[float]) -> None:
    array = pa.array(values, kind)
    for variant in (array, pa.concat_arrays([array, array]).slice(len(values))):
        found = as_floats(variant)
        assert found.dtype in (np.float32, np.float64)
        np.testing.assert_array_equal(found, np.array(expected))
    assert as_floats(array.slice(0, 0)).shape == (0,)


def test_float32_only_where_it_is_exact() -> None:
    exact = {"bool", "int8", "uint8", "int16", "uint16", "halffloat", "float"}
    for kind, values, _ in CASES:
        assert (as_floats(pa.array(values, kind)).dtype == np.float32) == (str(kind) in exact)


def test_one_array_joins_chunks_and_looks_dictionaries_up() -> None:
    text = pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", None]).dictionary_encode()])
    assert one_array(text).to_pylist() == ["a", "b", "b", None]
    assert one_array(pa.chunked_array([], pa.string())).to_pylist() == []
    assert one_array(pa.chunked_array([[1], [2]])).to_pylist() == [1, 2]


def test_the_three_types_of_text() -> None:
    assert [is_text(kind) for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary())] == [
        True, True, True, False,
    ]  # fmt: skip
