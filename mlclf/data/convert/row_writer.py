"""Rows written in the order in which they come: row groups and files are begun as they fill up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.convert.row_groups import FILE_BYTES, FILE_GROUPS, GROUP_ROWS, group_rows, open_writer
from mlclf.files import committed


class RowsWritten:
    """Writes tables of one schema to `part-NNNNN.parquet` files in a folder.

    It holds the rows of about one row group.

    Args:
        folder: where the files go.
        schema: of the rows; its metadata is written.
        budget: bytes that row groups are made for.
    """

    def __init__(self, folder: Path, schema: pa.Schema, budget: int) -> None:
        self.schema, self.rows, self.files, self.row_groups = schema, 0, 0, 0
        self._folder, self._budget = folder, budget
        self._held: list[pa.Table] = []
        self._held_rows, self._held_bytes = 0, 0
        self._file = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._file_bytes, self._file_groups = 0, 0

    def add(self, table: pa.Table) -> None:
        """Take rows; whole row groups are written."""
        if not table.num_rows:
            return
        self._held.append(table)
        self._held_rows += table.num_rows
        self._held_bytes += table.nbytes
        self.rows += table.num_rows
        size = group_rows(max(1e-9, self._held_bytes / self._held_rows), self._budget)
        while self._held_rows >= size:
            self._write(size)

    def finish(self) -> None:
        """Write what is held; without any row, one file of none."""
        if self._held_rows or not self.rows:
            self._write(self._held_rows)
        self._file.close()

    def abandon(self, error: BaseException) -> None:
        """Close and remove the file that is open."""
        self._file.__exit__(type(error), error, error.__traceback__)

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self._held) if self._held else self.schema.empty_table()
        table, rest = whole.slice(0, rows), whole.slice(rows)
        num_bytes = self._held_bytes * rows // max(1, self._held_rows)
        self._held = [rest] if rest.num_rows else []
        self._held_rows, self._held_bytes = rest.num_rows, self._held_bytes - num_bytes
        is_full = self._file_groups >= FILE_GROUPS and self._file_bytes + num_bytes > FILE_BYTES
        if self._writer is None or is_full:
            self._open()
        assert self._writer is not None
        self._writer.write_table(table.replace_schema_metadata(self.schema.metadata), GROUP_ROWS)
        self._file_bytes += num_bytes
        self._file_groups += 1
        self.row_groups += bool(rows)

    def _open(self) -> None:
        self._file.close()
        path = self._file.enter_context(committed(self._folder / f"part-{self.files:05d}.parquet"))
        self._writer = self._file.enter_context(open_writer(path, self.schema))
        self.files += 1
        self._file_bytes, self._file_groups = 0, 0


@contextmanager
def rows_written(folder: Path, schema: pa.Schema, budget: int) -> Iterator[RowsWritten]:
    """A `RowsWritten` for a `with` block: finished at its end; if it fails, no temporary file is left."""
    writer = RowsWritten(folder, schema, budget)
    try:
        yield writer
        writer.finish()
    except BaseException as error:
        writer.abandon(error)
        raise
