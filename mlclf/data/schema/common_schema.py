"""One schema for all shards, and the rows brought to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import pyarrow as pa

from mlclf.data.arrow.arrays import is_text, one_array
from mlclf.data.arrow.materialized import materialized_field, materialized_type
from mlclf.data.parquet.plan import Plan, Unit
from mlclf.errors import DataError
from mlclf.messages import first_line, listed


@dataclass
class _Column:
    """A column of the unified schema: its field, and each of its types with the first file that has it."""

    field: pa.Field
    found: dict[pa.DataType, str]
    shards: int = 1


def unified_schema(plan: Plan) -> pa.Schema:
    """Return one schema for all shards, the same whatever their order but for that in which columns turn up.

    Metadata is kept where all shards agree on it. A dictionary column stays one if it is one in every shard.

    Raises:
        DataError: types do not go together, or there is no column; names every such column once.
    """
    columns: dict[str, _Column] = {}
    for shard in plan.shards:
        for found in shard.schema:
            known = columns.get(found.name)
            if known is None:
                columns[found.name] = _Column(found, {found.type: shard.source.name})
                continue
            known.shards += 1
            known.found.setdefault(found.type, shard.source.name)
            metadata = _agreed([known.field.metadata, found.metadata])
            nullable = known.field.nullable or found.nullable
            known.field = pa.field(found.name, known.field.type, nullable, metadata)
    if not columns:
        raise DataError("the data has no columns; check the path or the export that wrote the files")
    kinds = {name: merged_type(list(column.found)) for name, column in columns.items()}
    problems = [_problem(name, columns[name].found) for name, kind in kinds.items() if kind is None]
    if problems:
        raise DataError(listed(problems) + "\ncast it where the files are written")
    everywhere = len(plan.shards)
    fields = [
        column.field.with_type(kinds[name]).with_nullable(column.field.nullable or column.shards < everywhere)
        for name, column in columns.items()
    ]
    return pa.schema(fields, _agreed([shard.schema.metadata for shard in plan.shards]))


def _problem(name: str, found: Mapping[pa.DataType, str]) -> str:
    """Names the first two types that do not go together."""
    pairs = list(combinations(found, 2))
    one, other = next((pair for pair in pairs if merged_type(pair) is None), pairs[-1])
    return f"column {name!r} must have types that go together, got {one} in {found[one]} and {other} in {found[other]}"


def merged_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """The narrowest type that holds the values of all; None where they do not go together.

    >>> str(merged_type([pa.int8(), pa.decimal128(4, 2), pa.bool_()]))
    'decimal128(5, 2)'
    """
    kinds = list(dict.fromkeys(map(_unordered, kinds)))
    if len(kinds) == 1:
        return kinds[0]
    stored = {
        kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind for kind in map(materialized_type, kinds)
    }
    kinds = sorted({materialized_type(kind) for kind in kinds} - {pa.null()}, key=str)
    if len(kinds) == 1:
        return kinds[0]
    kinds = sorted(stored - {pa.null()}, key=str)
    if len(kinds) == 1:
        return kinds[0]
    if all(map(_is_number, kinds)):
        return _number_type(kinds)
    if all(pa.types.is_date(kind) or pa.types.is_timestamp(kind) for kind in kinds):
        return _instant_type(kinds)
    merged: pa.DataType | None = kinds[0]
    for kind in kinds[1:]:
        merged = None if merged is None else _merged_pair(merged, kind)
    return merged


def _unordered(kind: pa.DataType) -> pa.DataType:
    """A type whose dictionary, if it has one, has room for the values of all shards, in no order of their own."""
    return (
        pa.dictionary(pa.int32(), materialized_type(kind.value_type))
        if pa.types.is_dictionary(kind)
        else materialized_type(kind)
    )


def _number_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    types = pa.types
    kinds = [kind for kind in kinds if not types.is_boolean(kind)]  # every other type holds 0 and 1
    decimals = [kind for kind in kinds if types.is_decimal(kind)]
    integers = [kind for kind in kinds if types.is_integer(kind)]
    floats = [kind.bit_width for kind in kinds if types.is_floating(kind)]
    if floats:  # of twice the bits of integers, up to 64
        width = max(*floats, *(min(64, 2 * kind.bit_width) for kind in integers), 64 if decimals else 0)
        return {16: pa.float16(), 32: pa.float32()}.get(width, pa.float64())
    if not decimals:
        return reduce(_merged_pair, kinds)
    scale = max(0, *(kind.scale for kind in decimals))
    whole = max(*(kind.precision - kind.scale for kind in decimals), *map(_digits, integers), 1)
    if whole + scale > 76:
        return None
    wide = whole + scale > 38 or any(types.is_decimal256(kind) for kind in decimals)
    return pa.decimal256(whole + scale, scale) if wide else pa.decimal128(whole + scale, scale)


def _instant_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Of the finest unit, in UTC where there are several zones; None for instants beside times without a zone."""
    stamps = [kind for kind in kinds if pa.types.is_timestamp(kind)]
    if not stamps:
        return pa.date64()
    zones = {kind.tz for kind in stamps} | ({None} if len(stamps) < len(kinds) else set())
    if len(zones) > 1 and None in zones:
        return None
    units = [*(kind.unit for kind in stamps), *("ms" for kind in kinds if pa.types.is_date64(kind))]
    zone = zones.pop() if len(zones) == 1 else "UTC"
    return pa.timestamp(max(units, key=["s", "ms", "us", "ns"].index), zone)


def _digits(kind: pa.DataType) -> int:
    """Decimal digits of the largest integers of a type."""
    return len(str(2 ** (kind.bit_width - pa.types.is_signed_integer(kind)) - 1))


def _merged_pair(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if kind == other:
        return kind
    if is_text(kind) != is_text(other):
        return None  # Arrow would make them binary
    sizes = {each.list_size if pa.types.is_fixed_size_list(each) else None for each in (kind, other)}
    if len(sizes) > 1:
        return None  # Arrow would make them lists of any length
    try:
        schemas = [pa.schema([pa.field("", each)]) for each in (kind, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _agreed(metadata: Sequence[dict[bytes, bytes] | None]) -> dict[bytes, bytes] | None:
    """The entries that all have."""
    first, *others = [each or {} for each in metadata]
    return {key: value for key, value in first.items() if all(each.get(key) == value for each in others)} or None


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())  # Arrow makes no decimals of booleans
    return array.cast(kind)


def materialized_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the rows while they are dealt."""
    return pa.schema([materialized_field(each) for each in schema])


def aligned(table: pa.Table, schema: pa.Schema, plan: Plan, unit: Unit, first_row: int) -> list[pa.Array]:
    """The columns of the schema: cast where they are of another type, null where they are missing.

    Raises:
        DataError: a value does not fit the type that the column has by all files together.
    """
    arrays = []
    for column in schema:
        if column.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, column.type))
            continue
        array = one_array(table.column(column.name), keeps_dictionary=True)
        try:
            arrays.append(array if array.type == column.type else _cast(array, column.type))
        except pa.ArrowException as error:
            place = plan.place_of(plan.groups_of(first_row, table.num_rows))
            raise DataError(
                f"{place} column {column.name!r}: {array.type} must become {column.type}, the type that holds "
                f"what all files have ({first_line(error)}); cast it where the files are written"
            ) from error
    return arrays
