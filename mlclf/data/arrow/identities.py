"""What is equal to what: one canonical text for each value of any Arrow type, and the hash of it.

Categories, groups, keys, splits, joins and slices all compare values by it. Nothing depends on the type that a file
happens to keep a value in:

| values | are written as | so that these are equal |
| --- | --- | --- |
| integers, and floats and decimals that are integers | all their digits | 7 (int8), 7 (uint64), 7.0, decimal 7.00 |
| booleans | 1 and 0 | true, 1, 1.0 |
| other floats | the fewest digits that give the float64 back | float32 0.5, float64 0.5, decimal 0.50 |
| other decimals | as the float64 of these digits, else all digits without zeros at the end | decimal 0.1, float64 0.1 |
| −0.0 | 0 | −0.0, 0.0, 0 |
| dates, timestamps of any unit and zone | `2024-01-31`, `2024-01-31 10:00:00.5`, in UTC | a date and its midnight |
| times of day | `10:00:00.5` | time32, time64 |
| durations | seconds, `1.5 s` | any unit |
| strings, of any width, views, dictionaries | as they are | '007' is not 7, nor '7' |
| bytes of any or of fixed width, UUIDs | as they are | a UUID and its 16 bytes, bytes and the text that they encode |
| null, NaN | null | missing |

A timestamp without a zone is taken for UTC. A float32 is the float64 that it widens to: 0.1 in float32 is
0.10000000149011612 and no other. A number equals the text that it is written as here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_bytes, is_text
from mlclf.data.arrow.murmur import murmur3_32
from mlclf.errors import DataError

MISSING_HASH = 0x5851F42D4C957F2D
"""By which the hash of a missing value differs from that of the empty text."""

COMPARABLE = "numbers, strings, bytes, booleans, dates or times"

WHOLE = 10**18
"""Integers closer to 0 are their own identity."""

_EXACT = Context(prec=200)
_DIGITS = 76
"""Of the largest integers that an Arrow type holds exactly; larger floats keep their exponent."""


class Levels(NamedTuple):
    """The values of an array as codes of distinct ones.

    Attributes:
        codes: [n] integers, indices of `texts`; `len(texts)` where the value is missing.
        texts: [m] string, canonical, distinct, none of them null.
    """

    codes: NDArray[Any]
    texts: pa.Array


def canonical(array: pa.Array) -> pa.Array:
    """The canonical text of each value: [n] string, or binary for bytes; null where it is missing.

    >>> canonical(pa.array([7.0, -0.0, 0.5, None])).to_pylist()
    ['7', '0', '0.5', None]

    Raises:
        DataError: values of this type cannot be compared.
    """
    array = unwrapped(array)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return array
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    for is_kind, texts_of in _WAYS:
        if is_kind(kind):
            return texts_of(array)
    _check(kind)
    raise AssertionError(kind)


def is_comparable(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type have a canonical text."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_comparable(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return is_comparable(kind.value_type)
    plain = is_text(kind) or is_bytes(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    return bool(plain or any(is_kind(kind) for is_kind, _ in _WAYS))


def _check(kind: pa.DataType) -> None:
    if not is_comparable(kind):
        raise DataError(f"values of type {kind} cannot be compared; name a column of {COMPARABLE}")


def levels_of(array: pa.Array, texts_of: Callable[[pa.Array], pa.Array] | None = None) -> Levels:
    """The distinct values of an array, each written once, bytes that are no UTF-8 as `0x…`.

    Args:
        texts_of: how distinct values are written; None for canonically.

    Raises:
        DataError: values of this type cannot be compared.
    """
    if texts_of is None:
        _check(array.type)
    whole = array = _stored(array)
    if not pa.types.is_dictionary(array.type):
        array = _dictionary(array)
    values = array.dictionary
    if len(values) > len(array):  # a dictionary of many rows beside a few of them
        array = array.indices.dictionary_encode()
        values = unwrapped(values).take(array.dictionary)
    texts = _readable(canonical(values)) if texts_of is None else texts_of(values)
    codes = _codes(array.indices, len(texts))
    if pa.types.is_string(values.type) and not texts.null_count and not pa.types.is_dictionary(whole.type):
        return Levels(codes, texts)  # they are distinct
    again = texts.dictionary_encode()
    return Levels(
        np.append(_codes(again.indices, len(again.dictionary)), len(again.dictionary))[codes], again.dictionary
    )


def _codes(indices: pa.Array, missing: int) -> NDArray[Any]:
    if indices.null_count:
        indices = pc.fill_null(indices.cast(pa.int64()), missing)
    return np.asarray(indices.to_numpy(zero_copy_only=False))


def value_hashes(column: pa.Array | pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """Hash of (seed, canonical value) for each row; missing ones hash alike: [n] uint64, its bits not yet mixed."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return np.concatenate([_hashes(canonical(chunk), seed) for chunk in chunks] or [np.zeros(0, np.uint64)])


