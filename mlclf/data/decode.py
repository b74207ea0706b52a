"""One unit → Arrow tables of bounded size, checked against the footer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from mlclf.data.shards import Plan, Shard, Unit, first_line
from mlclf.errors import DataError

DECODE_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError, OverflowError)
"""How pyarrow refuses a damaged file; none of them names the file."""


def decode_unit(plan: Plan, unit: Unit, columns: Sequence[str], piece_rows: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, table) for consecutive pieces of a unit, each of at most `piece_rows` rows.

    A row group larger than a piece is decoded page by page, so memory stays near one piece.

    Raises:
        DataError: the bytes cannot be decoded, or the rows differ from what the footer says; names file, row group
            and column.
    """
    shard = plan.shards[unit.shard]
    stored = [name for name in columns if name in shard.schema.names and not _is_partition(shard, name)]
    row = unit.first_row
    end = unit.first_row + unit.rows
    try:
        for batch in _record_batches(shard, unit, stored, piece_rows):
            table = _with_partitions(pa.Table.from_batches([batch]), shard, columns)
            yield row, table
            row += table.num_rows
    except DECODE_ERRORS as error:
        raise DataError(_decode_problem(plan, unit, stored, error)) from error
    if row != end:
        raise DataError(
            f"{plan.place(unit)}: the footer says {unit.rows} rows but {row - unit.first_row} "
            "were read; the file is damaged, write it again"
        )


def _is_partition(shard: Shard, name: str) -> bool:
    return name in shard.partition


def _record_batches(shard: Shard, unit: Unit, columns: Sequence[str], piece_rows: int) -> Iterator[pa.RecordBatch]:
    if not columns:
        for start in range(0, unit.rows, piece_rows):
            size = min(piece_rows, unit.rows - start)
            yield pa.record_batch([pa.nulls(size)], names=["__rows__"])
        return
    with shard.open() as file:
        for batch in file.iter_batches(
            batch_size=piece_rows, row_groups=list(unit.groups), columns=list(columns), use_threads=False
        ):
            missing = set(columns) - set(batch.schema.names)
            if missing:
                raise ValueError(f"column {min(missing)!r} is missing")
            if batch.num_rows:
                yield batch


def _with_partitions(table: pa.Table, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Add hive partition columns and leave exactly `columns`, in that order."""
    arrays = {name: table.column(name) for name in table.column_names}
    for name in columns:
        if name in shard.partition:
            kind = shard.schema.field(name).type
            scalar = pa.scalar(shard.partition[name], pa.string()).cast(kind)
            arrays[name] = pa.chunked_array([pa.repeat(scalar, table.num_rows)])
    kept = {name: arrays[name] for name in columns}
    return pa.table(kept) if kept else table


def _decode_problem(plan: Plan, unit: Unit, columns: Sequence[str], error: BaseException) -> str:
    """Name the first column of the unit that cannot be decoded, where one alone shows it."""
    shard, where = plan.shards[unit.shard], plan.place(unit)
    for name in columns:
        try:
            with shard.open() as file:
                for _ in file.iter_batches(4096, row_groups=list(unit.groups), columns=[name], use_threads=False):
                    pass
        except DECODE_ERRORS as cause:
            where, error = f"{where} column {name!r}", cause
            break
    return f"{where}: cannot be decoded ({first_line(error)}); the file is damaged, write it again"
