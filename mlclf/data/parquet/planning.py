"""Arguments → files → footers → the plan: which rows exist, in which units they are read, and how rows are split."""

from __future__ import annotations

import ctypes
import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.arrow.arrays import is_text
from mlclf.data.arrow.layouts import has_views
from mlclf.data.storage.partitions import FOLDER_TYPES, all_are, folder_type, folder_type_of_format_1
from mlclf.data.storage.remote_files import RemoteError
from mlclf.data.storage.sources import INT96_UNIT, STEADY, Source, Stamp, check_stamp, find_sources
from mlclf.errors import ChangedDataError, DataError
from mlclf.machine.signals import looked
from mlclf.messages import first_line, listed
from mlclf.names import Names, names_of

UNIT_ROWS = 16_384
"""Consecutive row groups of a file are read as one unit until it has this many rows."""

DECODE_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError, ValueError, OverflowError)
"""How pyarrow refuses a damaged file; none of them names the file."""

READ_BUFFER_BYTES = 1 << 16
TAIL_BYTES = 1 << 16
"""What is read first of a file: most footers are smaller."""

KEPT_FOOTER_BYTES = 4 << 20
"""Footers up to this size in all are kept parsed, which takes about ten times as much."""


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
        plain: columns that polars may decode, where it has been looked for them.
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
    plain: frozenset[str] = field(default=frozenset(), compare=False)
    metadata: pq.FileMetaData | None = field(default=None, compare=False, repr=False)
    moved: set[Stamp] = field(default_factory=set, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @cached_property
    def viewed(self) -> frozenset[str]:
        """Columns of views, which are laid out when they are decoded."""
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
            footer, _ = _footer(self.source)
        except FileNotFoundError:
            raise ChangedDataError(f"{self.source.name}: is gone, it was there before; {STEADY}") from None
        if hashlib.sha256(footer).hexdigest() != self.footer_sha256:
            raise ChangedDataError(
                f"{self.source.name}: has changed while it was read: its footer is another one; {STEADY}"
            )
        return footer


@dataclass(frozen=True)
class Unit:
    """What one decode task reads: consecutive row groups of one shard.

    Attributes:
        shard: index of the shard in the plan.
        groups: row groups, in file order.
        rows: number of rows in them.
        first_row: number of the first row, counted over the whole plan.
        row_bytes: largest mean size of a decoded row among the row groups, by the footer.
    """

    shard: int
    groups: tuple[int, ...]
    rows: int
    first_row: int
    row_bytes: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a shard, with the number of its first row in the plan."""

    shard: int
    index: int
    first_row: int
    rows: int


class SetAside(NamedTuple):
    """What `data.on_corrupt=skip` leaves out: a file whose footer is damaged (its rows are not known), or a unit.

    Attributes:
        place: the file and row groups.
        rows: how many are lost, by the footer; None where that is damaged.
        reason: what is wrong.
    """

    place: str
    rows: int | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every row of the data, in order: arguments as given, folders sorted by path bytes.

    The plan never changes after it is made; orders, splits and checkpoints refer to it by `digest`.
    """

    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    warnings: tuple[str, ...] = ()
    set_aside: tuple[SetAside, ...] = ()

    def without(self, corrupt: Mapping[int, str]) -> Plan:
        """The plan with units set aside, by index, each for a reason; the numbers of all other rows stay."""
        aside = [SetAside(self.place(self.units[index]), self.units[index].rows, why) for index, why in corrupt.items()]
        units = tuple(unit for index, unit in enumerate(self.units) if index not in corrupt)
        return replace(self, units=units, set_aside=(*self.set_aside, *aside))

    @property
    def folder_types(self) -> dict[str, str]:
        """Types of the columns that the folders' names give, by their Arrow names."""
        return {name: str(shard.schema.field(name).type) for shard in self.shards for name in shard.partition}

    def with_folder_types(self, types: Mapping[str, str] | None) -> Plan:
        """The plan with the columns of its folders in the types that they had in training, text where a value has none.

        Args:
            types: `folder_types` of the training data; None for runs that did not keep them.
        """
        values: dict[str, list[str | None]] = {}
        for shard in self.shards:
            for name, value in shard.partition.items():
                values.setdefault(name, []).append(value)
        kinds: dict[str, pa.DataType] = {}
        for name, found in values.items():
            if types is None:
                kinds[name] = folder_type_of_format_1(found)
            elif name in types:
                kind = FOLDER_TYPES.get(types[name], pa.string())
                kinds[name] = kind if all_are([value for value in found if value is not None], kind) else pa.string()
        return replace(self, shards=tuple(_retyped(shard, kinds) for shard in self.shards)) if kinds else self

    @property
    def readable_rows(self) -> int:
        """Rows that are not set aside."""
        return sum(unit.rows for unit in self.units)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def decoded_bytes(self) -> float:
        """All rows decoded, by the footers."""
        return sum(shard.rows * shard.row_bytes for shard in self.shards)

    @property
    def row_bytes(self) -> float:
        """Largest mean size of a decoded row among the shards, in bytes."""
        return max((shard.row_bytes for shard in self.shards), default=0.0)

    @property
    def largest_unit_rows(self) -> int:
        return max((unit.rows for unit in self.units), default=0)

    @cached_property
    def digest(self) -> str:
        """Hex digest of what fixes the rows and their order: sizes and footers, wherever the files are."""
        parts = [f"{shard.source.size_bytes}|{shard.rows}|{shard.fingerprint}" for shard in self.shards]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def local_files(self) -> list[str]:
        """Paths of the files on this machine."""
        return [shard.source.path for shard in self.shards if not shard.source.is_remote]

    def files(self) -> list[list[Any]]:
        """Name, rows and fingerprint of every file, JSON-able, for `difference` to compare with later."""
        return [[shard.source.relative, shard.rows, shard.fingerprint] for shard in self.shards]

    def difference(self, files: Sequence[Sequence[Any]]) -> str:
        """How the data differs from that whose `files` these were, a few files named; empty where it does not."""
        was = {name: tuple(rest) for name, *rest in files}
        now = {name: tuple(rest) for name, *rest in self.files()}
        lines = [f"{name!r} is gone" for name in was if name not in now]
        lines += [f"{name!r} is new" for name in now if name not in was]
        for name in (name for name in now if name in was and now[name] != was[name]):
            rows = f"had {was[name][0]:,} rows, has {now[name][0]:,}"
            lines.append(f"{name!r} {rows if was[name][0] != now[name][0] else 'has other contents'}")
        if not lines and list(was) != list(now):
            lines.append("the files come in another order")
        return ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")

    def place(self, unit: Unit) -> str:
        """Name the file and the row groups of a unit."""
        return self.place_of(self.groups_of(unit.first_row, unit.rows))

    def locate(self, row: int) -> str:
        """Name the file and row group that hold row number `row`."""
        return self.place_of(self.groups_of(row, 1))

    def groups_of(self, first_row: int, num_rows: int) -> list[RowGroup]:
        """The row groups that hold `num_rows` rows of one unit from number `first_row`, the empty ones left out."""
        unit = self.units[bisect_right(self.units, first_row, key=lambda unit: unit.first_row) - 1]
        start, found = unit.first_row, []
        for index in unit.groups:
            rows = self.shards[unit.shard].group_rows[index]
            if start < first_row + num_rows and start + rows > first_row:
                found.append(RowGroup(unit.shard, index, start, rows))
            start += rows
        return found

    def place_of(self, groups: Sequence[RowGroup]) -> str:
        """Name the file and the row groups, which are of one file."""
        first, last = groups[0].index, groups[-1].index
        words = f"row group {first}" if first == last else f"row groups {first}–{last}"
        return f"{self.shards[groups[0].shard].source.name} {words}"


def make_plan(data: Names, *, skip_corrupt: bool = False) -> Plan:
    """Read the footers of every file that `data` names and lay out the units.

    Args:
        data: files, folders, globs or URIs, in the order in which rows are numbered.
        skip_corrupt: set files aside whose footers are damaged.

    Raises:
        DataError: nothing is found, a file is not readable Parquet, has two columns of one name, or holds no rows.
    """
    arguments = names_of(data)
    sources, warnings = find_sources(arguments)
    with ThreadPoolExecutor(max_workers=min(16, len(sources))) as pool:
        results = list(_lightened(pool.map(FOOTERS.read, sources)))
    if sum(result.footer_bytes for result in results if isinstance(result, Shard)) > KEPT_FOOTER_BYTES:
        _give_back()
    problems = [result for result in results if isinstance(result, Unreadable)]
    aside = [problem for problem in problems if skip_corrupt and problem.is_damage]
    if len(problems) > len(aside):
        raise DataError(listed([problem.message for problem in problems if problem not in aside]))
    shards = _with_partition_columns([result for result in results if isinstance(result, Shard)])
    lost = tuple(SetAside(problem.name, None, problem.message) for problem in aside)
    plan = Plan(tuple(shards), tuple(_units(shards)), tuple(warnings), lost)
    if plan.rows == 0:
        raise DataError(
            f"the data has no rows: {len(shards)} Parquet file(s) under {', '.join(arguments)} are empty; "
            "check the path or the export that wrote them"
        )
    return plan


def _lightened(results: Iterable[Shard | Unreadable]) -> Iterator[Shard | Unreadable]:
    """The shards with parsed footers as far as they take little memory; those of the others are parsed when opened."""
    size = 0
    for result in looked(results):
        if isinstance(result, Shard):
            size += result.footer_bytes
            yield result if size <= KEPT_FOOTER_BYTES else replace(result, metadata=None)
        else:
            yield result


def _give_back() -> None:
    """Return to the system what parsing large footers has left behind, ten times their size, which glibc would keep."""
    with suppress(OSError, AttributeError, TypeError):  # other libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


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


def _footer(source: Source) -> tuple[bytes, Stamp | None]:
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
        footer, stamp = _footer(source)
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


def _with_partition_columns(shards: Sequence[Shard]) -> list[Shard]:
    """Add the hive partition columns to the schemas; text where another file holds the column as text."""
    values: dict[str, list[str | None]] = {}
    for shard in shards:
        for name, value in shard.partition.items():
            values.setdefault(name, []).append(value)
    if not values:
        return list(shards)
    types = {name: folder_type(found) for name, found in values.items()}
    for shard in shards:
        texts = [name for name in types if name in shard.schema.names and is_text(shard.schema.field(name).type)]
        types |= dict.fromkeys(texts, pa.string())
    return [_with_columns(shard, types) for shard in shards]


def _with_columns(shard: Shard, types: Mapping[str, pa.DataType]) -> Shard:
    """Add the partition's columns; a column that the file itself holds is read from the file."""
    partition = {name: value for name, value in shard.partition.items() if name not in shard.schema.names}
    schema = shard.schema
    for name in sorted(partition):
        schema = schema.append(pa.field(name, types[name]))
    return replace(shard, schema=schema, partition=partition)


def _retyped(shard: Shard, kinds: Mapping[str, pa.DataType]) -> Shard:
    schema = shard.schema
    for name in kinds.keys() & shard.partition.keys():
        schema = schema.set(schema.get_field_index(name), pa.field(name, kinds[name]))
    return replace(shard, schema=schema)


def _units(shards: Sequence[Shard]) -> list[Unit]:
    """Lay row groups out as units: tiny neighbours are joined, empty ones skipped."""
    units: list[Unit] = []
    first_row = 0
    for index, shard in enumerate(shards):
        groups: list[int] = []
        rows = 0
        for group, group_rows in enumerate(shard.group_rows):
            if group_rows:
                groups.append(group)
                rows += group_rows
            if rows and (rows >= UNIT_ROWS or group == len(shard.group_rows) - 1):
                units.append(Unit(index, tuple(groups), rows, first_row, _row_bytes(shard, groups)))
                first_row += rows
                groups, rows = [], 0
    return units


def _row_bytes(shard: Shard, groups: Sequence[int]) -> float:
    return max(shard.row_bytes, *(shard.group_bytes[group] / shard.group_rows[group] for group in groups))
