"""Twelve columns of values, each in every Arrow type that holds them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

UNITS = ("s", "ms", "us", "ns")
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
WHOLE_DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 3), pa.decimal128(38, 9), pa.decimal256(60, 4)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view()]


class Logical(NamedTuple):
    """One column: values that it may have, and the types that hold all of them."""

    values: st.SearchStrategy[Any]
    types: list[pa.DataType]
    made: Callable[[list[Any], pa.DataType], pa.Array] = lambda values, kind: pa.array(values, kind)


def _numbers(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(kind):
        return pa.array([None if value is None else Decimal(value) for value in values], kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if value is None else bool(value) for value in values], kind)
    return pa.array(values, pa.float64()).cast(kind) if pa.types.is_floating(kind) else pa.array(values, kind)


def _instants(values: list[Any], kind: pa.DataType, unit: str = "s") -> pa.Array:
    array = pa.array(values, pa.int64()).cast(pa.timestamp(unit))
    if not pa.types.is_timestamp(kind):
        return array.cast(kind)
    return array.cast(pa.timestamp(kind.unit)).cast(pa.int64()).cast(kind)


def _microseconds(values: list[Any], kind: pa.DataType) -> pa.Array:
    return _instants(values, kind, "us")


def _times_of_day(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int32()).cast(pa.time32("s")).cast(kind)


def _durations(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.duration("s")).cast(kind)


def _texts(values: list[Any], kind: pa.DataType) -> pa.Array:
    given = [None if value is None else value.encode() for value in values] if kind in BYTES else values
    return pa.array(given, kind)


def _fixed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    return pa.array(values, kind)


DAY = 86_400
ZONED = [pa.timestamp(unit, zone) for unit in UNITS for zone in (None, "UTC", "Asia/Kathmandu")]
LOGICAL = {
    "flag": Logical(st.integers(0, 1), [pa.bool_(), *INTEGERS, *FLOATS, *WHOLE_DECIMALS], _numbers),
    "small": Logical(st.integers(0, 127), [*INTEGERS, *FLOATS, *WHOLE_DECIMALS], _numbers),
    "large": Logical(st.integers(-(2**53) + 1, 2**53 - 1),
                     [pa.int64(), pa.float64(), pa.decimal128(20, 2), pa.decimal256(60, 4)], _numbers),
    "unsigned": Logical(st.integers(2**63, 2**64 - 1), [pa.uint64(), pa.decimal128(20, 0), pa.decimal256(60, 4)],
                        _numbers),
    "half": Logical(st.integers(-100, 100).map(lambda value: value / 4),
                    [*FLOATS, pa.decimal32(9, 2), pa.decimal64(18, 3), pa.decimal128(38, 9)], _numbers),
    "single": Logical(st.floats(width=32, allow_nan=False, allow_infinity=False), [pa.float32(), pa.float64()],
                      _numbers),
    "day": Logical(st.integers(-100_000, 100_000).map(lambda day: day * DAY), [pa.date32(), pa.date64(), *ZONED],
                   _instants),
    "moment": Logical(st.integers(-(10**15), 10**15),
                      [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC", "America/Lima")],
                      _microseconds),
    "hour": Logical(st.integers(0, DAY - 1),
                    [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")], _times_of_day),
    "length": Logical(st.integers(-(10**8), 10**8), [pa.duration(unit) for unit in UNITS], _durations),
    "text": Logical(st.text(st.characters(codec="utf-8"), max_size=6), [*TEXTS, *BYTES], _texts),
    "fixed": Logical(st.binary(min_size=16, max_size=16), [pa.uuid(), pa.binary(16), *BYTES], _fixed),
}  # fmt: skip


def wrapped(array: pa.Array, wrapping: str) -> pa.Array:
    """The same values as they are, looked up in a dictionary, in runs, or as a slice of a longer array."""
    if wrapping == "dictionary":
        codes = pa.array(
            [code if valid else None for code, valid in enumerate(array.is_valid().to_pylist())], pa.int32()
        )
        storage = array.storage if isinstance(array.type, pa.BaseExtensionType) else array
        return pa.DictionaryArray.from_arrays(codes, storage)
    if wrapping == "runs" and not isinstance(array.type, pa.BaseExtensionType):
        ends = pa.array(np.arange(1, len(array) + 1, dtype=np.int32))
        return pa.RunEndEncodedArray.from_arrays(ends, array)
    return pa.concat_arrays([array, array]).slice(len(array)) if wrapping == "slice" else array


WRAPPINGS = ("none", "dictionary", "runs", "slice")
