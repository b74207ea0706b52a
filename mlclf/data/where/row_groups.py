"""Row groups that `data.where` cannot exclude, by the statistics in the footers and the folders' names."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from mlclf.data.parquet.child_process import FileFooter, in_child
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.shards import DECODE_ERRORS, Shard
from mlclf.data.where.condition import Where, parse_where
from mlclf.errors import ConfigError
from mlclf.messages import listed


def matching_groups(shards: Sequence[Shard], where: Where) -> list[tuple[int, ...]]:
    """For each shard, the row groups that may hold a row that is used; all of them where the footers do not say.

    The statistics are read in a process of its own, since a damaged footer can end it.
    """
    arguments = [(str(where), len(shard.group_rows)) for shard in shards]
    found = in_child("match", shards, arguments) if where.columns else None
    return [tuple(groups) for groups in found or ([*range(len(shard.group_rows))] for shard in shards)]


def check_where(plan: Plan, where: Where | None) -> None:
    """Refuse a condition that the columns of a shard do not suit.

    Raises:
        ConfigError: lists all problems.
    """
    problems = [] if where is None else [line for s in plan.shards for line in where.problems(s.schema, s.source.name)]
    if problems:
        raise ConfigError(listed(problems))


def groups_that_may_match(file: FileFooter, condition: str, num_groups: int) -> list[int]:
    """Indices of the row groups of one file that may hold a row that is used, in file order.

    All of them where pyarrow cannot tell: no statistics, columns of strings kept as dictionaries, an odd footer.

    Args:
        file: its schema is that of the shard, the columns of the folders' names included.
        condition: the text of the condition.
        num_groups: row groups of the file.

    Raises:
        ConfigError: the shard's columns do not suit.
    """
    import pyarrow.dataset as ds  # here, since it loads slowly and only some runs have a condition

    where, schema = parse_where(condition), file.schema
    where.check(schema, file.name)
    everything = list(range(num_groups))
    try:
        fragment = ds.ParquetFileFormat().make_fragment(pa.BufferReader(file.footer))
        stored = {column.name: column.type for column in fragment.physical_schema}
        constants = {
            name: pa.scalar(value, pa.string()).cast(schema.field(name).type)
            for name, value in file.partition.items()
            if name in where.columns and name not in stored
        }
        if any(stored.get(name) != schema.field(name).type for name in where.columns if name not in constants):
            return everything
        kept = fragment.subset(where.expression(schema, constants)).row_groups
    except DECODE_ERRORS:
        return everything
    return [group.id for group in kept]
