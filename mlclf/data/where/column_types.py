"""In which type the values of a column are compared, alone or with another column."""

from __future__ import annotations

import pyarrow as pa

from mlclf.data.arrow.arrays import is_text

NUMBER, TEXT, TIME, NULL = "number", "text", "time", "null"

SECOND = 10**9
UNITS = {"s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
DAY = 86_400 * SECOND


def values_type(kind: pa.DataType) -> pa.DataType:
    """The type itself; of a dictionary, that of its values."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def family(kind: pa.DataType) -> str | None:
    """Whether a type is compared as NUMBER, TEXT, TIME or NULL; None where it cannot be. A dictionary is its values."""
    types, kind = pa.types, values_type(kind)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return NUMBER
    if types.is_date(kind) or types.is_timestamp(kind):
        return TIME
    if is_text(kind):
        return TEXT
    return NULL if types.is_null(kind) else None


def compared_type(kind: pa.DataType) -> pa.DataType:
    """The type that values are compared in: pyarrow has no kernels for some, and booleans are 0 and 1."""
    kind = values_type(kind)
    if pa.types.is_boolean(kind):
        return pa.uint8()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def unit_nanoseconds(kind: pa.DataType) -> int:
    """Nanoseconds of one unit of a type of dates or times."""
    if pa.types.is_date32(kind):
        return DAY
    return UNITS["ms" if pa.types.is_date64(kind) else kind.unit]


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """The type in which two columns of one family are compared: exact, but for float64 where one is a float."""
    types, kinds = pa.types, (compared_type(left), compared_type(right))
    if kinds[0] == kinds[1]:
        return kinds[0]
    if family(left) == TEXT:
        return pa.large_string()
    if any(map(types.is_floating, kinds)):
        return pa.float64()
    if all(map(types.is_integer, kinds)):
        signed = [types.is_signed_integer(kind) for kind in kinds]
        if all(signed) or pa.uint64() not in kinds:
            return pa.int64()
        return pa.decimal128(20, 0) if any(signed) else pa.uint64()
    decimals = [kind if types.is_decimal(kind) else pa.decimal128(20, 0) for kind in kinds]
    scale = max(kind.scale for kind in decimals)
    digits = max(kind.precision - kind.scale for kind in decimals) + scale
    return pa.decimal256(digits, scale) if digits <= 76 else pa.float64()
