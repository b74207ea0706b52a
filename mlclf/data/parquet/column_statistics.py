"""What the footers say of each column: types, nulls, bounds, sizes, codecs, page checksums.

A damaged footer can end the process that reads them, so that is done in a child, and inspecting goes on without it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.parquet.child_process import THREADS, FileFooter, in_child
from mlclf.data.parquet.shards import DECODE_ERRORS, Shard
from mlclf.data.parquet.stored_columns import first_page, has_checksum, leaves_of


@dataclass
class ColumnFooter:
    """What footers say of one column.

    Attributes:
        nulls: null values; None where a footer does not say, as for lists.
        low, high: bounds of all values; both None where `is_bounded` is False, or all are null.
        items: values in all lists of the column, or rows of a plain one.
        bytes: compressed.
    """

    nulls: int | None = 0
    low: Any = None
    high: Any = None
    is_bounded: bool = True
    items: int = 0
    bytes: int = 0

    def add(self, other: ColumnFooter) -> None:
        """Add what the footers say of more rows of the column."""
        self.nulls = None if self.nulls is None or other.nulls is None else self.nulls + other.nulls
        self.items += other.items
        self.bytes += other.bytes
        self.is_bounded = self.is_bounded and other.is_bounded
        if self.is_bounded and other.low is not None:
            try:
                self.low = other.low if self.low is None else min(self.low, other.low)
                self.high = other.high if self.high is None else max(self.high, other.high)
            except TypeError:  # the types of the shards differ
                self.is_bounded = False
        if not self.is_bounded:
            self.low = self.high = None


@dataclass
class Footers:
    """What the footers of a data set say.

    Attributes:
        columns: by name; a column that is missing here is not told about.
        codecs: column chunks by codec.
        checksums: by file name, whether its first page has a checksum; None where that cannot be told.
    """

    columns: dict[str, ColumnFooter] = field(default_factory=dict)
    codecs: Counter[str] = field(default_factory=Counter)
    checksums: dict[str, bool | None] = field(default_factory=dict)

    def add(self, other: Footers) -> None:
        """Add what the footers of other files say."""
        for name, column in other.columns.items():
            self.columns.setdefault(name, ColumnFooter()).add(column)
        self.codecs += other.codecs
        self.checksums |= other.checksums


def read_footers(shards: Sequence[Shard]) -> Footers | None:
    """Read column statistics from all footers, in a subprocess; None if it crashed."""
    answers = in_child("describe", shards, [()] * len(shards))
    if answers is None:
        return None
    found = Footers()
    with ThreadPoolExecutor(THREADS) as pool:
        pages = [answer["first_page"] for answer in answers]
        checksums = pool.map(has_checksum, [shard.source for shard in shards], pages)
        for shard, answer, checksum in zip(shards, answers, checksums, strict=True):
            one = _undescribed(answer)
            one.checksums[shard.source.name] = checksum
            found.add(one)
    return found


def described(file: FileFooter) -> dict[str, Any]:
    """What the footer of one file says, as JSON; bounds, which may be of any type, as an Arrow stream in base64."""
    with pq.ParquetFile(pa.BufferReader(file.footer), pre_buffer=False) as opened:
        metadata = opened.metadata
    leaves = leaves_of(metadata, file.schema)
    columns: dict[str, Any] = {}
    bounds: dict[str, pa.Array] = {}
    for column in file.schema:
        found = _column(metadata, leaves.get(column.name, range(0)), column.type)
        bounds[column.name] = _pair(found.low, found.high)
        columns[column.name] = [found.nulls, found.is_bounded, found.items, found.bytes]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, (table := pa.table(bounds)).schema) as writer:
        writer.write_table(table)
    codecs: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        for leaf in range(metadata.num_columns):
            codecs[_codec(metadata, group, leaf)] += 1
    text = base64.b64encode(sink.getvalue()).decode()
    return {"columns": columns, "bounds": text, "codecs": codecs, "first_page": first_page(metadata)}


def _pair(low: Any, high: Any) -> pa.Array:
    """Two values as an Arrow array; Arrow does not find by itself that integers beyond int64 are uint64."""
    return pa.array([low, high], pa.uint64() if isinstance(high, int) and high >= 1 << 63 else None)


def _undescribed(answer: dict[str, Any]) -> Footers:
    with pa.ipc.open_stream(base64.b64decode(answer["bounds"])) as stream:
        bounds = stream.read_all().to_pydict()
    columns = {}
    for name, (nulls, is_bounded, items, size) in answer["columns"].items():
        low, high = bounds[name]
        columns[name] = ColumnFooter(nulls, low, high, is_bounded, items, size)
    return Footers(columns, Counter(answer["codecs"]))


def _column(metadata: pq.FileMetaData, leaves: range, kind: pa.DataType) -> ColumnFooter:
    flat = bool(leaves) and not pa.types.is_nested(kind)
    column = ColumnFooter(nulls=0 if flat else None, is_bounded=flat)
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).num_rows:
            for leaf in leaves:
                column.add(_chunk(metadata, group, leaf, kind))
    return column


def _chunk(metadata: pq.FileMetaData, group: int, leaf: int, kind: pa.DataType) -> ColumnFooter:
    """What the footer says of one column in one row group."""
    found = ColumnFooter(nulls=None, is_bounded=False)
    try:
        chunk = metadata.row_group(group).column(leaf)
        found.items, found.bytes = max(0, chunk.num_values), max(0, chunk.total_compressed_size)
        statistics = chunk.statistics
        if statistics is not None and statistics.has_null_count:
            found.nulls = statistics.null_count
        if statistics is not None and statistics.has_min_max:
            found.low, found.high = _bounds(statistics, kind)
            found.is_bounded = True
        else:
            found.is_bounded = found.nulls is not None and found.nulls == found.items  # nulls alone have no bounds
    except DECODE_ERRORS:
        pass
    return found


def _bounds(statistics: pq.Statistics, kind: pa.DataType) -> tuple[Any, Any]:
    """Least and greatest value; nanoseconds, which Python's times do not have, are cut to microseconds."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        coarse = pa.timestamp("us", kind.tz)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        coarse = pa.time64("us")
    else:
        return statistics.min, statistics.max
    low, high = (pa.scalar(raw, kind) for raw in (statistics.min_raw, statistics.max_raw))
    return low.cast(coarse, safe=False).as_py(), high.cast(coarse, safe=False).as_py()


def _codec(metadata: pq.FileMetaData, group: int, leaf: int) -> str:
    try:
        return str(metadata.row_group(group).column(leaf).compression)
    except DECODE_ERRORS:
        return "unknown"
