"""Shards: files of a data set with their footers, which are read by two requests at most, checked, and kept parsed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.arrow.materialized import has_views
from mlclf.data.storage.sources import INT96_UNIT, STEADY, Source, Stamp, check_stamp
from mlclf.errors import ChangedDataError, RemoteError
from mlclf.messages import first_line

TAIL_BYTES = 1 << 16
"""What is read first of a file: most footers are smaller."""

KEPT_FOOTER_BYTES = 4 << 20
"""Footers up to this size in all are kept parsed, which takes about ten times as much."""


class Unreadable(NamedTuple):
    """A file that cannot be part of a plan, and why; `is_damage` where its bytes are at fault."""

    name: str
    message: str
    is_damage: bool = False


class FooterCache:
    """Shards by path, size and version of the file, so that a process reads and parses a footer once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shards: OrderedDict[tuple[str, ...], Shard] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def read(self, source: Source) -> Shard | Unreadable:
        """Return the shard of a file, or what is wrong with it."""
        version = source.version
        with suppress(OSError):  # what cannot be looked at is said by reading it
            if not source.is_remote:
                stamp = source.stamp_now()
                source = replace(source, size_bytes=stamp.size_bytes, stamp=stamp)
                version = f"{stamp.written} {stamp.place}"
        key = (source.filesystem.type_name, source.path, source.name, str(source.size_bytes), version)
        with self._lock:
            known = self._shards.get(key)
        if known is not None:
            return replace(known, source=replace(source, stamp=known.source.stamp))
        shard = _read_footer(source)
        if isinstance(shard, Shard) and source.version:
            with self._lock:
                self._add(key, shard)
        return shard

    def _add(self, key: tuple[str, ...], shard: Shard) -> None:
        if key not in self._shards:
            self._shards[key] = shard
            self._bytes += shard.footer_bytes
        while self._bytes > self._max_bytes:
            _, dropped = self._shards.popitem(last=False)
            self._bytes -= dropped.footer_bytes


FOOTERS = FooterCache(KEPT_FOOTER_BYTES)


def footer_of(source: Source) -> tuple[bytes, Stamp | None]:
    """The end of a file from its footer on, in one read where the footer is not large; and a remote file's stamp."""
    opened = source.filesystem.handler.open_file(source.path) if source.is_remote else None
    stamp = None if opened is None else source.stamp_now(opened)
    with source.filesystem.open_input_file(source.path) if opened is None else pa.PythonFile(opened, mode="r") as file:
        size = file.size()
        start = max(0, size - TAIL_BYTES)
        tail = bytes(file.read_at(size - start, start))
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < length <= size:
            tail = bytes(file.read_at(length, size - length))
        return tail[-length:] if length <= size else tail, stamp


def _read_footer(source: Source) -> Shard | Unreadable:
    """Return the shard of one file, or what is wrong with it."""
    try:
        footer, stamp = footer_of(source)
        source = replace(source, stamp=stamp or source.stamp)
        with pq.ParquetFile(pa.BufferReader(footer), pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT) as file:
            metadata = file.metadata
            schema = file.schema_arrow
    except FileNotFoundError:
        return Unreadable(source.name, f"{source.name}: no such file; check the path")
    except PermissionError:
        return Unreadable(source.name, f"{source.name}: permission denied; check who may read the file")
    except RemoteError as error:
        return Unreadable(source.name, str(error))
    except pa.ArrowNotImplementedError as error:
        return Unreadable(
            source.name,
            f"{source.name}: a column has a type that cannot be read ({first_line(error)}); "
            "convert the column, or leave it out, where the file is written",
        )
    except DECODE_ERRORS as error:
        return Unreadable(source.name, f"{source.name}: {_footer_problem(source, error)}", is_damage=True)
    doubled = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if doubled:
        return Unreadable(
            source.name,
            f"{source.name}: column names must be distinct, found {', '.join(map(repr, doubled))} more than once; "
            "rename the columns where the file is written",
        )
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if any(count < 0 for count in rows) or sum(rows) != metadata.num_rows:
        return Unreadable(
            source.name,
            f"{source.name}: the footer says {metadata.num_rows} rows but its row groups hold {sum(rows)}; "
            "the file is damaged, write it again",
            is_damage=True,
        )
    sizes = [max(0, group.total_byte_size) for group in groups]
    return Shard(
        source,
        schema,
        group_rows=tuple(rows),
        group_bytes=tuple(sizes),
        row_bytes=max(sum(sizes) / max(1, sum(rows)), _fixed_bytes(schema)),
        footer_sha256=hashlib.sha256(footer).hexdigest(),
        footer_bytes=len(footer),
        partition=dict(source.partition),
        metadata=metadata,
    )


