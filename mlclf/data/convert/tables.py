"""Files of tables, CSV and TSV, Arrow IPC and Parquet → Arrow tables in pieces of bounded size."""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pv

from mlclf.data.convert.lines import open_input
from mlclf.data.convert.unified import aligned, plain_schema, unified_schema
from mlclf.data.decode import decode_unit
from mlclf.data.layouts import laid_out_column
from mlclf.data.shards import make_plan
from mlclf.errors import DataError
from mlclf.messages import first_line

CSV_BLOCK_BYTES = 8 << 20
"""The types of columns are found from the first so many bytes."""

PIECE_ROWS = 16_384
SLICE_BYTES = 32 << 20
_CONVERSION = re.compile(r"In CSV column #(\d+): .*?(?:CSV conversion error to (.+?): invalid value '(.*)')", re.DOTALL)

TABLES = ("csv", "tsv", "arrow", "parquet")

Piece = tuple[pa.Table, int]
"""Rows, and how many bytes of the file were read."""


@dataclass(frozen=True)
class CsvFormat:
    """How lines become rows.

    Attributes:
        delimiter: between values.
        quotes: whether a value may be in double quotes.
        names: of the columns of a file without a header; None where the first line has them.
    """

    delimiter: str = ","
    quotes: bool = True
    names: tuple[str, ...] | None = None


def csv_tables(path: Path, form: CsvFormat, types: Mapping[str, pa.DataType]) -> Iterator[Piece]:
    """Yield the rows of a file; columns without a type get that of their first 8 MiB.

    Args:
        types: column or glob → type.

    Raises:
        DataError: there is no header, or a row or a value does not fit; names the line.
    """
    try:
        found = column_names(path, form)
        stored, contents = open_input(path)
        with stored, contents, _open(contents, form, types_of_columns(types, found)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]), stored.tell()
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(_csv_problem(path, form, str(error))) from error


def column_names(path: Path, form: CsvFormat) -> list[str]:
    """The names given, or those of the first line, which must differ from each other."""
    stored, contents = open_input(path)
    with stored, contents, _open(contents, form, {}) as reader:
        found = list(reader.schema.names)
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise DataError(f"{path} line 1: column names must be distinct, got {twice[0]!r} more than once; rename one")
    return found


def types_of_columns(types: Mapping[str, pa.DataType], names: Sequence[str]) -> dict[str, pa.DataType]:
    """The type of each column that has one: that of its name, else that of the last glob that fits.

    >>> types_of_columns({"C1": pa.int64(), "C*": pa.string()}, ["label", "C1", "C2"])
    {'C1': DataType(int64), 'C2': DataType(string)}
    """
    chosen: dict[str, pa.DataType] = {}
    for pattern, kind in types.items():
        fitting = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        chosen |= {name: kind for name in fitting if name == pattern or name not in types}
    return {name: chosen[name] for name in names if name in chosen}


def _open(contents: pa.NativeFile, form: CsvFormat, types: Mapping[str, pa.DataType]) -> pv.CSVStreamingReader:
    names = None if form.names is None else list(form.names)
    return pv.open_csv(
        contents,
        pv.ReadOptions(block_size=CSV_BLOCK_BYTES, column_names=names),
        pv.ParseOptions(delimiter=form.delimiter, quote_char='"' if form.quotes else False, newlines_in_values=False),
        pv.ConvertOptions(column_types=dict(types), strings_can_be_null=True, quoted_strings_can_be_null=False),
    )


def _csv_problem(path: Path, form: CsvFormat, message: str) -> str:
    """The message with the first line at fault, which is looked for slowly."""
    conversion = _CONVERSION.search(message)
    try:
        with _text(path) as file:
            rows = csv.reader(
                file, delimiter=form.delimiter, quoting=csv.QUOTE_MINIMAL if form.quotes else csv.QUOTE_NONE
            )
            header = next(rows, None) if form.names is None else list(form.names)
            if header is None:
                return f"{path}: must begin with a line of column names, and is empty; check the file"
            for row in rows:
                if row and len(row) != len(header):
                    given = "as in the header" if form.names is None else "as many as --names"
                    return f"{path} line {rows.line_num}: expected {len(header)} values, {given}, got {len(row)}"
                if conversion and row and row[int(conversion[1])] == conversion[3]:
                    column, kind, value = header[int(conversion[1])], conversion[2], conversion[3]
                    return (
                        f"{path} line {rows.line_num} column {column!r}: expected {kind}, the type of the rows before, "
                        f"got {value[:60]!r}; mend it, or name another type with --type {column}=TYPE"
                    )
    except (csv.Error, OSError, UnicodeDecodeError, EOFError):
        pass
    return f"{path}: cannot be read ({message.splitlines()[0][:300] if message else 'damaged'}); mend the file"


def _text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def arrow_tables(path: Path) -> Iterator[Piece]:
    """Yield the rows of an Arrow IPC file or stream (Feather version 2 is such a file).

    Raises:
        DataError: it is neither, or damaged.
    """
    stored, contents = open_input(path)
    with stored, contents:
        try:
            for batch in _batches(stored, contents):
                kinds = plain_schema(batch.schema)
                rows = max(1, int(batch.num_rows * SLICE_BYTES / max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, rows):
                    table = pa.Table.from_batches([batch.slice(start, rows)])
                    table.validate(full=True)
                    yield _without_index(_as_plain(table, kinds)), stored.tell()
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DataError(
                f"{path}: must be an Arrow IPC file or stream ({first_line(error)}); write it again"
            ) from error


def _as_plain(table: pa.Table, kinds: pa.Schema) -> pa.Table:
    """The rows with dictionaries looked up and views laid out."""
    if kinds == table.schema:
        return table
    columns = [column.cast(kind.type) for column, kind in zip(map(laid_out_column, table.columns), kinds, strict=True)]
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
    schema = plain_schema(unified_schema(plan))
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


def tables(path: Path, kind: str, form: CsvFormat, types: Mapping[str, pa.DataType]) -> Iterator[Piece]:
    """Yield the rows of a file of one of `TABLES`; `form` and `types` are for csv and tsv."""
    if kind in ("csv", "tsv"):
        return csv_tables(path, form, types)
    return arrow_tables(path) if kind == "arrow" else parquet_tables(path)
