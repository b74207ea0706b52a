"""Dictionaries and views → ordinary arrays, on which every function of Arrow works."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.arrow.arrays import is_list


def materialized_type(kind: pa.DataType) -> pa.DataType:
    """The ordinary type of the same values: dictionaries looked up, views replaced by text, bytes and lists."""
    types = pa.types
    if types.is_dictionary(kind):
        return materialized_type(kind.value_type)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_map(kind):
        return pa.map_(materialized_field(kind.key_field), materialized_field(kind.item_field), kind.keys_sorted)
    if types.is_struct(kind):
        return pa.struct([materialized_field(inner) for inner in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(materialized_field(kind.value_field), kind.list_size)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(materialized_field(kind.value_field))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(materialized_field(kind.value_field))
    return kind


def materialized_field(inner: pa.Field) -> pa.Field:
    return inner.with_type(materialized_type(inner.type))


def has_views(kind: pa.DataType) -> bool:
    """Whether values of the type are views somewhere, which Arrow can neither filter nor look up."""
    types = pa.types
    if types.is_dictionary(kind):
        return has_views(kind.value_type)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return True
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return True
    return any(has_views(kind.field(index).type) for index in range(kind.num_fields))


def materialized(array: pa.Array) -> pa.Array:
    """The same values as an array of the ordinary type; text and bytes of views have offsets of 64 bits.

    Arrow casts all but dictionaries of views, which are looked up here wherever they are nested in lists and structs.
    """
    kind, types = array.type, pa.types
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return array.cast(pa.large_string() if types.is_string_view(kind) else pa.large_binary())
    if types.is_dictionary(kind):
        return materialized(array.dictionary).take(array.indices)
    if not has_views(kind):
        return array.cast(materialized_type(kind)) if materialized_type(kind) != kind else array
    if is_list(kind) and not types.is_fixed_size_list(kind):
        offsets = np.zeros(len(array) + 1, np.int64)
        np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False), out=offsets[1:])
        return pa.LargeListArray.from_arrays(pa.array(offsets), materialized(array.flatten()), mask=array.is_null())
    if types.is_struct(kind) and kind.num_fields:
        inside = [materialized(pc.struct_field(array, index)) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(inside, [inner.name for inner in kind], mask=array.is_null())
    return array.cast(materialized_type(kind))


def materialized_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values of a column of a table as ordinary arrays."""
    chunks = [materialized(chunk) for chunk in column.chunks]
    return pa.chunked_array(chunks) if chunks else pa.chunked_array([], materialized_type(column.type))