def _fixed_bytes(schema: pa.Schema) -> float:
    """Bytes that a row takes at least when decoded: a dictionary can make it much smaller in the file."""
    return sum(width_bytes(field.type) for field in schema)


def width_bytes(kind: pa.DataType) -> float:
    """Bytes that a value of a type takes at least; those of a list are its offset, or all of a fixed size."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * width_bytes(kind.value_type)
    try:
        return float(kind.bit_width / 8)
    except ValueError:
        return 4.0  # of varying length: an offset


def _footer_problem(source: Source, error: Exception) -> str:
    head, tail = source.magic()
    if source.size_bytes == 0:
        return "the file is empty (0 bytes); copy or write it again"
    if b"PARE" in (head, tail):
        return "the file is encrypted; write it without encryption"
    if head != b"PAR1" and tail != b"PAR1":
        return "not a Parquet file (it does not begin and end with PAR1); give Parquet files, or convert it first"
    if tail != b"PAR1":
        return "truncated: a Parquet file ends with PAR1 and this one does not; copy or write it again"
    return f"the footer cannot be read ({first_line(error)}); the file is damaged, write it again"


DECODE_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError, OverflowError)
"""How pyarrow refuses a damaged file; none of them names the file."""

READ_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the plan, with its footer.

    Attributes:
        source: where the bytes are.
        schema: Arrow schema of the file, hive partition columns included.
        group_rows: rows of each row group.
        group_bytes: bytes of each row group when decompressed.
        row_bytes: mean size of a decoded row by the footer, in bytes.
        footer_sha256: of the footer, which holds the place and bounds of every column.
        footer_bytes: size of the footer.
        partition: values that the folder names give (hive), by column.
        for_polars: columns that polars may decode, where it has been looked for them.
        moved: stamps of the file elsewhere, whose footer was found to be the same.
    """

    source: Source
    schema: pa.Schema
    group_rows: tuple[int, ...]
    group_bytes: tuple[int, ...]
    row_bytes: float
    footer_sha256: str = ""
    footer_bytes: int = 0
    partition: dict[str, str | None] = field(default_factory=dict)
    for_polars: frozenset[str] = field(default=frozenset(), compare=False)
    metadata: pq.FileMetaData | None = field(default=None, compare=False, repr=False)
    moved: set[Stamp] = field(default_factory=set, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @cached_property
    def viewed(self) -> frozenset[str]:
        """Columns of views, which become ordinary arrays when they are decoded."""
        return frozenset(field.name for field in self.schema if has_views(field.type))

    @property
    def fingerprint(self) -> str:
        """The first 16 digits of the footer's hash."""
        return self.footer_sha256[:16]

    def open(self) -> pq.ParquetFile:
        """Open the file for reading in small buffers, page checksums verified where the file has them."""
        return self.source.open_parquet(metadata=self.metadata, buffer_size=READ_BUFFER_BYTES)

    def open_unit(self, groups: Sequence[int], columns: Sequence[str]) -> pq.ParquetFile:
        """Open the file to read columns of row groups and nothing else; of a remote one they are fetched at once."""
        if self.source.is_remote:
            return self.source.open_unit(groups, columns, self.metadata)
        return self.open()

    def check(self) -> None:
        """Refuse a local file that is no longer the one that was planned; a remote one is checked when it is opened.

        Raises:
            ChangedDataError: its size, its time of writing or its footer is another one, or it is gone.
        """
        if self.source.is_remote or self.source.stamp is None:
            return
        now = self._stamp_now()
        if now == self.source.stamp or now in self.moved:
            return
        check_stamp(self.source, now)
        self.footer_as_planned()
        self.moved.add(now)

    def check_again(self) -> None:
        """The same after something went wrong, of a remote file too."""
        check_stamp(self.source, self._stamp_now())
        self.footer_as_planned()

    def _stamp_now(self) -> Stamp:
        try:
            return self.source.stamp_now()
        except FileNotFoundError:
            raise ChangedDataError(f"{self.source.name}: is gone, it was there before; {STEADY}") from None

    def footer_as_planned(self) -> bytes:
        """The footer, read again.

        Raises:
            ChangedDataError: it is another one.
        """
        try:
            footer, _ = footer_of(self.source)
        except FileNotFoundError:
            raise ChangedDataError(f"{self.source.name}: is gone, it was there before; {STEADY}") from None
        if hashlib.sha256(footer).hexdigest() != self.footer_sha256:
            raise ChangedDataError(
                f"{self.source.name}: has changed while it was read: its footer is another one; {STEADY}"
            )
        return footer
