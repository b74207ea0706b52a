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
        chunks = chunks_of_columns(metadata, index, columns)
        for chunk in chain.from_iterable(chunks.get(name, ()) for name in columns):
            start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            start, end = max(0, start), min(size, start + chunk.total_compressed_size)
            if start < end:  # else the footer is damaged, which decoding will say
                found.append((start, end))
    return joined_ranges(found)


def chunks_of_columns(
    metadata: pq.FileMetaData, group: int, columns: Sequence[str]
) -> dict[str, list[pq.ColumnChunkMetaData]]:
    """The chunks of a row group that belong to each of some columns: those of its path, or whose path begins with it.

    Where a footer is damaged, pyarrow may end the process while a chunk is described, which reading it refuses: so only
    those of `columns` are, and callers have read them before where they can.
    """
    names, found = set(columns), metadata.row_group(group)
    chunks: dict[str, list[pq.ColumnChunkMetaData]] = {}
    for number in range(found.num_columns):
        parts = metadata.schema.column(number).path.split(".")
        for name in names.intersection(".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            chunks.setdefault(name, []).append(found.column(number))
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
