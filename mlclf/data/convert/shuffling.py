"""A data set written anew: `shuffle` puts its rows in random order, in well-sized row groups with page checksums.

Every row draws a random number from (seed, unit). The first pass deals the rows to buckets on disk, each of which holds
the rows whose numbers lie in one range; the second reads bucket after bucket, sorts its rows by their numbers and
writes them. So the order is the same whatever the budget, and memory holds little more than one bucket.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlclf.config.settings import Settings
from mlclf.data.convert.buckets import TOP_BITS, Dealer
from mlclf.data.convert.row_groups import (
    FILE_BYTES,
    FILE_GROUPS,
    GROUP_ROWS,
    check_numbers,
    cut,
    even_parts,
    group_rows,
    open_writer,
)
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.common_schema import aligned, materialized_schema, unified_schema
from mlclf.files import committed
from mlclf.names import Names, names_of
from mlclf.outputs.claims import BUCKETS
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain

MAX_HELD_BYTES = 256 << 20
"""Beyond it larger buckets save no work."""

PIECE_ROWS = 16_384


@dataclass(frozen=True)
class Shuffled:
    """What was written."""

    folder: Path
    rows: int
    files: int
    row_groups: int


def shuffle(
    data: Names,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Shuffled:
    """Write the rows of a data set in random order, the same for the same seed, as Parquet files in `out`.

    All columns are kept; those that the folders' names give become columns. Where shards differ in the type of a
    column, it gets the narrowest type that holds all of them; a column that a shard lacks is null there. The disk that
    `out` is on holds the rows twice for a while. `out` appears whole, or stays as it was.

    Args:
        data: files, folders, globs or URIs.
        out: the folder to write, on local disk.
        seed: 0 or more.
        overwrite: replace what an earlier shuffle wrote to `out`.
        memory_budget: bytes that the rows in memory may occupy; None for `runtime.memory_budget`.

    Raises:
        ConfigError: `out` is not empty, or overlaps the input; the seed or the budget is out of range.
        DataError: the data cannot be read, or shards have types for a column that do not go together.
    """
    steps = shuffle_steps(data, out, seed=seed, overwrite=overwrite, memory_budget=memory_budget)
    return drain(steps)


def shuffle_steps(
    data: Names,
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Generator[Progress, None, Shuffled]:
    """The job of `shuffle`, yielding progress; returns what was written."""
    folder, arguments = Path(out), names_of(data)
    budget = Settings().runtime.memory_budget if memory_budget is None else memory_budget
    check_numbers(seed, budget)
    with claimed(folder, "shuffle", arguments=arguments, overwrite=overwrite) as output:
        plan = make_plan(arguments)
        output.keep_apart(plan.local_files())
        schema = unified_schema(plan)
        for note in [*output.said(), *plan.warnings]:
            yield Progress.warning("data", note)
        output.needs_bytes = 2 * int(plan.decoded_bytes)
        buckets = output.work / BUCKETS
        buckets.mkdir()
        with output.opened() as new:
            result = yield from _shuffled(plan, schema, seed, budget, buckets, new)
        for note in output.said():
            yield Progress.warning("data", note)
    return Shuffled(folder, *result)


def _shuffled(
    plan: Plan, schema: pa.Schema, seed: int, budget: int, spill: Path, folder: Path
) -> Generator[Progress, None, tuple[int, int, int]]:
    """The two passes; returns the numbers of rows, files and row groups."""
    dealer = Dealer(materialized_schema(schema), spill, min(MAX_HELD_BYTES, budget // 4))
    buckets = dealer.buckets(0, 1 << TOP_BITS, sum(unit.rows * (unit.row_bytes + 8) for unit in plan.units))
    for done in dealer.deal(_numbered(plan, dealer, seed), buckets):
        yield Progress("deal", done, plan.rows)
    row_bytes = sum(bucket.num_bytes for bucket in buckets) / plan.rows
    groups = even_parts(plan.rows, group_rows(row_bytes, budget))
    files = even_parts(len(groups), max(FILE_GROUPS, int(FILE_BYTES / (groups[0] * row_bytes))))
    tables = cut((table for bucket in buckets for table in dealer.sorted(bucket)), groups)
    done = 0
    for index, count in enumerate(files):
        path = folder / f"part-{index:05d}.parquet"
        with committed(path) as temporary, open_writer(temporary, schema) as writer:
            for table in islice(tables, count):
                writer.write_table(table if table.schema.types == schema.types else table.cast(schema), GROUP_ROWS)
                done += table.num_rows
                yield Progress("write", done, plan.rows)
    return done, len(files), len(groups)


def _numbered(plan: Plan, dealer: Dealer, seed: int) -> Iterator[list[pa.Array]]:
    """Every row in the order of the plan, in pieces: its columns, then its number."""
    seen = 1.0
    for index, unit in enumerate(plan.units):
        random = np.random.Philox(key=np.random.SeedSequence([seed, index]).generate_state(2, np.uint64))
        names = plan.shards[unit.shard].schema.names
        rows = int(max(1, min(PIECE_ROWS, dealer.held_bytes / 4 / max(seen, unit.row_bytes))))
        for first_row, table in decode_unit(plan, unit, names, rows):
            arrays = aligned(table, dealer.schema, plan, unit, first_row)
            seen = max(seen, sum(array.nbytes for array in arrays) / table.num_rows)
            yield [*arrays, pa.array(random.random_raw(table.num_rows))]
