"""Columns that polars, twice as fast, may decode: those of which the footers leave no doubt.

polars ends the process on some malformed files and does not look at page checksums. So it reads only flat columns of
plain types, in the common encodings, whose sizes fit the file, from local files whose pages have no checksums; pyarrow
reads all others, and again whatever polars refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlclf.data.parquet.child_process import CHILD_BYTES, FileFooter, in_child
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.shards import DECODE_ERRORS, Shard
from mlclf.data.parquet.stored_columns import first_page, has_checksum, leaves_of

LEAST_BUDGET_BYTES = 1 << 30
"""polars keeps some 100 MB of memory for later, which is too much beside a small pool."""

MAX_FOOTER_BYTES = 1 << 20
"""polars parses the footer for every unit."""

MAX_EXPANSION = 1_000
"""No honest chunk of numbers or short strings of a useful size packs so many bytes into one."""

CODECS = frozenset(["UNCOMPRESSED", "SNAPPY", "ZSTD", "LZ4", "LZ4_RAW", "GZIP"])
ENCODINGS = frozenset(["PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"])
PHYSICAL = {
    "bool": "BOOLEAN", "int8": "INT32", "int16": "INT32", "int32": "INT32", "int64": "INT64", "uint8": "INT32",
    "uint16": "INT32", "uint32": "INT32", "uint64": "INT64", "float": "FLOAT", "double": "DOUBLE",
    "string": "BYTE_ARRAY", "large_string": "BYTE_ARRAY",
}  # fmt: skip
"""Arrow type → physical type in the file."""


def with_columns_for_polars(plan: Plan, columns: Sequence[str], budget_bytes: int) -> Plan:
    """The plan with those of the columns marked that polars may decode; unchanged for small data or small budgets."""
    if plan.decoded_bytes < CHILD_BYTES or budget_bytes < LEAST_BUDGET_BYTES:
        return plan
    local = [shard for shard in plan.shards if _may_have_columns_for_polars(shard)]
    stored = [[[name for name in columns if _is_stored(shard, name)]] for shard in local]
    answers = in_child("polars", local, stored) or []
    found = {
        shard.source.path: frozenset(names)
        for shard, (names, page) in zip(local, answers, strict=False)
        if names and has_checksum(shard.source, page) is False
    }
    nothing: frozenset[str] = frozenset()
    shards = [replace(shard, for_polars=found.get(shard.source.path, nothing)) for shard in plan.shards]
    return replace(plan, shards=tuple(shards))


def _may_have_columns_for_polars(shard: Shard) -> bool:
    return isinstance(shard.source.filesystem, pafs.LocalFileSystem) and shard.footer_bytes <= MAX_FOOTER_BYTES


def _is_stored(shard: Shard, name: str) -> bool:
    return name in shard.schema.names and name not in shard.partition


def columns_for_polars(file: FileFooter, columns: Sequence[str]) -> tuple[list[str], int | None]:
    """Which columns of a file polars may decode, and where its first page begins."""
    try:
        with pq.ParquetFile(pa.BufferReader(file.footer), pre_buffer=False) as opened:
            metadata = opened.metadata
        leaves = leaves_of(metadata, file.schema)
        found = [
            name
            for name in columns
            if _is_sound(file.size_bytes, metadata, leaves.get(name, range(0)), file.schema.field(name))
        ]
        return found, first_page(metadata)
    except DECODE_ERRORS:
        return [], None


def _is_sound(file_bytes: int, metadata: pq.FileMetaData, leaves: range, column: pa.Field) -> bool:
    physical = PHYSICAL.get(str(column.type))
    if physical is None or len(leaves) != 1:
        return False
    described = metadata.schema.column(leaves[0])
    if described.path != column.name or described.max_repetition_level or described.max_definition_level > 1:
        return False
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return all(_is_sound_chunk(group.column(leaves[0]), group.num_rows, physical, file_bytes) for group in groups)


def _is_sound_chunk(chunk: pq.ColumnChunkMetaData, rows: int, physical: str, file_bytes: int) -> bool:
    offsets = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.has_dictionary_page else [])]
    stored, declared = chunk.total_compressed_size, chunk.total_uncompressed_size
    return (
        chunk.physical_type == physical
        and chunk.num_values == rows
        and chunk.compression in CODECS
        and ENCODINGS.issuperset(chunk.encodings)
        and min(offsets) >= 4
        and min(offsets) + stored <= file_bytes
        and stored >= 0
        and 0 <= declared <= MAX_EXPANSION * (stored + 64)
    )
