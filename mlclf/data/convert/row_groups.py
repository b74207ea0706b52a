"""Parquet files with row groups of a good size and page checksums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.errors import ConfigError

LEAST_BUDGET_BYTES = 16 << 20


def check_numbers(seed: int, budget: int) -> None:
    """Refuse a seed or a memory budget that is out of range."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed must be 0 or more, and below 2**63, got {seed}")
    if budget < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"--memory-budget must be at least {LEAST_BUDGET_BYTES >> 20} MiB ({LEAST_BUDGET_BYTES:,} bytes), "
            f"got {budget:,} bytes"
        )


GROUP_ROWS, LEAST_GROUP_ROWS = 65_536, 1_024
GROUP_BYTES = 32 << 20
FILE_BYTES, FILE_GROUPS = 1 << 30, 16

CODEC = "snappy"
"""Training reads the files many times, and rows of snappy decode 2.7 times as fast as rows of zstd."""


def group_rows(row_bytes: float, budget: int) -> int:
    """Rows of a row group: GROUP_BYTES of them, if these are neither too few nor too many for the reader.

    >>> group_rows(400, 512 << 20), group_rows(4096, 512 << 20), group_rows(1 << 20, 512 << 20)
    (65536, 8192, 256)
    """
    wanted = min(GROUP_ROWS, max(LEAST_GROUP_ROWS, int(min(GROUP_BYTES, budget / 4) / row_bytes)))
    return max(1, min(wanted, int(budget / 2 / row_bytes)))


def repeating(schema: pa.Schema) -> list[str]:
    """Paths of the stored columns that are worth a dictionary: all but floats.

    These hardly repeat; with a dictionary they take more room, and twice the time to write.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    stored = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    leaves = [stored.column(index) for index in range(len(stored.names))]
    return [leaf.path for leaf in leaves if leaf.physical_type not in ("FLOAT", "DOUBLE")]


def even_parts(total: int, most: int) -> list[int]:
    """Sizes of the fewest parts that have at most `most` each, the larger ones first.

    >>> even_parts(10, 4)
    [4, 3, 3]
    """
    count = -(-total // most)
    size, larger = divmod(total, count)
    return [size + 1] * larger + [size] * (count - larger)


def cut(tables: Iterable[pa.Table], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the rows of `tables`, which are as many, in tables of these sizes."""
    source = iter(tables)
    waiting: list[pa.Table] = []
    for size in sizes:
        while sum(table.num_rows for table in waiting) < size:
            waiting.append(next(source))
        whole = pa.concat_tables(waiting)
        waiting = [whole.slice(size)] if whole.num_rows > size else []
        part = whole.slice(0, size)
        del whole
        yield part


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file to write rows of this schema to."""
    return pq.ParquetWriter(path, schema, compression=CODEC, use_dictionary=repeating(schema), write_page_checksum=True)
