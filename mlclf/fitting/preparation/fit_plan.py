"""FitPlan: what was asked, and what is known of the data before all of it is read."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from mlclf.config.settings import Arguments, Settings
from mlclf.data.parquet.columns_for_polars import with_columns_for_polars
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.partial_passes import count_rows, time_cut, without_corrupt
from mlclf.data.passes.row_folds import row_folds
from mlclf.data.sampling.census import Census
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.agreement import check_shards, drift
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.globs import names_and_globs
from mlclf.data.schema.schema import Schema
from mlclf.data.where.condition import Where, parse_where
from mlclf.data.where.row_groups import check_where
from mlclf.errors import CorruptDataError
from mlclf.fitting.preparation.split_choice import resolve_split, with_group_parts
from mlclf.progress import Progress
from mlclf.training.hold_out import HoldOut


@dataclass(frozen=True)
class FitPlan:
    """What is fitted, on which rows.

    Attributes:
        arguments, settings: as given.
        where: the condition of `data.where`.
        plan, valid_plan: training data, and validation data where it is given.
        schema, split: roles of the columns, and parts of the rows.
        valid_census: how many rows of validation data `where` keeps; None for all.
    """

    arguments: Arguments
    settings: Settings
    where: Where | None
    plan: Plan
    valid_plan: Plan | None
    schema: Schema
    split: Split
    valid_census: Census | None = None

    @property
    def plans(self) -> list[Plan]:
        """Training data, then validation data where it is given."""
        return [self.plan] if self.valid_plan is None else [self.plan, self.valid_plan]

    @property
    def threads(self) -> int:
        return self.settings.runtime.threads or min(os.cpu_count() or 1, 16)

    @property
    def budget(self) -> int:
        return self.settings.runtime.memory_budget

    @property
    def skip_corrupt(self) -> bool:
        return self.settings.data.on_corrupt == "skip"

    def hold_out(self) -> HoldOut:
        """What each part of the rows is for."""
        if self.valid_plan is not None:
            return HoldOut.given()
        if self.split.kind == "folds":
            return HoldOut.folds(self.split.num_folds)
        return HoldOut.halves() if self.split.kind == "held_out" else HoldOut.nothing()


def plan_fit(arguments: Arguments, settings: Settings) -> Generator[Progress, None, FitPlan]:
    """Read footers, find the schema, and split the rows; warns where the data differs from what was asked."""
    where = None if settings.data.where is None else parse_where(settings.data.where)
    plan = make_plan(list(arguments.train or ()), skip_corrupt=settings.data.on_corrupt == "skip")
    valid_plan = None
    if arguments.valid:
        valid_plan = make_plan(list(arguments.valid)).with_folder_types(plan.folder_types)
    for each in filter(None, (plan, valid_plan)):
        for warning in each.warnings:
            yield Progress.warning("data", warning)
        check_where(each, where)
    split = resolve_split(arguments, settings, plan, valid_plan is not None)
    schema = _schema(arguments, settings, plan, split)
    for note in schema.notes:
        yield Progress.warning("data", note)
    schema = schema.without({split.group})
    if valid_plan is not None:
        check_shards(valid_plan, schema, filter(None, [schema.group]))
    yield from _column_warnings(arguments, settings, plan, schema)
    unused = tuple((name, "excluded, or not among the features") for name in drift(plan, schema))
    schema = replace(schema, ignored=schema.ignored + unused)
    asked = FitPlan(arguments, settings, where, plan, valid_plan, schema, split)
    if split.time is not None:
        split = replace(split, cut=time_cut(plan, split.time, split.fraction, asked.threads, where))
    split = yield from with_group_parts(split, plan, where)
    census = None
    if valid_plan is not None and where is not None:
        census = count_rows(valid_plan, Split(kind="none"), where, asked.threads)
    names = [*schema.feature_columns, *schema.labels, schema.weight, schema.group, split.group, split.time]
    plan = with_columns_for_polars(plan, list(filter(None, names)), asked.budget)
    return _with_row_folds(replace(asked, plan=plan, split=split, valid_census=census))


def _schema(arguments: Arguments, settings: Settings, plan: Plan, split: Split) -> Schema:
    return find_schema(
        plan,
        list(arguments.labels or ()),
        features=list(arguments.columns or ()),
        exclude=list(arguments.exclude or ()),
        weight=arguments.weight,
        key=arguments.key,
        group=arguments.group,
        roles=settings.features.roles,
        other_columns=[name for name in (split.time, split.group) if name and name != arguments.group],
        label_lists=settings.data.label_lists,
    )


def _column_warnings(arguments: Arguments, settings: Settings, plan: Plan, schema: Schema) -> Iterator[Progress]:
    """Warn of names that look like globs, and of columns that are left out."""
    given = {
        "--labels": arguments.labels,
        "--features": arguments.columns,
        "--exclude": arguments.exclude,
        "features.roles": settings.features.roles,
    }
    for option, patterns in given.items():
        for note in names_and_globs(plan, option, patterns or ()):
            yield Progress.warning("data", note)
    for name, reason in schema.ignored:
        yield Progress.warning("data", f"column {name!r} is left out: {reason}")


def _with_row_folds(asked: FitPlan) -> FitPlan:
    """The same with stratified folds where the split has them; leaves out damaged units if these are skipped."""

    def with_folds_of(plan: Plan) -> FitPlan:
        folds = row_folds(plan, asked.schema, asked.split, asked.settings.data.label_values, asked.where)
        return replace(asked, plan=plan, split=replace(asked.split, row_folds=folds))

    try:
        return with_folds_of(asked.plan)
    except CorruptDataError:
        sound = None
        if asked.skip_corrupt:
            sound = without_corrupt(asked.plan, asked.schema, asked.split, asked.where, asked.threads)
        if sound is None:
            raise
        return with_folds_of(sound)