def value_numbers(column: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Integers of up to 18 digits as they are, other values as 64 bits of hash; and which are missing: [n], [n].

    Equal values have equal numbers, whatever their type; integers of a column never have the same by chance.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_numbers(unwrapped(chunk)) for chunk in chunks]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return np.concatenate([values for values, _ in parts]), np.concatenate([absent for _, absent in parts])


def _numbers(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if pa.types.is_integer(array.type):
        absent = array.is_null().to_numpy(zero_copy_only=False)
        values = pc.fill_null(array, pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
        whole = (values < WHOLE) & (values > -WHOLE) if array.type.bit_width == 64 else np.True_
        if np.all(whole):
            return values.astype(np.int64, copy=False), absent
    texts = canonical(array)
    absent = texts.is_null().to_numpy(zero_copy_only=False)
    hashes = _hashes(texts, 0).view(np.int64)
    if is_text(array.type) or pa.types.is_binary(array.type):
        return hashes, absent
    short = pc.fill_null(pc.match_substring_regex(texts, r"^-?[0-9]{1,18}$"), False)
    values = pc.if_else(short, texts, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return np.where(short.to_numpy(zero_copy_only=False), values, hashes), absent


def _hashes(texts: pa.Array, seed: int) -> NDArray[np.uint64]:
    absent = texts.is_null().to_numpy(zero_copy_only=False)
    texts = pc.fill_null(texts, pa.scalar("", texts.type) if pa.types.is_string(texts.type) else b"")
    low = murmur3_32(texts, seed & 0xFFFFFFFF).astype(np.uint64)
    high = murmur3_32(texts, (seed + 0x9747B28C) & 0xFFFFFFFF).astype(np.uint64)
    hashes = (high << np.uint64(32)) | low
    hashes[absent] ^= np.uint64(MISSING_HASH)
    return hashes


def joined_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables; a column that is of several types is written canonically."""
    if all(table.schema.equals(tables[0].schema) for table in tables):
        return pa.concat_tables(tables)
    names = tables[0].column_names
    return pa.table({name: _joined([table.column(name) for table in tables]) for name in names})


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    chunks, kinds = [chunk for column in columns for chunk in column.chunks], {column.type for column in columns}
    if len(kinds) == 1:
        return pa.chunked_array(chunks, kinds.pop())
    chunks = [canonical(chunk) for chunk in chunks]
    if any(pa.types.is_binary(chunk.type) for chunk in chunks):
        return pa.chunked_array([chunk.cast(pa.binary()) for chunk in chunks], pa.binary())
    return pa.chunked_array(chunks, pa.string())


# ── types that wrap others ──────────────────────────────────────────────────────────────────────────────────────────


def unwrapped(array: pa.Array) -> pa.Array:
    """The same values in an ordinary type: without extension, dictionary, run ends, views or 64-bit offsets.

    Text comes as string, bytes of any kind as binary.
    """
    array = _stored(array)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return unwrapped(array.dictionary).take(array.indices)
    if is_text(kind):
        return array if pa.types.is_string(kind) else array.cast(pa.string())
    return array.cast(pa.binary()) if is_bytes(kind) and not pa.types.is_binary(kind) else array


def _stored(array: pa.Array) -> pa.Array:
    """An array as it is stored: extensions taken off, runs as a dictionary of their values."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _stored(array.storage)
    if pa.types.is_run_end_encoded(kind):
        rows = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(array.run_ends.to_numpy(), rows, side="right")
        return pa.DictionaryArray.from_arrays(pa.array(runs, pa.int64()), unwrapped(array.values))
    return array


def _dictionary(array: pa.Array) -> pa.DictionaryArray:
    """Distinct values and codes; Arrow finds none of half floats and of narrow decimals."""
    kind = array.type
    if pa.types.is_float16(kind):
        array = array.cast(pa.float64())
    elif pa.types.is_decimal(kind) and kind.bit_width < 128:
        array = array.cast(pa.decimal128(kind.precision, kind.scale))
    return array.dictionary_encode()


def _on_distinct(texts_of: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Array], pa.Array]:
    """Texts of distinct values, for kinds of values that take long to write."""

    def texts(array: pa.Array) -> pa.Array:
        encoded = _dictionary(array)
        return texts_of(encoded.dictionary).take(encoded.indices)

    return texts


def _readable(texts: pa.Array) -> pa.Array:
    """Texts as they are; bytes as the text that they encode, else as hexadecimal digits."""
    if not pa.types.is_binary(texts.type):
        return texts
    try:
        return texts.cast(pa.string())
    except pa.ArrowException:
        return pa.array([None if value is None else _readable_bytes(value) for value in texts.to_pylist()], pa.string())


def _readable_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "0x" + value.hex()


# ── how each kind of value is written ───────────────────────────────────────────────────────────────────────────────


def _nulls(array: pa.Array) -> pa.Array:
    return pa.nulls(len(array), pa.string())


def _floats(array: pa.Array) -> pa.Array:
    values = np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        whole = (np.abs(values) < 2.0**63) & (values == np.trunc(values))
    integers = np.where(whole, values, 0).astype(np.int64)
    texts = pa.array(integers, mask=missing).cast(pa.string())
    if (whole | missing).all():
        return texts
    written = pa.array(values, mask=missing).cast(pa.string())
    texts = pc.if_else(pa.array(whole), texts, written)
    large = np.flatnonzero((np.abs(values) >= 2.0**63) & (np.abs(values) < 10.0**_DIGITS))
    return _replaced(texts, large, [str(int(value)) for value in values[large].tolist()])


def _decimals(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if array.type.scale > 0:
        trimmed = pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")
        texts = pc.if_else(pc.match_substring(texts, "E"), texts, trimmed)
    odd = pc.fill_null(pc.match_substring_regex(texts, r"[.E]"), False).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(odd)
    return _replaced(texts, places, [_decimal_text(text) for text in texts.take(pa.array(places)).to_pylist()])


def _decimal_text(text: str) -> str:
    """The text of a decimal with an exponent or a point.

    >>> _decimal_text("1.00E+2"), _decimal_text("0.50"), _decimal_text("1E-7")
    ('100', '0.5', '1e-7')
    """
    value = _EXACT.normalize(Decimal(text))
    if value == value.to_integral_value(context=_EXACT):
        return format(value, "f")
    as_float = str(pa.scalar(float(value)).cast(pa.string()))
    return as_float if Decimal(as_float) == value else format(value, "f")


def _instants(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_date32(kind):
        array, unit = array.cast(pa.timestamp("s")), "s"
    else:
        unit = "ms" if pa.types.is_date64(kind) else kind.unit
        array = array.cast(pa.int64()).cast(pa.timestamp(unit))  # in UTC, without a zone
    texts = array.cast(pa.string())
    if unit != "s":
        texts = _without_zeros(texts)
    texts = pc.replace_substring_regex(texts, r" 00:00:00$", "")
    beyond = np.flatnonzero(pc.fill_null(pc.starts_with(texts, "<"), False).to_numpy(zero_copy_only=False))
    counts = array.cast(pa.int64()).take(pa.array(beyond)).to_pylist()
    return _replaced(texts, beyond, [f"{_seconds(count, unit)} s" for count in counts])  # years of five digits


def _times_of_day(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    return texts if array.type.unit == "s" else _without_zeros(texts)


def _durations(array: pa.Array) -> pa.Array:
    counts, unit = array.cast(pa.int64()).to_pylist(), array.type.unit
    return pa.array([None if count is None else f"{_seconds(count, unit)} s" for count in counts], pa.string())


def _seconds(count: int, unit: str) -> str:
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    return format(_EXACT.normalize(Decimal(count).scaleb(-digits, _EXACT)), "f")


def _without_zeros(texts: pa.Array) -> pa.Array:
    """Times of day that have decimals, without the zeros at their end."""
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _replaced(texts: pa.Array, places: NDArray[np.int64], values: list[str]) -> pa.Array:
    """The texts with those at some places replaced."""
    if not len(places):
        return texts
    mask = np.zeros(len(texts), bool)
    mask[places] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(values, pa.string()))


def _is_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


_WAYS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (pa.types.is_null, _nulls),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _on_distinct(_decimals)),
    (_is_instant, _on_distinct(_instants)),
    (pa.types.is_time, _times_of_day),
    (pa.types.is_duration, _on_distinct(_durations)),
)
"""How values of each kind that are neither text, bytes, booleans nor integers are written."""
