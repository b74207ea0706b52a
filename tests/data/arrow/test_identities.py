"""One canonical text and one hash for each value, in whatever Arrow type it is kept."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_types import LOGICAL, WRAPPINGS, wrapped
from sklearn.utils import murmurhash3_32

from mlclf.data.arrow.identities import canonical, is_comparable, levels_of, value_hashes, value_numbers
from mlclf.errors import DataError


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGICAL)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_values_are_the_same_in_every_type(name: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | LOGICAL[name].values, min_size=1, max_size=8))
    distinct = [value for value in dict.fromkeys(values) if value is not None]
    texts, hashes, numbers = set(), set(), set()
    for kind in LOGICAL[name].types:
        array = wrapped(LOGICAL[name].made(values, kind), data.draw(st.sampled_from(WRAPPINGS)))
        assert is_comparable(array.type)
        found = canonical(array).cast(pa.binary()).to_pylist()
        texts.add(tuple(found))
        assert [text is None for text in found] == [value is None for value in values]
        assert len({text for text in found if text is not None}) == len(distinct)
        hashes.add(tuple(value_hashes(array, 7).tolist()))
        numbers.add(tuple(value_numbers(array)[0][np.array([value is not None for value in values])].tolist()))
        codes, levels = levels_of(array)
        assert len(set(levels.to_pylist())) == len(levels)
        for code, value in zip(codes.tolist(), values, strict=True):
            assert (code == len(levels)) == (value is None)
        readable = [None if code == len(levels) else levels[code].as_py() for code in codes.tolist()]
        assert [None if text is None else text.decode(errors="backslashreplace") for text in found] == readable or (
            name == "fixed"
        )
    assert len(texts) == len(hashes) == len(numbers) == 1


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([7.0, -0.0, 0.5, float("nan"), None, float("inf")]), ["7", "0", "0.5", None, None, "inf"]),
        (pa.array([0.1], pa.float32()), ["0.10000000149011612"]),
        (pa.array([1e15, 2.0**63, 1e20, 1e76, 1e300, 1e-7]),
         ["1000000000000000", "9223372036854775808", "100000000000000000000", "1e+76", "1e+300", "1e-7"]),
        (pa.array([Decimal("0.1"), Decimal("1E-7"), Decimal("-7.50"), Decimal("700")], pa.decimal128(20, 10)),
         ["0.1", "1e-7", "-7.5", "700"]),
        (pa.array([Decimal("0.12345678901234567890123")]), ["0.12345678901234567890123"]),
        (pa.array([Decimal(700)], pa.decimal128(5, -2)), ["700"]),
        (pa.array([True, False]), ["1", "0"]),
        (pa.array([-(2**63), 2**63 - 1]), [str(-(2**63)), str(2**63 - 1)]),
        (pa.array([datetime(9999, 12, 31), datetime(1, 1, 1, 0, 0, 0, 1)], pa.timestamp("us")),
         ["9999-12-31", "0001-01-01 00:00:00.000001"]),
        (pa.array([datetime(2024, 1, 31, 1, tzinfo=UTC)], pa.timestamp("s", "Europe/Berlin")), ["2024-01-31 01:00:00"]),
        (pa.array([2**45], pa.timestamp("s")), ["35184372088832 s"]),
        (pa.array([timedelta(milliseconds=1500)], pa.duration("ms")), ["1.5 s"]),
        (pa.array(["007", "", " x"], pa.string_view()), ["007", "", " x"]),
        (pa.array([b"\xff"]), [b"\xff"]),
        (pa.nulls(2), [None, None]),
    ],
)  # fmt: skip
def test_how_values_are_written(values: pa.Array, texts: list[Any]) -> None:
    assert canonical(values).to_pylist() == texts


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_written_exactly(value: float) -> None:
    text = canonical(pa.array([value]))[0].as_py()
    assert float(text) == value
    assert text.isdigit() or text[1:].isdigit() or not value.is_integer() or abs(value) >= 1e76


def test_hashes_of_text_and_integers_are_those_of_their_bytes() -> None:
    column = pa.chunked_array([["a", "7"], ["é"]])
    expected = [(murmurhash3_32(t, 0x9747B28C + 3, positive=True) << 32) | murmurhash3_32(t, 3, positive=True)
                for t in ("a", "7", "é")]  # fmt: skip
    assert value_hashes(column, 3).tolist() == expected
    assert value_hashes(pa.array([7], pa.uint8()), 3).tolist() == expected[1:2]
    assert value_hashes(pa.chunked_array([], pa.int8()), 3).tolist() == []


def test_missing_values_hash_alike_and_unlike_the_empty_text() -> None:
    null, empty = value_hashes(pa.array([None, ""]), 0).tolist()
    assert null != empty
    assert value_hashes(pa.array([float("nan"), None]), 0).tolist() == [null, null]


def test_levels_are_distinct_where_bits_are_not() -> None:
    codes, texts = levels_of(pa.array([0.0, -0.0, float("nan"), None, 1.0]))
    assert (codes.tolist(), texts.to_pylist()) == ([0, 0, 2, 2, 1], ["0", "1"])
    twice = pa.DictionaryArray.from_arrays([0, 1, 2, None], pa.array(["a", "a", None]))
    codes, texts = levels_of(twice)
    assert (codes.tolist(), texts.to_pylist()) == ([0, 0, 1, 1], ["a"])
    large = pa.DictionaryArray.from_arrays([7, 7, 3], pa.array([f"v{i}" for i in range(9)], pa.string_view()))
    codes, texts = levels_of(large)
    assert (codes.tolist(), texts.to_pylist()) == ([0, 0, 1], ["v7", "v3"])
    assert levels_of(pa.array([b"\xff\x00", b"x", None])).texts.to_pylist() == ["0xff00", "x"]


@pytest.mark.parametrize("array", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([[b"x"]])])
def test_values_that_cannot_be_compared(array: pa.Array) -> None:
    message = (
        f"values of type {array.type} cannot be compared; "
        "name a column of numbers, strings, bytes, booleans, dates or times"
    )
    assert not is_comparable(array.type)
    for work in (canonical, levels_of, value_numbers):
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            work(array)
