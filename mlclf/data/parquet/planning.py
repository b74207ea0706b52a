"""Arguments → files → footers → the plan: which rows exist, in which units they are read, and how rows are split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from mlclf.data.arrow.arrays import is_text
from mlclf.data.parquet.plan import Plan, SetAside, Unit
from mlclf.data.parquet.shards import FOOTERS, KEPT_FOOTER_BYTES, Shard, Unreadable
from mlclf.data.storage.finding import find_sources
from mlclf.data.storage.partitions import folder_type
from mlclf.errors import DataError
from mlclf.machine.memory import give_back_memory
from mlclf.machine.signals import looked
from mlclf.messages import listed
from mlclf.names import Names, names_of

UNIT_ROWS = 16_384
"""Consecutive row groups of a file are read as one unit until it has this many rows."""


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
        give_back_memory()
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
