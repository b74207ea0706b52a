"""One unit → Arrow tables of bounded size, checked against the footer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import repeat

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.arrow.arrays import is_text
from mlclf.data.arrow.materialized import materialized_column
from mlclf.data.parquet.expansion import check_expansion
from mlclf.data.parquet.plan import Plan, Unit
from mlclf.data.parquet.shards import DECODE_ERRORS, Shard, width_bytes
from mlclf.data.storage.byte_ranges import chunks_of_columns
from mlclf.errors import ChangedDataError, CorruptDataError, DataError, RemoteError
from mlclf.machine.signals import looked
from mlclf.messages import first_line

__all__ = ["DECODE_ERRORS", "check_values", "decode_unit"]

NOT_DAMAGE = (PermissionError, FileNotFoundError)
"""What says nothing of the bytes of a file."""

LARGE_BYTES = 256 << 20
"""Row groups that decode to more by their footer are looked at column by column before they are read."""

MAX_EXPANSION = 5_000
"""No codec but for made files packs so many bytes into one; with LARGE_BYTES it is taken for a decompression bomb."""

COLUMNS_BYTES = 2 << 20
"""Decoded bytes of columns that are read together, where a unit is read whole; then their pages stay in the cache."""

MAX_ROW_BYTES = 16 << 20
"""Mean bytes of a row beyond which a column cannot be read in pieces of bounded size."""


def decode_unit(
    plan: Plan, unit: Unit, columns: Sequence[str], piece_rows: int, file: pq.ParquetFile | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the first row, table) for consecutive pieces of a unit, each of `piece_rows` rows but the last.

    A row group larger than a piece is decoded page by page, so memory stays near one piece.

    Args:
        file: the shard of the unit, where it is open already; it is left so.

    Raises:
        DataError: the bytes cannot be decoded, or the rows differ from what the footer says; names file, row group
            and column.
        ChangedDataError: the file is no longer the one of the plan, before or after its rows were read.
    """
    shard = plan.shards[unit.shard]
    shard.check()
    try:
        yield from _pieces(plan, unit, columns, piece_rows, file)
    except (RemoteError, ChangedDataError):
        raise
    except DataError:
        shard.check_again()
        if len(unit.groups) > 1:
            for group in plan.groups_of(unit.first_row, unit.rows):
                alone = Unit(unit.shard, (group.index,), group.rows, group.first_row)
                for _ in _pieces(plan, alone, columns, piece_rows):
                    pass  # until the one at fault names itself
        raise
    shard.check()


def _pieces(
    plan: Plan, unit: Unit, columns: Sequence[str], piece_rows: int, file: pq.ParquetFile | None = None
) -> Iterator[tuple[int, pa.Table]]:
    shard = plan.shards[unit.shard]
    known = set(shard.schema.names).difference(shard.partition)
    stored = [name for name in columns if name in known]
    row = unit.first_row
    with suppress(*DECODE_ERRORS):  # decoding says what is wrong
        check_expansion(shard, unit, stored, piece_rows)
    if file is None and unit.rows <= piece_rows and shard.for_polars.issuperset(stored) and stored:
        table = _polars_table(shard, unit, stored)
        if table is not None:
            yield row, _with_partitions(table, shard, columns)
            return
    try:
        for table in _exactly(_record_batches(plan, unit, stored, piece_rows, file), piece_rows):
            # a damaged page can make a dictionary smaller than its indices, which pyarrow does not look at
            check_values(table.select([f.name for f in table.schema if _has_dictionaries(f.type)]), plan.place(unit))
            yield row, _with_partitions(_without_views(table, shard), shard, columns)
            row += table.num_rows
    except RemoteError:
        raise
    except NOT_DAMAGE as error:
        raise DataError(_decode_problem(plan, unit, stored, error)) from error
    except DECODE_ERRORS as error:
        raise CorruptDataError(_decode_problem(plan, unit, stored, error)) from error
    if row - unit.first_row != unit.rows:
        raise CorruptDataError(
            f"{plan.place(unit)}: the footer says {unit.rows:,} rows but {row - unit.first_row:,} were read; "
            "the file is damaged, write it again"
        )


