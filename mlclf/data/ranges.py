"""Ranges of bytes: where the column chunks of a unit lie in a file, neighbours joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import pyarrow.parquet as pq

GAP_BYTES = 512 << 10
"""Ranges that are no farther apart are read as one: a request takes about as long as so many bytes do."""

Range = tuple[int, int]
"""Start and end of bytes in a file."""


def chunk_ranges(metadata: pq.FileMetaData, groups: Iterable[int], columns: Sequence[str], size: int) -> list[Range]:
    """Where the chunks of top-level columns lie in a file of `size` bytes: rising, apart by more than GAP_BYTES."""
    found = []
    for index in groups:
        chunks = chunks_by_column(metadata.row_group(index))
        for chunk in chain.from_iterable(chunks.get(name, ()) for name in columns):
            start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            start, end = max(0, start), min(size, start + chunk.total_compressed_size)
            if start < end:  # else the footer is damaged, which decoding will say
                found.append((start, end))
    return joined_ranges(found)


def chunks_by_column(group: pq.RowGroupMetaData) -> dict[str, list[pq.ColumnChunkMetaData]]:
    """The chunks of a row group by every name that they may belong to: their path, and each part of it up to a dot."""
    chunks: dict[str, list[pq.ColumnChunkMetaData]] = {}
    for number in range(group.num_columns):
        chunk = group.column(number)
        parts = chunk.path_in_schema.split(".")
        for end in range(1, len(parts) + 1):
            chunks.setdefault(".".join(parts[:end]), []).append(chunk)
    return chunks


def joined_ranges(ranges: Sequence[Range]) -> list[Range]:
    """The same bytes, and the small gaps between them, in as few ranges as that makes.

    >>> joined_ranges([(4 << 20, 5 << 20), (100, 200), (150, 300)])
    [(100, 300), (4194304, 5242880)]
    """
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + GAP_BYTES:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
