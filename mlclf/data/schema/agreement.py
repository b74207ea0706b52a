"""Whether every shard has the columns of the schema, with types that hold the same values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from mlclf.data.arrow.families import FAMILY_NAMES, LISTS, NUMBER_LISTS, SINGLE, TEXTS, UNDECIDED, family
from mlclf.data.features.roles import ROLES
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.schema import Schema
from mlclf.errors import ConfigError, DataError
from mlclf.messages import listed


def check_shards(plan: Plan, schema: Schema, others: Iterable[str] = (), *, with_labels: bool = True) -> None:
    """Raise one DataError that lists every shard where a column is missing or of another role."""
    expected = _expected_families(plan, schema, others, with_labels)
    problems = []
    for shard in plan.shards:
        present = {field.name: field.type for field in shard.schema}
        for name, accepted in expected.items():
            if name not in present:
                problems.append(f"{shard.source.name}: column {name!r} is missing")
            elif accepted is not None and family(present[name]) not in accepted:
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
        allowed = {"--weight": ("number", "null"), "--key": tuple(FAMILY_NAMES)}.get(flag, (*SINGLE, "null"))
        if name not in columns:
            near = difflib.get_close_matches(name, list(columns), n=3, cutoff=0.5) or list(columns)[:5]
            problems.append(f"{flag}: no column {name!r}; the nearest columns are {', '.join(map(repr, near))}")
        elif columns[name].partition(":")[0] not in allowed:
            *first, last = (FAMILY_NAMES[kind] for kind in allowed if kind != "null")
            words = f"{', '.join(first)} or {last}" if first else last
            found = FAMILY_NAMES[columns[name].partition(":")[0]]
            problems.append(f"{flag}: column {name!r} must hold {words}, found {found}; name another column")
    if problems:
        raise ConfigError(listed(problems))


def column_families(plan: Plan) -> dict[str, str]:
    """Family of every column in first-seen order; the first shard where it is not null decides."""
    families: dict[str, str] = {}
    for shard in plan.shards:
        for column in shard.schema:
            found = family(column.type)
            known = families.setdefault(column.name, found)
            if known == "null" or (known == "empty" and found != "null"):
                families[column.name] = found
    return families


def _expected_families(
    plan: Plan, schema: Schema, others: Iterable[str], with_labels: bool
) -> dict[str, set[str] | None]:
    """Column → the families that it may have in each shard; None for any."""
    columns = column_families(plan)
    expected = {name: _comparable(columns.get(name, "null")) for name in others}
    for column in schema.features:
        role, known = ROLES[column.role], columns.get(column.name)
        if known in SINGLE and known in role.families:
            expected[column.name] = _comparable(known)
        else:
            widths = {f"vector:{column.width}" if each == "vector" else each for each in role.families}
            expected[column.name] = widths.union(role.undecided)
        if column.values_column is not None:
            expected[column.values_column] = {*role.second_families, "null"}
    for name in schema.labels if with_labels else ():
        if schema.elements:
            expected[name] = {f"vector:{schema.elements}", *NUMBER_LISTS, *UNDECIDED}
        else:
            expected[name] = {*LISTS, "null"} if schema.tags else _comparable(columns.get(name, "null"))
    return expected


def _comparable(known: str) -> set[str] | None:
    """The families whose values can be compared with those of a family."""
    return None if known == "null" else {known, "null", *(TEXTS if known in TEXTS else ())}


def _role_of(schema: Schema, name: str) -> str:
    for column in schema.features:
        if column.name == name:
            return f"{column.role} of {column.width}" if column.width else column.role
        if column.values_column == name:
            return "the values of a sparse pair"
    if name in schema.labels:
        if schema.elements:
            return f"a list of {schema.elements} labels"
        return "a list of tags" if schema.tags else "a label like in the other shards"
    return "as in the other shards"
