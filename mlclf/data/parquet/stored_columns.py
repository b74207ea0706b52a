"""Columns as they are stored: their leaves, where their first pages are, and whether pages have checksums."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.parquet.shards import DECODE_ERRORS
from mlclf.data.storage.sources import Source
from mlclf.errors import RemoteError

PAGE_HEADER_BYTES = 64


def leaves_of(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, range]:
    """Indices of the stored columns that each column of the schema has; none for one that the folders' names give."""
    leaves, start = {}, 0
    for column in schema:
        count = _leaf_count(column.type)
        if start + count > metadata.num_columns:
            break
        leaves[column.name] = range(start, start + count)
        start += count
    return leaves if start == metadata.num_columns else {}


def _leaf_count(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf_count(kind.storage_type)
    if pa.types.is_map(kind):
        return _leaf_count(kind.key_type) + _leaf_count(kind.item_type)
    if pa.types.is_struct(kind):
        return sum(_leaf_count(inner.type) for inner in kind)
    return _leaf_count(kind.value_type) if pa.types.is_nested(kind) else 1


def first_page(metadata: pq.FileMetaData) -> int | None:
    """Where the first page of a file begins; None where the footer does not say."""
    try:
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        chunk = next(group for group in groups if group.num_rows).column(0)
        offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
        return int(min(offset for offset in offsets if offset))
    except (*DECODE_ERRORS, StopIteration, IndexError):
        return None


def has_checksum(source: Source, page: int | None) -> bool | None:
    """Whether the page of a file that begins at a byte has a checksum; None where its header cannot be read."""
    if page is None:
        return None
    try:
        with source.filesystem.open_input_file(source.path) as file:
            header = file.read_at(PAGE_HEADER_BYTES, page)
    except RemoteError:
        raise
    except DECODE_ERRORS:
        return None
    fields = dict(_leading_integers(header))
    is_header = fields.get(1, -1) in range(4) and {2, 3} <= fields.keys() and min(fields[2], fields[3]) >= 0
    return 4 in fields if is_header else None


def _leading_integers(header: bytes) -> Iterator[tuple[int, int]]:
    """Yield (field, value) of the 32-bit integers that a Thrift structure in the compact protocol begins with.

    A page header begins with its type, two sizes and, where it has one, the checksum as field 4.
    """
    place, number = 0, 0
    while place < len(header) and header[place] & 15 == 5 and header[place] >> 4:
        number += header[place] >> 4
        place, value, shift = place + 1, 0, 0
        while place < len(header) and shift < 35:
            value |= (header[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if header[place - 1] < 128:
                break
        yield number, (value >> 1) ^ -(value & 1)
