"""`split`: the rows of a data set in folders for training, validation and testing, each row in exactly one."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.config.settings import Settings
from mlclf.data.arrow.row_hashes import group_hashes, is_missing, row_hashes
from mlclf.data.arrow.times import time_values
from mlclf.data.convert.row_groups import check_numbers
from mlclf.data.convert.row_writer import RowsWritten, rows_written
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.group_parts import GroupSizes, dealt, group_sizes, is_far
from mlclf.data.passes.partial_passes import time_cut
from mlclf.data.sampling.splits import GroupParts
from mlclf.data.sampling.stratification import Stratifier
from mlclf.data.schema.common_schema import aligned, unified_schema
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.globs import names_and_globs
from mlclf.errors import ConfigError, DataError
from mlclf.names import Names, names_of
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain

PIECE_ROWS = 16_384
PIECE_BYTES = 32 << 20
MAX_PARTS = 100

Parts = Callable[[int, pa.Table], NDArray[np.int8]]
"""First row's number and the rows → part of each row."""


@dataclass(frozen=True)
class SplitData:
    """What was written: the folders of the parts, by name, and the rows of each."""

    folder: Path
    rows: dict[str, int]


def split(
    data: Names,
    out: str | Path,
    fractions: Sequence[float],
    by: str = "hash",
    *,
    labels: Sequence[str] = (),
    names: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> SplitData:
    """Write the rows of a data set to a folder for each fraction, in their order, each row to exactly one.

    Two folders are called train and test, three train, valid and test, more part_0, part_1 …, unless `names` says
    otherwise. `out` appears whole, or stays as it was. Memory holds a piece of the input and a row group for each part.

    Args:
        data: files, folders, globs or URIs.
        out: the folder to write, on local disk.
        fractions: two or more, positive, of sum 1: the share of rows of each part.
        by: `hash` of the row's number; `key:COL` or `group:COL`, hash of a column's value, or the rows of few groups,
            so that equal values stay together (a row without a value is a group of its own); `time:COL`, the earliest
            rows in the first part (rows without a time too); `stratified`, so that each of `labels` has its share in
            each part.
        labels: label columns or globs, or one list column of tags, for `stratified`.
        names: of the folders, one for each fraction.
        seed: 0 or more; decides the hash and the stratification.
        overwrite: replace what an earlier split wrote to `out`.
        memory_budget: bytes that row groups are made for; None for `runtime.memory_budget`.

    Raises:
        ConfigError: an option is out of range, a column is missing, or `out` may not be written.
        DataError: the data cannot be read.
    """
    steps = split_steps(
        data, out, fractions, by, labels=labels, names=names, seed=seed, overwrite=overwrite,
        memory_budget=memory_budget,
    )  # fmt: skip
    return drain(steps)


def split_steps(
    data: Names,
    out: str | Path,
    fractions: Sequence[float],
    by: str = "hash",
    *,
    labels: Sequence[str] = (),
    names: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Generator[Progress, None, SplitData]:
    """The job of `split`, yielding progress; returns what was written."""
    folder, arguments = Path(out), names_of(data)
    budget = Settings().runtime.memory_budget if memory_budget is None else memory_budget
    check_numbers(seed, budget)
    _check_fractions(fractions)
    names = part_names(len(fractions)) if names is None else list(names)
    _check_names(names, len(fractions))
    with claimed(folder, "split", arguments=arguments, overwrite=overwrite) as output:
        plan = make_plan(arguments)
        output.keep_apart(plan.local_files())
        schema = unified_schema(plan)
        parts_of = _parts_by(by, plan, np.asarray(fractions, np.float64) / sum(fractions), labels, seed)
        for note in [*output.said(), *plan.warnings, *names_and_globs(plan, "--labels", labels)]:
            yield Progress.warning("data", note)
        output.needs_bytes = sum(shard.source.size_bytes for shard in plan.shards)
        with output.opened() as new, ExitStack() as stack:
            room = budget // len(names)
            writers = [stack.enter_context(rows_written(new / name, schema, room)) for name in names]
            yield from _dealt(plan, schema, parts_of, writers)
        for note in [*output.said(), *_far_parts(by, names, [writer.rows for writer in writers], fractions)]:
            yield Progress.warning("data", note)
    return SplitData(folder, {name: writer.rows for name, writer in zip(names, writers, strict=True)})


def _dealt(plan: Plan, schema: pa.Schema, parts_of: Parts, writers: Sequence[RowsWritten]) -> Iterator[Progress]:
    """Give each row to the writer of its part."""
    done = 0
    for unit in plan.units:
        rows = int(max(1, min(PIECE_ROWS, PIECE_BYTES / max(1.0, unit.row_bytes))))
        for first_row, piece in decode_unit(plan, unit, schema.names, rows):
            table = pa.Table.from_arrays(aligned(piece, schema, plan, unit, first_row), schema=schema)
            parts = parts_of(first_row, table)
            for part, writer in enumerate(writers):
                writer.add(table.take(pa.array(np.flatnonzero(parts == part))))
            done += table.num_rows
            yield Progress("split", done, plan.rows)


def _far_parts(by: str, names: Sequence[str], rows: Sequence[int], fractions: Sequence[float]) -> Iterator[str]:
    """A line where parts have other shares of the rows than was asked for."""
    if is_far(rows, fractions):
        found = ", ".join(
            f"{name} has {count:,} ({count / max(1, sum(rows)):.0%}, for {fraction:.0%})"
            for name, count, fraction in zip(names[:10], rows, fractions, strict=False)
        )
        kept = {"group": "; groups stay together", "key": "; equal keys stay together", "time": "; equal times too"}
        yield f"the parts are not those asked for: {found}{kept.get(by.partition(':')[0], '')}"


def part_names(count: int) -> list[str]:
    """Folders of so many parts.

    >>> part_names(3), part_names(4)
    (['train', 'valid', 'test'], ['part_0', 'part_1', 'part_2', 'part_3'])
    """
    known = {2: ["train", "test"], 3: ["train", "valid", "test"]}
    return known.get(count) or [f"part_{index}" for index in range(count)]


def _check_fractions(fractions: Sequence[float]) -> None:
    good = 2 <= len(fractions) <= MAX_PARTS and all(fraction > 0 for fraction in fractions)
    if not good or abs(sum(fractions) - 1) > 1e-6:
        shown = ",".join(f"{fraction:g}" for fraction in fractions[:8])
        raise ConfigError(f"--fractions must be 2 to {MAX_PARTS} positive numbers of sum 1, got {shown!r}")


def _check_names(names: Sequence[str], count: int) -> None:
    if len(names) != count:
        raise ConfigError(f"--names must be as many as --fractions, {count}, got {len(names)}")
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name) or names.count(name) > 1:
            raise ConfigError(
                f"--names must be distinct, of letters, digits, '_', '-' and '.', and not begin with '.', got {name!r}"
            )


def _parts_by(by: str, plan: Plan, fractions: NDArray[np.float64], labels: Sequence[str], seed: int) -> Parts:
    """The function that gives rows their parts.

    Raises:
        ConfigError: `by` is none of the ways, or names no column.
    """
    bounds = np.cumsum(fractions)[:-1]
    way, _, column = by.partition(":")
    if by == "stratified":
        return _stratified(plan, fractions, labels, seed)
    if labels:
        raise ConfigError(f"--labels: is for --by stratified only, got --by {by}")
    if by == "hash":
        return lambda first_row, table: _by_hash(row_hashes(first_row + np.arange(table.num_rows), seed), bounds)
    if way not in ("key", "group", "time") or not column:
        raise ConfigError(f"--by must be hash, key:COL, time:COL, group:COL or stratified, got {by!r}")
    if way == "time":
        with _flags_of_fit_as_by():
            find_schema(plan, (), other_columns=[column])
            cuts = np.array([time_cut(plan, column, float(1 - bound), threads=1) for bound in bounds])
        return lambda _, table: np.searchsorted(cuts, time_values(table.column(column), column)).astype(np.int8)
    with _flags_of_fit_as_by():
        find_schema(plan, (), **{way: column})  # type: ignore[arg-type]  # `group` and `key` are two of its names
    known = _group_parts(group_sizes(plan, column, seed), fractions, bounds)

    def parts(first_row: int, table: pa.Table) -> NDArray[np.int8]:
        groups, rows = group_hashes(table.column(column), seed), row_hashes(first_row + np.arange(table.num_rows), seed)
        hashes = np.where(is_missing(groups, seed), rows, groups)
        return known.of(groups, _by_hash(hashes, bounds))

    return parts


def _group_parts(sizes: GroupSizes | None, fractions: NDArray[np.float64], bounds: NDArray[np.float64]) -> GroupParts:
    """Parts of groups where their hashes share the rows out unevenly; of no group where they do not."""
    if sizes is None or not len(sizes.hashes):
        return GroupParts(np.zeros(0, np.uint64), np.zeros(0, np.int8))
    rows = np.bincount(_by_hash(sizes.hashes, bounds), sizes.rows, len(fractions)) + fractions * sizes.alone
    uneven = is_far(rows.tolist(), fractions.tolist())
    return GroupParts(sizes.hashes, dealt(sizes, fractions) if uneven else _by_hash(sizes.hashes, bounds))


@contextmanager
def _flags_of_fit_as_by() -> Iterator[None]:
    """Name the flag of `split` in messages that name that of `fit`."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(re.sub(r"^--(valid-by|group|key)\b", "--by", str(error))) from None


def _by_hash(hashes: NDArray[np.uint64], bounds: NDArray[np.float64]) -> NDArray[np.int8]:
    return np.searchsorted(bounds, (hashes >> np.uint64(11)) * 2.0**-53, "right").astype(np.int8)


def _stratified(plan: Plan, fractions: NDArray[np.float64], names: Sequence[str], seed: int) -> Parts:
    if not names:
        raise ConfigError("--by stratified: labels must be given with --labels")
    schema, stratifier = find_schema(plan, names, needs_inputs=False), Stratifier(fractions, seed)
    labels = make_labels(schema, {})

    def parts(first_row: int, table: pa.Table) -> NDArray[np.int8]:
        rows, positives = labels.positives(table, plan.locate(first_row))
        return stratifier.parts(rows, positives, table.num_rows)

    return parts
