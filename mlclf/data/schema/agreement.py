"""Whether every shard has the columns of the schema, with types that hold the same values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.families import (
    FAMILY_WORDS,
    LISTS,
    NUMBER_LISTS,
    SINGLE,
    UNDECIDED,
    WORDS,
    column_families,
    family,
)
from mlclf.data.schema.schema import CATEGORICAL, EMBEDDING, NUMERIC, SPARSE, TEXT, TOKENS, Schema
from mlclf.errors import ConfigError, DataError
from mlclf.messages import listed


def check_shards(plan: Plan, schema: Schema, others: Iterable[str] = (), *, with_labels: bool = True) -> None:
    """Raise one DataError that lists every shard where a column is missing or of another role."""
    expected = _expected_families(plan, schema, others, with_labels)
    problems = []
    for shard in plan.shards:
        present = {field.name: field.type for field in shard.schema}
        for name, accepts in expected.items():
            if name not in present:
                problems.append(f"{shard.source.name}: column {name!r} is missing")
            elif not accepts(family(present[name])):
                problems.append(
                    f"{shard.source.name}: column {name!r} must be {_role_of(schema, name)}, got {present[name]}"
                )
    if problems:
        raise DataError(
            listed(problems) + "\nevery shard must have the same columns in the same roles; mend these files, or write "
            "all of them anew with 'mlclf shuffle', which fills columns that a file lacks with nulls"
        )


def drift(plan: Plan, schema: Schema) -> list[str]:
    """Columns of the data that the schema does not know: [names]."""
    known = set(schema.feature_columns) | set(schema.labels) | {schema.weight, schema.key, schema.group}
    known |= {name for name, _ in schema.ignored}
    seen = dict.fromkeys(name for shard in plan.shards for name in shard.schema.names)
    return [name for name in seen if name not in known]


def check_parts(
    columns: Mapping[str, str], parts: Sequence[tuple[str, str | None]], other_columns: Sequence[str]
) -> None:
    """Refuse columns of weights, keys, groups and splits that are not there, or of a type that cannot serve."""
    problems = []
    for flag, name in [*parts, *(("--valid-by", name) for name in other_columns)]:
        if name is None:
            continue
        allowed = {"--weight": ("number", "null"), "--key": tuple(FAMILY_WORDS)}.get(flag, (*SINGLE, "null"))
        if name not in columns:
            near = difflib.get_close_matches(name, list(columns), n=3, cutoff=0.5) or list(columns)[:5]
            problems.append(f"{flag}: no column {name!r}; the nearest columns are {', '.join(map(repr, near))}")
        elif columns[name].partition(":")[0] not in allowed:
            *first, last = (FAMILY_WORDS[kind] for kind in allowed if kind != "null")
            words = f"{', '.join(first)} or {last}" if first else last
            found = FAMILY_WORDS[columns[name].partition(":")[0]]
            problems.append(f"{flag}: column {name!r} must hold {words}, found {found}; name another column")
    if problems:
        raise ConfigError(listed(problems))


def _expected_families(
    plan: Plan, schema: Schema, others: Iterable[str], with_labels: bool
) -> dict[str, Callable[[str], bool]]:
    """Column → whether a family is acceptable for its role."""
    expected: dict[str, Callable[[str], bool]] = {}
    columns = column_families(plan)
    for name in others:
        expected[name] = _accepts(columns.get(name, "null"))
    for column in schema.features:
        role_families = {
            NUMERIC: ("number", "null"),
            CATEGORICAL: (*SINGLE, "null"),
            TOKENS: (*LISTS, "null"),
            TEXT: ("string", "bytes", "null"),
            EMBEDDING: (f"vector:{column.width}", *NUMBER_LISTS, *UNDECIDED),
            SPARSE: ("integers", "empty", "null"),
        }[column.role]
        expected[column.name] = _one_of(role_families)
        if column.role == CATEGORICAL and columns.get(column.name) in SINGLE:
            expected[column.name] = _accepts(columns[column.name])
        if column.role == CATEGORICAL and columns.get(column.name) in WORDS:
            expected[column.name] = _one_of((*WORDS, "null"))
        if column.values_column is not None:
            expected[column.values_column] = _one_of(("floats", "integers", "empty", "null"))
    if with_labels:
        for name in schema.labels:
            if schema.elements:
                expected[name] = _one_of((f"vector:{schema.elements}", *NUMBER_LISTS, *UNDECIDED))
                continue
            expected[name] = _one_of((*LISTS, "null")) if schema.tags else _accepts(columns.get(name, "null"))
    return expected


def _accepts(kind: str) -> Callable[[str], bool]:
    return lambda other: other in (kind, "null") or kind == "null" or (kind in WORDS and other in WORDS)


def _one_of(kinds: tuple[str, ...]) -> Callable[[str], bool]:
    return lambda other: other in kinds


def _role_of(schema: Schema, name: str) -> str:
    for column in schema.features:
        if column.name == name:
            return f"embedding of {column.width}" if column.role == EMBEDDING else column.role
        if column.values_column == name:
            return "the values of a sparse pair"
    if name in schema.labels:
        if schema.elements:
            return f"a list of {schema.elements} labels"
        return "a list of tags" if schema.tags else "a label like in the other shards"
    return "as in the other shards"
