"""Families of Arrow types, as far as roles of columns depend on them: numbers, text, lists of either, and others."""

from __future__ import annotations

import pyarrow as pa

from mlclf.data.arrow.arrays import is_bytes, is_list, is_text

FAMILY_NAMES = {
    "number": "numbers",
    "string": "strings",
    "strings": "lists of strings",
    "integers": "lists of integers",
    "floats": "lists of floats",
    "bools": "lists of booleans",
    "vector": "vectors",
    "bytes": "bytes",
    "null": "only nulls",
    "empty": "only empty lists",
    "other": "values of a type that cannot be used",
}

LISTS = ("strings", "integers", "empty")
"""Families of lists whose elements are tokens or tags."""

NUMBER_LISTS = ("floats", "integers", "bools")
"""Families of lists that a declared embedding may be of, all of one length."""

SINGLE = ("number", "string", "bytes")
"""Families of values that can be compared with each other."""

TEXTS = ("string", "bytes")
"""Families of text, annotated as such or not."""

UNDECIDED = ("null", "empty")
"""Families that say nothing against what a column is in the other shards."""


def family(kind: pa.DataType) -> str:
    """What a column of this type can be.

    `number`, `string`, `bytes`, `strings`, `integers`, `floats` and `bools` (lists), `vector:N`, `null`, `empty`
    (lists of null: no list has an element), or `other`.
    """
    types = pa.types
    if types.is_dictionary(kind):
        return family(kind.value_type)
    if types.is_null(kind):
        return "null"
    if types.is_primitive(kind) or types.is_decimal(kind):
        return "number"
    if is_text(kind):
        return "string"
    if is_bytes(kind):
        return "bytes"
    if types.is_fixed_size_list(kind):
        numbers = any(is_one(kind.value_type) for is_one in (types.is_floating, types.is_integer, types.is_boolean))
        return f"vector:{kind.list_size}" if numbers and kind.list_size else "other"
    if is_list(kind):
        if types.is_floating(kind.value_type):
            return "floats"
        if types.is_integer(kind.value_type):
            return "integers"
        if types.is_boolean(kind.value_type):
            return "bools"
        return {"string": "strings", "null": "empty"}.get(family(kind.value_type), "other")
    return "other"
