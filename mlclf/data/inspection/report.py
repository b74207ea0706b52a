"""What a data set holds: files, row groups, columns with their roles, labels, and what a fit would make of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mlclf.config.settings import Settings
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.features.roles import ROLES
from mlclf.data.inspection.fit_memory import FitSize
from mlclf.data.inspection.warnings import (
    footer_warnings,
    identifier_warnings,
    json_value,
    mixing_warnings,
    one_sided_warnings,
    size_warnings,
)
from mlclf.data.parquet.column_statistics import ColumnFooter, Footers, read_footers
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.globs import matches, names_and_globs
from mlclf.data.schema.schema import Schema
from mlclf.names import Names, names_of
from mlclf.progress import drain

FORMAT_VERSION = 1
ID_BYTES = 8
"""Of an id of a row with its value, or the place where its list ends."""

ROW_BYTES = 40
"""Of an encoded row, beside its inputs and labels: where its ids begin, weight, row number, order."""


def inspect(
    data: Names,
    labels: Names = (),
    *,
    features: Sequence[str] = (),
    exclude: Sequence[str] = (),
    weight: str | None = None,
    key: str | None = None,
    group: str | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Return what a data set holds, as values that JSON can hold.

    Without labels only footers are read, and a few bytes of each file. With labels every row is decoded once, as the
    first step of a fit does it, so whatever a fit would refuse in the data is refused here too.

    Args:
        data: files, folders, globs or URIs.
        labels: label columns or globs, or one list column of tags.
        features, exclude, weight, key, group: as for `fit`.
        settings: as for `fit`; None for the defaults.

    Raises:
        ConfigError: a name matches no column, or two parts claim one.
        DataError: the data cannot be read, or a fit would refuse it.
    """
    settings, labels = settings or Settings(), names_of(labels, "labels")
    plan = make_plan(data)
    footers = read_footers(plan.shards)
    names = dict.fromkeys(name for shard in plan.shards for name in shard.schema.names)
    columns = {name: _column_footer(footers, name) for name in names}
    find = partial(
        find_schema,
        plan,
        features=features,
        exclude=exclude,
        weight=weight,
        key=key,
        group=group,
        roles=settings.features.roles,
        label_lists=settings.data.label_lists,
    )
    schema = _without_inputs(find(()), labels) or find(labels)
    found = _label_pass(plan, schema, settings) if labels and schema.features else None
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "rows": plan.rows,
        "files": _files(plan, footers),
        "row_groups": _sizes([rows for shard in plan.shards for rows in shard.group_rows]),
        "units": _sizes([unit.rows for unit in plan.units]),
        "compression": dict(footers.codecs.most_common()) if footers else {},
        "columns": [_column(plan, name, column, _role(schema, name)) for name, column in columns.items()],
        "ignored": [{"name": name, "reason": reason} for name, reason in schema.ignored],
        "warnings": [*plan.warnings, *names_and_globs(plan, "--labels", labels), *size_warnings(plan)],
    }
    if footers is None:
        report["warnings"].append(
            "the footers' statistics of the columns cannot be read: a file is damaged, or encrypted"
        )
    if found is not None:
        mixing = _mixing(plan, schema, found, settings)
        report |= {"labels": found.labels, "inputs": found.inputs, "mixing": mixing}
        report["warnings"] += [*found.warnings, *mixing_warnings(mixing)]
    else:
        report["warnings"] += footer_warnings(plan, schema, columns)
    report["memory"] = _memory(plan, _fit_size(plan, schema, columns, found), settings)
    return report


@dataclass
class _Pass:
    """What the pass over the rows found."""

    labels: dict[str, dict[str, Any]]
    inputs: dict[str, int]
    warnings: list[str]
    row_bytes: float
    decoded_row_bytes: float
    num_splined: int
    row_ids: float


def _column(plan: Plan, name: str, footer: ColumnFooter, role: str) -> dict[str, Any]:
    found = [shard for shard in plan.shards if name in shard.schema.names]
    rows = sum(shard.rows for shard in found)
    return {
        "name": name,
        "type": " / ".join(dict.fromkeys(str(shard.schema.field(name).type) for shard in found)),
        "role": role,
        "null_share": None if footer.nulls is None else footer.nulls / max(1, rows),
        "min": json_value(footer.low),
        "max": json_value(footer.high),
        "bytes": footer.bytes,
    }


def _without_inputs(schema: Schema, labels: Sequence[str]) -> Schema | None:
    """The schema where nothing is left to learn from beside the labels, which a fit refuses and a report shows."""
    named = [name for name in schema.feature_columns if any(matches(name, pattern) for pattern in labels)]
    if any(column.name not in named for column in schema.features):
        return None
    return replace(schema, features=(), labels=tuple(named))


def _role(schema: Schema, name: str) -> str:
    if name in schema.labels:
        return "tags" if schema.tags else "label"
    for role in ("weight", "key", "group"):
        if name == getattr(schema, role):
            return role
    for column in schema.features:
        if name == column.name:
            return column.role
        if name == column.values_column:
            return "sparse values"
    return "ignored" if any(name == ignored for ignored, _ in schema.ignored) else "excluded"


