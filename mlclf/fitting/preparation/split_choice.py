"""Which rows are held out: as the arguments say, or by default; groups of rows stay together."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from mlclf.config.settings import Arguments, Settings
from mlclf.data.parquet.plan import Plan
from mlclf.data.passes.group_parts import FAR, GroupSizes, even_folds, group_sizes, held_out
from mlclf.data.sampling.splits import TRAIN, Split, held_out_parts
from mlclf.data.where.condition import Where
from mlclf.errors import DataError
from mlclf.progress import Progress

FOLDS_UP_TO_ROWS = 200_000
DEFAULT_FOLDS = 5
DEFAULT_FRACTION = 0.1


def resolve_split(arguments: Arguments, settings: Settings, plan: Plan, has_valid: bool) -> Split:
    """The split that the arguments ask for, or the default for this number of rows."""
    seed, group = settings.training.seed, arguments.group
    if has_valid:
        return Split(kind="none")
    if arguments.valid_by is not None:
        kind, _, column = arguments.valid_by.partition(":")
        if kind == "group":
            return Split("held_out", fraction=DEFAULT_FRACTION, seed=seed, group=column)
        return Split("held_out", fraction=DEFAULT_FRACTION, seed=seed, group=group, time=column)
    if arguments.folds is not None:
        return Split("folds", num_folds=arguments.folds, seed=seed, group=group)
    fraction = arguments.valid_fraction
    if fraction is None and plan.rows <= FOLDS_UP_TO_ROWS:
        return Split("folds", num_folds=min(DEFAULT_FOLDS, max(2, plan.rows)), seed=seed, group=group)
    if fraction == 0:
        return Split(kind="none")
    return Split("held_out", fraction=fraction or DEFAULT_FRACTION, seed=seed, group=group)


def with_group_parts(split: Split, plan: Plan, where: Where | None) -> Generator[Progress, None, Split]:
    """Assign whole groups to the parts of a split, evenly by rows; warns where groups are too few or too large.

    Raises:
        DataError: all rows are of one group.
    """
    if split.group is None or split.kind == "none" or split.time is not None:
        return split
    sizes = group_sizes(plan, split.group, split.seed, where)
    if sizes is None or not sizes.total:
        return split
    if sizes.count < 2:
        raise DataError(
            f"--group: column {split.group!r} must have two groups or more to hold rows out by, and all "
            f"{sizes.total:,} rows are of one; name another column, or give --valid DATA or --valid-fraction 0"
        )
    return (yield from (_in_folds if split.kind == "folds" else _in_parts)(split, sizes))


def _in_folds(split: Split, sizes: GroupSizes) -> Generator[Progress, None, Split]:
    folds = min(split.num_folds, sizes.count)
    if folds < split.num_folds:
        yield Progress.warning(
            "data",
            f"--group: column {split.group!r} has {folds} groups, so there are {folds} folds, not {split.num_folds}",
        )
    largest = int(sizes.rows.max(initial=0)) / sizes.total
    if largest > 2 / folds:
        yield Progress.warning(
            "data",
            f"--group: one group of column {split.group!r} has {largest:.0%} of the rows, and groups stay together: "
            "its rows are scored by a model of few rows",
        )
    return replace(split, num_folds=folds, group_parts=even_folds(sizes, folds))


def _in_parts(split: Split, sizes: GroupSizes) -> Generator[Progress, None, Split]:
    by_hash = held_out_parts(sizes.hashes, split.fraction)
    parts = held_out(sizes, split.fraction, by_hash)
    held = float(sizes.rows[(by_hash if parts is None else parts.parts) != TRAIN].sum())
    share = held / sizes.total + split.fraction * sizes.alone / sizes.total
    if abs(share - split.fraction) > FAR * split.fraction:
        yield Progress.warning(
            "data",
            f"--group: the held-out groups of column {split.group!r} have {share:.0%} of the rows, "
            f"{split.fraction:.0%} were asked for: groups stay together, and are few or large",
        )
    return replace(split, group_parts=parts)
