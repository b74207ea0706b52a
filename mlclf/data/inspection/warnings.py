"""What to mend in data before it is trained on."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlclf.data.features.roles import ROLES
from mlclf.data.parquet.column_statistics import ColumnFooter
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.schema import Schema

if TYPE_CHECKING:
    from mlclf.data.features.encoder import FeatureEncoder


def json_value(value: Any) -> bool | int | float | str | None:
    """A value that JSON can hold."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


MANY_GROUPS, SMALL_GROUP_ROWS = 100, 4_096
MANY_LEVELS = 1_000
NOTICED_RATIO, SORTED_RATIO = 1.05, 2.0
"""Deviation of batch means against a random order: below the first it is as good, above the second it is warned of."""


def size_warnings(plan: Plan) -> Iterator[str]:
    """What the sizes of files and row groups give reason to say."""
    empty = sum(not shard.rows for shard in plan.shards)
    if empty:
        yield f"{empty:,} of {len(plan.shards):,} files have no rows"
    rows = [rows for shard in plan.shards for rows in shard.group_rows if rows]
    if len(rows) > MANY_GROUPS and statistics.median(rows) < SMALL_GROUP_ROWS:
        yield (
            f"row groups are small ({int(statistics.median(rows)):,} rows in the middle), which makes reading "
            "several times slower; write them with 50,000 rows or more"
        )


def footer_warnings(plan: Plan, schema: Schema, columns: Mapping[str, ColumnFooter]) -> Iterator[str]:
    """What a pass over the rows would say of the columns, as far as the footers tell."""
    if not schema.features:
        yield "no column can be an input: every one is a label, left out, or of a type that cannot be read"
    for feature in schema.features:
        column = columns[feature.name]
        bounds_differ = not column.is_bounded or column.low != column.high
        if column.nulls is not None and column.nulls == plan.rows:
            yield f"column {feature.name!r} has no value in any row; a fit leaves it out"
        elif ROLES[feature.role].takes_splines and column.nulls == 0 and not bounds_differ and column.low is not None:
            yield f"column {feature.name!r} is constant ({json_value(column.low)}); a fit leaves it out"


def mixing_warnings(mixing: Mapping[str, Any]) -> Iterator[str]:
    worst = mixing["worst"]
    if worst is not None and worst["deviation_ratio"] > SORTED_RATIO:
        yield (
            f"the rows are sorted by label: batch means of {worst['label']!r} deviate {worst['deviation_ratio']:.1f} "
            "times as much as in a random order, which makes training by batches noisy; write them in random order "
            "once with 'mlclf shuffle DATA --out DIR', or raise runtime.memory_budget"
        )


def identifier_warnings(features: FeatureEncoder, rows: int) -> Iterator[str]:
    """Columns whose values hardly ever repeat."""
    for column in features.columns:
        if column.distinct_values > max(MANY_LEVELS, rows / 2):
            yield (
                f"column {column.name!r} has {column.distinct_values:,} distinct values in {rows:,} rows; "
                "if it names the row, give it as --key or --exclude"
            )


def one_sided_warnings(labels: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Labels that nothing can be learned about, in one line each kind."""
    kinds = {
        "have no observed row": [name for name, found in labels.items() if not found["observed"]],
        "have no positive row": [
            name for name, found in labels.items() if found["observed"] and not found["positives"]
        ],
        "have no negative row": [
            name for name, found in labels.items() if found["observed"] and found["positives"] == found["observed"]
        ],
    }
    for what, names in kinds.items():
        if names:
            shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield f"{len(names)} of {len(labels)} labels {what}: {shown}"