def _column_footer(footers: Footers | None, name: str) -> ColumnFooter:
    unknown = ColumnFooter(nulls=None, is_bounded=False)
    return footers.columns.get(name, unknown) if footers else unknown


def _files(plan: Plan, footers: Footers | None) -> dict[str, Any]:
    checksums = footers.checksums if footers else {}
    return {
        "count": len(plan.shards),
        "bytes": sum(shard.source.size_bytes for shard in plan.shards),
        "names": [shard.source.name for shard in plan.shards],
        "with_page_checksums": sum(has is True for has in checksums.values()),
        "without_page_checksums": [name for name, has in checksums.items() if has is False],
        "empty": [shard.source.name for shard in plan.shards if not shard.rows],
    }


def _sizes(rows: Sequence[int]) -> dict[str, int]:
    return {
        "count": len(rows),
        "min_rows": min(rows, default=0),
        "median_rows": int(statistics.median(rows)) if rows else 0,
        "max_rows": max(rows, default=0),
    }


def _label_pass(plan: Plan, schema: Schema, settings: Settings) -> _Pass:
    """Read every row once, as the first step of a fit."""
    from mlclf.data.passes.statistics import fit_statistics  # loads torch, which footers alone do not need
    from mlclf.data.sampling.splits import Split

    found = drain(
        fit_statistics(
            plan,
            schema,
            Split(),
            label_values=settings.data.label_values,
            options=EncodingOptions.of(settings.features),
            threads=settings.runtime.threads or 2,
        )
    )
    positives, observed = found.counts.positive_rows[0].tolist(), found.counts.rows[0].tolist()
    labels = {
        name: {
            "positives": positives[index],
            "observed": observed[index],
            "nulls": plan.rows - observed[index],
            "prevalence": positives[index] / observed[index] if observed[index] else None,
        }
        for index, name in enumerate(found.label_names)
    }
    inputs = {"dense": found.features.num_dense, "vocabulary": found.features.vocabulary_size}
    warnings = [*found.warnings, *identifier_warnings(found.features, plan.rows), *one_sided_warnings(labels)]
    fixed = 4 * found.features.num_dense + len(labels) + ROW_BYTES
    ids = found.features.num_tokens
    row_ids = max(0.0, (found.row_bytes - fixed) / ID_BYTES) if ids is None else ids
    num_splined = sum(1 for _ in found.features.spline_inputs())
    return _Pass(labels, inputs, warnings, found.row_bytes, found.decoded_row_bytes, num_splined, row_ids)


def _mixing(plan: Plan, schema: Schema, found: _Pass, settings: Settings) -> dict[str, Any]:
    """How well the pool that a fit would have mixes the rows."""
    from mlclf.data.inspection.mixing import BATCH_ROWS, estimate_mixing
    from mlclf.data.streaming.memory_budget import pool_of_rows

    num_columns, budget = len(schema.feature_columns) + len(schema.labels), settings.runtime.memory_budget
    pool = pool_of_rows(plan, found.row_bytes, found.decoded_row_bytes, num_columns, budget)
    chosen = settings.training.batch_rows
    mixing = estimate_mixing(
        plan,
        schema,
        settings.data.label_values,
        slabs=pool.slabs,
        slab_rows=pool.slab_rows,
        lanes=pool.lanes,
        batch_rows=plan.rows if chosen == "all" else chosen or BATCH_ROWS,
    )
    return mixing.to_json()


def _row_bytes(plan: Plan, schema: Schema, columns: Mapping[str, ColumnFooter], found: _Pass | None) -> float:
    """Bytes of an encoded row: as the pass found them, else from the roles and the counts in the footers."""
    if found is not None:
        return found.row_bytes
    total = ROW_BYTES + float(len(schema.labels))
    for column in schema.features:
        items = max(1.0, columns[column.name].items / max(1, plan.rows))
        total += ROLES[column.role].row_bytes(column, items)
    return total


def _fit_size(plan: Plan, schema: Schema, columns: Mapping[str, ColumnFooter], found: _Pass | None) -> FitSize:
    """How large a fit would be: as the pass found it, else from the roles and the counts in the footers."""
    row_bytes = _row_bytes(plan, schema, columns, found)
    if found is not None:
        dense, vocabulary = found.inputs["dense"], found.inputs["vocabulary"]
        return FitSize(plan.rows, row_bytes, len(found.labels), dense, vocabulary, found.num_splined, found.row_ids)
    numeric = sum(ROLES[column.role].takes_splines for column in schema.features)
    dense = sum(max(1, column.width) for column in schema.features if not ROLES[column.role].gives_ids)
    ids = max(0.0, (row_bytes - ROW_BYTES - 4 * dense) / ID_BYTES)
    return FitSize(plan.rows, row_bytes, len(schema.labels), dense, 0, numeric, ids)


def _memory(plan: Plan, size: FitSize, settings: Settings) -> dict[str, Any]:
    """What the rows take decoded and encoded, and about what a fit of them takes in all."""
    budget = settings.runtime.memory_budget
    return {
        "decoded_bytes": int(plan.decoded_bytes),
        "encoded_bytes": int(plan.rows * size.row_bytes),
        "budget_bytes": budget,
        "fit_bytes": size.estimated_bytes(budget),
    }