def _has_dictionaries(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return any(_has_dictionaries(kind.field(index).type) for index in range(kind.num_fields))


def _without_views(table: pa.Table, shard: Shard) -> pa.Table:
    """The rows with views made ordinary arrays, since Arrow cannot filter views."""
    for index, name in enumerate(table.column_names):
        if name in shard.viewed:
            table = table.set_column(index, name, materialized_column(table.column(index)))
    return table


def _polars_table(shard: Shard, unit: Unit, columns: Sequence[str]) -> pa.Table | None:
    """The rows of a unit as polars decodes them; None where it does not, or gives anything but what was asked for."""
    import polars as pl

    first = sum(shard.group_rows[: unit.groups[0]])
    rows = pl.scan_parquet(shard.source.path, glob=False, hive_partitioning=False, use_statistics=False)
    try:
        frame = rows.slice(first, unit.rows).select(columns).collect()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # its panics are no Exceptions; pyarrow then reads the unit, or says what is wrong
        return None
    table: pa.Table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    is_whole = table.num_rows == unit.rows and table.column_names == list(columns)
    return table if is_whole and all(map(_is_as_stored, table.schema, columns, repeat(shard.schema))) else None


def _is_as_stored(field: pa.Field, name: str, schema: pa.Schema) -> bool:
    stored = schema.field(name).type
    return bool(field.type == stored) or (is_text(field.type) and is_text(stored))


def _exactly(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    missing = rows
    for batch in looked(batches):
        while batch.num_rows >= missing:
            yield pa.Table.from_batches([*held, batch.slice(0, missing)])
            held, batch, missing = [], batch.slice(missing), rows
        if batch.num_rows:
            held.append(batch)
            missing -= batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def _record_batches(
    plan: Plan, unit: Unit, columns: Sequence[str], piece_rows: int, opened: pq.ParquetFile | None
) -> Iterator[pa.RecordBatch]:
    if not columns:
        for start in range(0, unit.rows, piece_rows):
            yield pa.record_batch([pa.nulls(min(piece_rows, unit.rows - start))], names=["__rows__"])
        return
    shard = plan.shards[unit.shard]
    with shard.open_unit(unit.groups, columns) if opened is None else nullcontext(opened) as file:
        size = min(piece_rows, _safe_rows(plan, unit, columns, file.metadata))
        groups, names = list(unit.groups), list(columns)
        if unit.rows <= size:
            yield from _whole(file, unit, names).to_batches()
            return
        for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=names, use_threads=False):
            missing = set(names) - set(batch.schema.names)
            if missing:
                raise ValueError(f"column {min(missing)!r} is missing")
            if batch.num_rows:
                yield batch


def _whole(file: pq.ParquetFile, unit: Unit, columns: Sequence[str]) -> pa.Table:
    """All rows of a unit, a few columns after the other, so that the pages of few are held at once."""
    together = max(1, int(COLUMNS_BYTES * len(columns) / max(1.0, unit.rows * unit.row_bytes)))
    arrays: dict[str, pa.ChunkedArray] = {}
    for start in range(0, len(columns), together):
        names = list(columns[start : start + together])
        table = file.read_row_groups(list(unit.groups), columns=names, use_threads=False)
        missing = set(names) - set(table.column_names)
        if missing:
            raise ValueError(f"column {min(missing)!r} is missing")
        arrays |= {name: table.column(name) for name in names}
    return pa.table(arrays)


def _safe_rows(plan: Plan, unit: Unit, columns: Sequence[str], metadata: pq.FileMetaData) -> int:
    """Rows that decode to about LARGE_BYTES by the footer.

    Raises:
        DataError: a column is declared so large that it cannot be decoded in bounded memory.
    """
    safe = unit.rows
    for name in columns:
        width = width_bytes(plan.shards[unit.shard].schema.field(name).type)
        if width > MAX_ROW_BYTES:
            raise DataError(
                f"{plan.place(unit)} column {name!r}: a row must take at most {MAX_ROW_BYTES:,} bytes, the schema says "
                f"{int(width):,}; write the file again, or leave the column out of a fit with --exclude"
            )
        safe = min(safe, int(LARGE_BYTES / max(1.0, width)))
    for index in unit.groups:
        group = metadata.row_group(index)
        if group.total_byte_size > LARGE_BYTES or group.total_byte_size > MAX_ROW_BYTES * group.num_rows:
            chunks = chunks_of_columns(metadata, index, columns)
            row_bytes = (
                sum(_declared_bytes(plan, unit, group, index, name, chunks.get(name, ())) for name in columns)
                / group.num_rows
            )
            safe = min(safe, int(LARGE_BYTES / max(1.0, row_bytes)))
    return max(1, safe)


def _declared_bytes(
    plan: Plan,
    unit: Unit,
    group: pq.RowGroupMetaData,
    index: int,
    name: str,
    chunks: Sequence[pq.ColumnChunkMetaData],
) -> int:
    """Bytes of one column of a row group when decompressed, by the footer."""
    declared = int(sum(chunk.total_uncompressed_size for chunk in chunks))
    stored = int(sum(chunk.total_compressed_size for chunk in chunks))
    where = f"{plan.shards[unit.shard].source.name} row group {index} column {name!r}"
    if declared > LARGE_BYTES and declared > MAX_EXPANSION * max(1, stored):
        raise CorruptDataError(
            f"{where}: {stored:,} bytes are declared to decompress to {declared:,}, which no honest file does; "
            "the file is damaged or hostile, write it again, or leave the column out of a fit with --exclude"
        )
    if declared > MAX_ROW_BYTES * group.num_rows:
        raise DataError(
            f"{where}: a row must take at most {MAX_ROW_BYTES:,} bytes, the footer says "
            f"{declared // group.num_rows:,}; write the file again, or leave the column out of a fit with --exclude"
        )
    return declared


def damage_of(plan: Plan, index: int, columns: Sequence[str], piece_rows: int) -> str | None:
    """What is wrong with the bytes of a unit, or None where every value of the columns can be read."""
    try:
        for first_row, table in decode_unit(plan, plan.units[index], columns, piece_rows):
            check_values(table, plan.locate(first_row))
    except CorruptDataError as error:
        return str(error)
    return None


def check_values(table: pa.Table, place: str) -> None:
    """Look at every value of a table, which decoding does not: UTF-8, and codes beyond their dictionary.

    Raises:
        DataError: names the column.
    """
    for name in table.column_names:
        try:
            table.column(name).validate(full=True)
        except pa.ArrowException as error:
            raise CorruptDataError(
                f"{place} column {name!r}: holds values that cannot be read ({first_line(error)}); "
                "write the file again, text as UTF-8"
            ) from error


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
        except RemoteError:
            raise
        except DECODE_ERRORS as cause:
            where, error = f"{where} column {name!r}", cause
            break
    what = (
        "check the path and who may read it" if isinstance(error, NOT_DAMAGE) else "the file is damaged, write it again"
    )
    return f"{where}: cannot be decoded ({first_line(error)}); {what}"
