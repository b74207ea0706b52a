"""One schema for all shards, and the rows brought to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from mlclf.data.layouts import plain, plain_field
from mlclf.data.shards import Plan, Unit
from mlclf.errors import DataError
from mlclf.messages import first_line, listed


@dataclass
class _Column:
    """A column of the unified schema: its field, and the type and the file that last decided it."""

    field: pa.Field
    kind: pa.DataType
    file: str
    shards: int = 1


def unified_schema(plan: Plan) -> pa.Schema:
    """Return one schema for all shards, columns in the order in which they turn up.

    Metadata is kept where all shards agree on it. A dictionary column stays one if it is one in every shard.

    Raises:
        DataError: types do not go together, or there is no column; names every such column once.
    """
    columns: dict[str, _Column] = {}
    problems: dict[str, str] = {}
    for shard in plan.shards:
        for found in shard.schema:
            name, file = found.name, shard.source.name
            known = columns.get(name)
            if known is None:
                columns[name] = _Column(_unordered(found), found.type, file)
                continue
            known.shards += 1
            merged = _merged(known.field, found)
            if merged is None:
                problems.setdefault(
                    name,
                    f"column {name!r} must have types that go together, got {known.kind} in {known.file} and "
                    f"{found.type} in {file}",
                )
            elif merged.type != known.field.type:
                columns[name] = _Column(merged, found.type, file, known.shards)
            else:
                known.field = merged
    if problems:
        raise DataError(listed(list(problems.values())) + "\ncast it where the files are written")
    if not columns:
        raise DataError("the data has no columns; check the path or the export that wrote the files")
    everywhere = len(plan.shards)
    fields = [c.field if c.shards == everywhere else c.field.with_nullable(True) for c in columns.values()]
    return pa.schema(fields, _agreed([shard.schema.metadata for shard in plan.shards]))


def _unordered(found: pa.Field) -> pa.Field:
    """A field whose dictionary, if it has one, has room for the values of all shards, in no order of their own."""
    if not pa.types.is_dictionary(found.type):
        return found.with_type(plain(found.type))
    return found.with_type(pa.dictionary(pa.int32(), plain(found.type.value_type)))


def _merged(known: pa.Field, found: pa.Field) -> pa.Field | None:
    """One field for both, None where their types do not go together."""
    metadata = _agreed([known.metadata, found.metadata])
    nullable = known.nullable or found.nullable
    kind = _merged_type(known.type, _unordered(found).type)
    return None if kind is None else pa.field(known.name, kind, nullable, metadata)


def _merged_type(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if kind == other:
        return kind
    kind, other = plain(kind), plain(other)
    if pa.types.is_null(kind) or pa.types.is_null(other):
        return other if pa.types.is_null(kind) else kind
    if _is_number(kind) and _is_number(other):  # Arrow does not merge booleans with integers
        kind, other = (pa.int8() if pa.types.is_boolean(each) else each for each in (kind, other))
    if _is_text(kind) != _is_text(other):
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


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _agreed(metadata: Sequence[dict[bytes, bytes] | None]) -> dict[bytes, bytes] | None:
    """The entries that all have."""
    first, *others = [each or {} for each in metadata]
    return {key: value for key, value in first.items() if all(each.get(key) == value for each in others)} or None


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the rows while they are dealt."""
    return pa.schema([plain_field(each) for each in schema])


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
        chunks = table.column(column.name)
        array = chunks.chunk(0) if chunks.num_chunks == 1 else pa.concat_arrays(chunks.chunks)
        try:
            arrays.append(array if array.type == column.type else array.cast(column.type))
        except pa.ArrowException as error:
            place = plan.place_of(plan.groups_of(first_row, table.num_rows))
            raise DataError(
                f"{place} column {column.name!r}: {array.type} must become {column.type}, the type that holds "
                f"what all files have ({first_line(error)}); cast it where the files are written"
            ) from error
    return arrays
