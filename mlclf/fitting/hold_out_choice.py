"""Which rows are held out where the user says nothing."""

from __future__ import annotations

from mlclf.config.settings import Arguments, Settings
from mlclf.data.parquet.plan import Plan
from mlclf.data.sampling.splits import Split

FOLDS_UP_TO_ROWS = 200_000
DEFAULT_FOLDS = 5
DEFAULT_FRACTION = 0.1


def resolve_split(arguments: Arguments, settings: Settings, plan: Plan, has_valid: bool) -> Split:
    """The split that the arguments ask for, or the default for this number of rows."""
    seed = settings.training.seed
    if has_valid:
        return Split(kind="none")
    if arguments.valid_by is not None:
        kind, _, column = arguments.valid_by.partition(":")
        column_of = {
            "group": column if kind == "group" else arguments.group,
            "time": column if kind == "time" else None,
        }
        return Split("held_out", fraction=DEFAULT_FRACTION, seed=seed, group=column_of["group"], time=column_of["time"])
    if arguments.folds is not None:
        return Split("folds", num_folds=arguments.folds, seed=seed, group=arguments.group)
    fraction = arguments.valid_fraction
    if fraction is None and plan.rows <= FOLDS_UP_TO_ROWS:
        return Split("folds", num_folds=min(DEFAULT_FOLDS, max(2, plan.rows)), seed=seed, group=arguments.group)
    if fraction == 0:
        return Split(kind="none")
    return Split("held_out", fraction=fraction or DEFAULT_FRACTION, seed=seed, group=arguments.group)
