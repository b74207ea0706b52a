"""Arguments → files → footers → the plan: which rows exist, in which units they are read, and how rows are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.sources import Source, find_sources
from mlclf.errors import DataError

UNIT_ROWS = 16_384
"""Consecutive row groups of a file are read as one unit until it has this many rows."""

READ_BUFFER_BYTES = 1 << 20
MAX_LISTED_PROBLEMS = 12


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the plan, with its footer.

    Attributes:
        source: where the bytes are.
        schema: Arrow schema of the file, hive partition columns included.
        group_rows: rows of each row group.
        row_bytes: mean size of a decoded row by the footer, in bytes.
        partition: values that the folder names give (hive), by column.
    """

    source: Source
    schema: pa.Schema
    group_rows: tuple[int, ...]
    row_bytes: float
    partition: dict[str, str | None] = field(default_factory=dict)
    metadata: pq.FileMetaData | None = field(default=None, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    def open(self) -> pq.ParquetFile:
        """Open the file for reading in small buffers, page checksums verified where the file has them."""
        return self.source.open_parquet(metadata=self.metadata, buffer_size=READ_BUFFER_BYTES)


@dataclass(frozen=True)
class Unit:
    """What one decode task reads: consecutive row groups of one shard.

    Attributes:
        shard: index of the shard in the plan.
        groups: row groups, in file order.
        rows: number of rows in them.
        first_row: number of the first row, counted over the whole plan.
    """

    shard: int
    groups: tuple[int, ...]
    rows: int
    first_row: int


@dataclass(frozen=True)
class Plan:
    """Every row of the data, in order: arguments as given, folders sorted by path bytes.

    The plan never changes after it is made; orders, splits and checkpoints refer to it by `digest`.
    """

    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def row_bytes(self) -> float:
        """Largest mean size of a decoded row among the shards, in bytes."""
        return max((shard.row_bytes for shard in self.shards), default=0.0)

    @property
    def digest(self) -> str:
        """Hex digest of what fixes the rows and their order: names, sizes, row groups."""
        parts = [f"{shard.source.name}|{shard.source.size_bytes}|{shard.group_rows}" for shard in self.shards]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def place(self, unit: Unit) -> str:
        """Name the file and the row groups of a unit."""
        first, last = unit.groups[0], unit.groups[-1]
        groups = f"row group {first}" if first == last else f"row groups {first}–{last}"
        return f"{self.shards[unit.shard].source.name} {groups}"

    def locate(self, row: int) -> str:
        """Name the file and row group that hold row number `row`."""
        unit = max((unit for unit in self.units if unit.first_row <= row), key=lambda unit: unit.first_row)
        offset = row - unit.first_row
        shard = self.shards[unit.shard]
        for group in unit.groups:
            if offset < shard.group_rows[group]:
                return f"{shard.source.name} row group {group}"
            offset -= shard.group_rows[group]
        return shard.source.name


def make_plan(data: str | Sequence[str]) -> Plan:
    """Read the footers of every file that `data` names and lay out the units.

    Args:
        data: files, folders, globs or URIs, in the order in which rows are numbered.

    Raises:
        DataError: nothing is found, a file is not readable Parquet, has two columns of one name, or holds no rows.
    """
    arguments = [data] if isinstance(data, str) else list(data)
    sources, warnings = find_sources(arguments)
    with ThreadPoolExecutor(max_workers=min(16, len(sources))) as pool:
        results = list(pool.map(_read_footer, sources))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise DataError(listed(problems))
    shards = _with_partition_columns([result for result in results if isinstance(result, Shard)])
    plan = Plan(tuple(shards), tuple(_units(shards)), tuple(warnings))
    if plan.rows == 0:
        raise DataError(
            f"the data has no rows: {len(shards)} Parquet file(s) under {', '.join(arguments)} are empty; "
            "check the path or the export that wrote them"
        )
    return plan


def listed(problems: Sequence[str]) -> str:
    """Join problems into one message, one a line, the first dozen written out."""
    shown = list(problems[:MAX_LISTED_PROBLEMS])
    if len(problems) > len(shown):
        shown.append(f"… and {len(problems) - len(shown)} more")
    return "\n".join(shown)


def _read_footer(source: Source) -> Shard | str:
    """Return the shard of one file, or what is wrong with it."""
    try:
        with source.open_parquet(buffer_size=READ_BUFFER_BYTES) as file:
            metadata = file.metadata
            schema = file.schema_arrow
    except FileNotFoundError:
        return f"{source.name}: no such file; check the path"
    except PermissionError:
        return f"{source.name}: permission denied; check who may read the file"
    except Exception as error:
        return f"{source.name}: {_footer_problem(source, error)}"
    doubled = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if doubled:
        return (
            f"{source.name}: column names must be distinct, found {', '.join(map(repr, doubled))} more than once; "
            "rename the columns where the file is written"
        )
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if any(count < 0 for count in rows) or sum(rows) != metadata.num_rows:
        return (
            f"{source.name}: the footer says {metadata.num_rows} rows but its row groups hold {sum(rows)}; "
            "the file is damaged, write it again"
        )
    row_bytes = sum(max(0, group.total_byte_size) for group in groups) / max(1, sum(rows))
    return Shard(source, schema, tuple(rows), row_bytes, dict(source.partition), metadata)


def _footer_problem(source: Source, error: Exception) -> str:
    head, tail = source.magic()
    if head != b"PAR1" and tail != b"PAR1":
        return "not a Parquet file (it does not begin and end with PAR1); give Parquet files, or convert it first"
    if tail != b"PAR1":
        return "truncated: a Parquet file ends with PAR1 and this one does not; copy or write it again"
    return f"the footer cannot be read ({first_line(error)}); the file is damaged, write it again"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _with_partition_columns(shards: Sequence[Shard]) -> list[Shard]:
    """Add the hive partition columns to the schemas: int64 where every value is an integer, else string."""
    names = sorted({name for shard in shards for name in shard.partition})
    if not names:
        return list(shards)
    types = {name: _partition_type(shard.partition.get(name) for shard in shards) for name in names}
    result = []
    for shard in shards:
        schema = shard.schema
        for name in names:
            if name in shard.partition and name not in schema.names:
                schema = schema.append(pa.field(name, types[name]))
        result.append(
            Shard(shard.source, schema, shard.group_rows, shard.row_bytes, shard.partition, shard.metadata),
        )
    return result


def _partition_type(values: Iterable[str | None]) -> pa.DataType:
    present = [value for value in values if value is not None]
    whole = all(value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 19 for value in present)
    return pa.int64() if present and whole else pa.string()


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
                units.append(Unit(index, tuple(groups), rows, first_row))
                first_row += rows
                groups, rows = [], 0
    return units
