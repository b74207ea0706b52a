"""Files of tables, Arrow IPC and Parquet → Arrow tables in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mlclf.data.arrow.materialized import materialized_column
from mlclf.data.convert.formats.text_lines import open_input
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.common_schema import aligned, materialized_schema, unified_schema
from mlclf.errors import DataError
from mlclf.messages import first_line

PIECE_ROWS = 16_384
SLICE_BYTES = 32 << 20
TABLES = ("arrow", "parquet")

Piece = tuple[pa.Table, int]
"""Rows, and how many bytes of the file were read."""


def arrow_tables(path: Path) -> Iterator[Piece]:
    """Yield the rows of an Arrow IPC file or stream (Feather version 2 is such a file).

    Raises:
        DataError: it is neither, or damaged.
    """
    stored, contents = open_input(path)
    with stored, contents:
        try:
            for batch in _batches(stored, contents):
                kinds = materialized_schema(batch.schema)
                rows = max(1, int(batch.num_rows * SLICE_BYTES / max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, rows):
                    table = pa.Table.from_batches([batch.slice(start, rows)])
                    table.validate(full=True)
                    yield _without_index(_as_materialized(table, kinds)), stored.tell()
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DataError(
                f"{path}: must be an Arrow IPC file or stream ({first_line(error)}); write it again"
            ) from error


def _as_materialized(table: pa.Table, kinds: pa.Schema) -> pa.Table:
    """The rows with dictionaries and views made ordinary arrays."""
    if kinds == table.schema:
        return table
    columns = [
        column.cast(kind.type) for column, kind in zip(map(materialized_column, table.columns), kinds, strict=True)
    ]
    return pa.table(columns, schema=kinds)


def _batches(stored: pa.NativeFile, contents: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    if contents is stored and stored.read(6) == b"ARROW1":
        file = pa.ipc.open_file(stored)
        yield from (file.get_batch(index) for index in range(file.num_record_batches))
        return
    if contents is stored:
        stored.seek(0)
    yield from pa.ipc.open_stream(contents)


def parquet_tables(path: Path) -> Iterator[Piece]:
    """Yield the rows of a Parquet file, pandas' index columns left out.

    Raises:
        DataError: it is damaged.
    """
    plan = make_plan([str(path)])
    schema = materialized_schema(unified_schema(plan))
    for unit in plan.units:
        rows = int(max(1, min(PIECE_ROWS, SLICE_BYTES / max(1.0, unit.row_bytes))))
        for first_row, table in decode_unit(plan, unit, schema.names, rows):
            whole = pa.Table.from_arrays(aligned(table, schema, plan, unit, first_row), schema=schema)
            share = (first_row + table.num_rows) / plan.rows
            yield _without_index(whole), int(path.stat().st_size * share)


def _without_index(table: pa.Table) -> pa.Table:
    """The columns that pandas would show."""
    kept = [name for name in table.column_names if not name.startswith("__index_level_")]
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    return table.select(kept).replace_schema_metadata(metadata or None)


def tables(path: Path, kind: str) -> Iterator[Piece]:
    """Yield the rows of a file of one of `TABLES`."""
    return arrow_tables(path) if kind == "arrow" else parquet_tables(path)
