"""The plan of a data set: its shards (files), and the units (consecutive row groups) in which they are read."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from mlclf.data.parquet.shards import Shard
from mlclf.data.storage.partitions import FOLDER_TYPES, all_are, folder_type_of_format_1


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
        return replace(self, shards=tuple(with_column_types(shard, kinds) for shard in self.shards)) if kinds else self

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


def with_column_types(shard: Shard, kinds: Mapping[str, pa.DataType]) -> Shard:
    schema = shard.schema
    for name in kinds.keys() & shard.partition.keys():
        schema = schema.set(schema.get_field_index(name), pa.field(name, kinds[name]))
    return replace(shard, schema=schema)
