"""Column roles, found from the Parquet schemas or declared, and the check that every shard agrees."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import shlex
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from glob import escape
from typing import Any

import pyarrow as pa

from mlclf.data.arrow.arrays import is_text
from mlclf.data.arrow.identities import is_bytes
from mlclf.data.arrow.layouts import is_list
from mlclf.data.parquet.planning import Plan
from mlclf.data.schema.label_lists import AUTO, num_elements
from mlclf.data.schema.samples import free_texts, index_columns, list_width
from mlclf.errors import ConfigError, DataError, RunError
from mlclf.messages import listed

LARGEST_EMBEDDING = 1 << 22
"""Elements of an embedding: 16 MiB of a row in float32."""

NUMERIC, CATEGORICAL, TOKENS, SPARSE, EMBEDDING, TEXT = (
    "numeric",
    "categorical",
    "tokens",
    "sparse",
    "embedding",
    "text",
)
FORMAT_VERSION = 1

FAMILY_WORDS = {
    "number": "numbers",
    "string": "strings",
    "strings": "lists of strings",
    "integers": "lists of integers",
    "floats": "lists of floats",
    "bools": "lists of booleans",
    "vector": "vectors",
    "bytes": "bytes",
    "null": "only nulls",
    "empty": "only empty lists",
    "other": "values of a type that cannot be used",
}

LISTS = ("strings", "integers", "empty")
"""Families of lists whose elements are tokens or tags."""

NUMBER_LISTS = ("floats", "integers", "bools")
"""Families of lists that a declared embedding may be of, all of one length."""

SINGLE = ("number", "string", "bytes")
"""Families of values that can be compared with each other."""

WORDS = ("string", "bytes")
"""Families of text, annotated as such or not."""

UNDECIDED = ("null", "empty")
"""Families that say nothing against what a column is in the other shards."""


@dataclass(frozen=True)
class FeatureColumn:
    """One input: a column, or the `indices` column of a sparse pair with its `values` column.

    Attributes:
        width: elements of an embedding, else 0.
        values_column: the second column of a sparse pair, else None.
    """

    name: str
    role: str
    width: int = 0
    values_column: str | None = None


@dataclass(frozen=True)
class Schema:
    """Which column plays which part.

    Attributes:
        features: the inputs, in schema order.
        labels: label columns in schema order, or the one list column of tags.
        tags: whether `labels` is a list column of tags.
        ignored: columns left out, with the reason.
        elements: labels of the one column of `labels` whose lists have a 0 or 1 for each; 0 for other labels.
        notes: what was found of columns and is worth saying, one line each; not kept in a run.
    """

    features: tuple[FeatureColumn, ...]
    labels: tuple[str, ...]
    tags: bool = False
    weight: str | None = None
    key: str | None = None
    group: str | None = None
    ignored: tuple[tuple[str, str], ...] = ()
    elements: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def feature_columns(self) -> tuple[str, ...]:
        names = [[column.name, column.values_column] for column in self.features]
        return tuple(name for pair in names for name in pair if name is not None)

    def without(self, names: Container[str | None]) -> Schema:
        """The schema with inputs left out."""
        return replace(self, features=tuple(column for column in self.features if column.name not in names))

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION} | {k: v for k, v in asdict(self).items() if k != "notes"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        try:
            fields = {key: value[key] for key in value if key not in ("format_version", "label_names")}
            fields["features"] = tuple(FeatureColumn(**column) for column in value["features"])
            fields["labels"] = tuple(value["labels"])
            fields["ignored"] = tuple((name, why) for name, why in value["ignored"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"schema.json is damaged ({error!r}); fit the run again") from error


def family(kind: pa.DataType) -> str:
    """What a column of this type can be.

    `number`, `string`, `bytes`, `strings`, `integers`, `floats` and `bools` (lists), `vector:N`, `null`, `empty`
    (lists of null: no list has an element), or `other`.
    """
    types = pa.types
    if types.is_dictionary(kind):
        return family(kind.value_type)
    if types.is_null(kind):
        return "null"
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind):
        return "number"
    if is_text(kind):
        return "string"
    if is_bytes(kind):
        return "bytes"
    if types.is_fixed_size_list(kind):
        numbers = any(is_one(kind.value_type) for is_one in (types.is_floating, types.is_integer, types.is_boolean))
        return f"vector:{kind.list_size}" if numbers and kind.list_size else "other"
    if is_list(kind):
        if types.is_floating(kind.value_type):
            return "floats"
        if types.is_integer(kind.value_type):
            return "integers"
        if types.is_boolean(kind.value_type):
            return "bools"
        return {"string": "strings", "null": "empty"}.get(family(kind.value_type), "other")
    return "other"


def find_schema(
    plan: Plan,
    labels: Sequence[str],
    *,
    features: Sequence[str] = (),
    exclude: Sequence[str] = (),
    weight: str | None = None,
    key: str | None = None,
    group: str | None = None,
    roles: Mapping[str, str] | None = None,
    other_columns: Sequence[str] = (),
    label_lists: str = AUTO,
    needs_inputs: bool = True,
) -> Schema:
    """Give every column of the plan its role.

    Args:
        plan: the data.
        labels: column names or globs; one list column of tags is allowed. Empty: no labels (for `inspect`).
        features: column names or globs of the inputs; empty means every column that is not something else.
        exclude: column names or globs that are not inputs.
        weight, key, group: columns of row weights, row identity, clusters; never inputs.
        roles: column name or glob → role, where it should not follow from the type.
        other_columns: columns that are read but are not inputs (such as the time column of a split).
        label_lists: what a list column of labels holds: AUTO, TAGS or ELEMENTS of `mlclf.data.schema.label_lists`.
        needs_inputs: False where nothing is to be learned; text is then not looked at.

    Raises:
        ConfigError: a name matches nothing, or two parts claim one column.
        DataError: shards disagree about a column.
    """
    columns = _column_families(plan)
    names = list(columns)
    label_columns = _match(names, labels, "label", "--labels")
    _check_parts(columns, (("--weight", weight), ("--key", key), ("--group", group)), other_columns)
    lists = _label_list(label_columns, columns)
    if lists is None:
        _check_labels(plan, label_columns)
    elements = 0 if lists is None else num_elements(plan, lists, columns[lists], label_lists)
    notes = []
    if elements and columns[lists or ""] == "integers" and label_lists == AUTO:
        notes.append(
            f"label {lists!r} has lists of 0 and 1, {elements:,} in each: element k is the label '{lists}[k]'; "
            "data.label_lists=tags takes them for tags"
        )
    if weight in label_columns:
        raise ConfigError(f"--weight: column {weight!r} is a label; name another column, or take it out of --labels")
    taken = {name for name in (weight, key, group) if name is not None} | set(label_columns)
    clash = [name for name in features if name in taken]
    if clash:
        raise ConfigError(
            f"a column cannot be a feature and a label, weight, key or group at once: {', '.join(map(repr, clash))}; "
            "take it out of --features, or out of the other argument"
        )
    excluded = set(_match(names, exclude, "column", "--exclude"))
    wanted = _match(names, features, "feature", "--features") if features else names
    candidates = [name for name in wanted if name not in taken and name not in excluded]
    declared = _declared(names, roles or {})
    chosen = {*features, *declared}
    indices = [name for name in candidates if name in index_columns(plan.shards) and name not in chosen]
    candidates = [name for name in candidates if name not in indices]
    if label_columns and needs_inputs:
        strings = [name for name in candidates if columns[name] == "string" and name not in declared]
        for name in free_texts(plan, strings):
            declared[name] = TEXT
            notes.append(
                f"column {name!r} is read as text, by its words: nearly every row has a value of its own; "
                f"{_role_setting(name, CATEGORICAL)} makes it a category"
            )
    found, ignored = _assign(plan, candidates, columns, declared, explicit=bool(features))
    for column in found:
        if column.role == EMBEDDING and column.width > LARGEST_EMBEDDING:
            raise DataError(
                f"column {column.name!r}: an embedding must have at most {LARGEST_EMBEDDING:,} elements, the schema "
                f"says {column.width:,}; write the file again, or leave the column out with --exclude"
            )
    ignored += [
        (name, f"it is the index of a pandas frame; {_role_setting(name, NUMERIC)} uses it") for name in indices
    ]
    used = list(label_columns) + [name for name in (weight, key, group) if name] + list(other_columns)
    schema = Schema(
        tuple(found), tuple(label_columns), lists is not None and not elements, weight, key, group, tuple(ignored),
        elements, tuple(notes),
    )  # fmt: skip
    check_shards(plan, schema, used)
    if labels and needs_inputs and not found:
        raise DataError(
            "no column is left to learn from: every column is a label, excluded, or of a type that cannot be an input"
            + "".join(f"\n  {name!r}: {why}" for name, why in ignored[:12])
        )
    return schema


def _role_setting(name: str, role: str) -> str:
    """How the role of a column is declared, for a shell."""
    return f"--set {shlex.quote('features.roles=' + json.dumps({name: role}, ensure_ascii=False))}"


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


def _column_families(plan: Plan) -> dict[str, str]:
    """Family of every column in first-seen order; the first shard where it is not null decides."""
    families: dict[str, str] = {}
    for shard in plan.shards:
        for column in shard.schema:
            found = family(column.type)
            known = families.setdefault(column.name, found)
            if known == "null" or (known == "empty" and found != "null"):
                families[column.name] = found
    return families


def _match(names: Sequence[str], patterns: Iterable[str], what: str, flag: str) -> list[str]:
    """Columns that the names or globs pick, in schema order; a pattern that picks none is refused."""
    picked: set[str] = set()
    problems = []
    for pattern in patterns:
        hits = [name for name in names if matches(name, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names[:5])
            problems.append(
                f"{flag}: no {what} matches {pattern!r}; the nearest columns are {', '.join(map(repr, near))}"
            )
        picked.update(hits)
    if problems:
        raise ConfigError(listed(problems))
    return [name for name in names if name in picked]


def names_and_globs(plan: Plan, flag: str, patterns: Iterable[str]) -> list[str]:
    """Say which patterns are the name of a column, and globs that match others too: all of these are taken."""
    names = list(dict.fromkeys(name for shard in plan.shards for name in shard.schema.names))
    lines = []
    for pattern in dict.fromkeys(patterns):
        others = [name for name in names if name != pattern and matches(name, pattern)]
        if pattern in names and others:
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            lines.append(
                f"{flag}: {pattern!r} is the name of a column, and a pattern that {others[0]!r}{more} match(es): all "
                f"of them are taken; {escape(pattern)!r} is the column alone"
            )
    return lines


def matches(name: str, pattern: str) -> bool:
    """Whether a column name is the pattern, or matches it as a glob (case counts)."""
    return name == pattern or re.fullmatch(fnmatch.translate(pattern), name) is not None


def _check_parts(
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


def _check_labels(plan: Plan, labels: Sequence[str]) -> None:
    """Refuse label columns of a type that cannot hold labels: all of them at once."""
    problems: dict[str, str] = {}
    for shard in plan.shards:
        for column in shard.schema:
            kind = column.type
            good = family(kind) in (*SINGLE, "null") and not pa.types.is_temporal(kind)
            if column.name in labels and not good:
                problems.setdefault(
                    column.name,
                    f"label {column.name!r} must be bool, numbers or strings, got {kind} in {shard.source.name}; "
                    "convert it where the data is written, or name another column with --labels",
                )
    if problems:
        raise DataError(listed(list(problems.values())))


def _label_list(labels: Sequence[str], columns: Mapping[str, str]) -> str | None:
    """The one list column of the labels; None where the labels are columns of their own."""
    kinds = (*LISTS, "floats", "bools", "vector")
    lists = [name for name in labels if columns[name].partition(":")[0] in kinds]
    if len(lists) and len(labels) > 1:
        raise ConfigError(
            f"--labels takes label columns or one list column of labels, not both: {lists[0]!r} is a list; "
            "name that column alone, or leave it out"
        )
    return lists[0] if lists else None


def _declared(names: Sequence[str], roles: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for pattern, role in roles.items():
        for name in _match(names, [pattern], "column", "features.roles"):
            result[name] = role
    return result


def _assign(
    plan: Plan, candidates: Sequence[str], columns: Mapping[str, str], declared: Mapping[str, str], *, explicit: bool
) -> tuple[list[FeatureColumn], list[tuple[str, str]]]:
    found: list[FeatureColumn] = []
    ignored: list[tuple[str, str]] = []
    partners = _sparse_pairs(candidates, columns)
    for name in candidates:
        kind = columns[name]
        role = declared.get(name)
        if name in partners.values():
            continue
        if role == "ignore":
            ignored.append((name, "declared as ignore"))
            continue
        values = partners.get(name)
        is_pair = values is not None
        role = role or (SPARSE if is_pair else _default_role(kind))
        width = _width(plan, name, kind) if role == EMBEDDING else 0
        problem = _role_problem(name, role, kind, is_pair, width)
        if problem is None:
            assert role is not None
            found.append(FeatureColumn(name, role, width, values if role == SPARSE else None))
        elif explicit or name in declared:
            raise ConfigError(problem)
        else:
            ignored.append((name, problem))
    return found, ignored


def _width(plan: Plan, name: str, kind: str) -> int:
    """Elements of each vector of a column: by its type, or by the first list of one whose type does not say it."""
    if kind.startswith("vector:"):
        return int(kind.removeprefix("vector:"))
    return list_width(plan, name) if kind in NUMBER_LISTS else 0


def _sparse_pairs(candidates: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Columns of indices, each with its column of values: `indices` and `values`, `X_indices` and `X_values`."""
    pairs = {}
    for name in candidates:
        if name == "indices" or name.endswith("_indices"):
            values = name.removesuffix("indices") + "values"
            fits = columns[name] in ("integers", "empty") and columns.get(values) in ("floats", "integers", "empty")
            if values in candidates and fits:
                pairs[name] = values
    return pairs


def _default_role(kind: str) -> str | None:
    by_kind = {"number": NUMERIC, "string": CATEGORICAL, "strings": TOKENS, "integers": TOKENS, "null": NUMERIC}
    return EMBEDDING if kind.startswith("vector:") else by_kind.get(kind)


def _role_problem(name: str, role: str | None, kind: str, is_pair: bool, width: int) -> str | None:
    if role is None:
        vector = f"{_role_setting(name, EMBEDDING)} takes lists of one length as vectors"
        hints = {
            "floats": f"is a list of floats; {vector}, and a pair 'X_indices' and 'X_values' is sparse",
            "bools": f"is a list of booleans; {vector}",
            "bytes": f"holds bytes; if they are text in UTF-8, {_role_setting(name, CATEGORICAL)} or text reads them",
            "empty": "has no list with an element",
        }
        return f"column {name!r} {hints.get(kind, 'has a type that cannot be an input')}"
    allowed = {
        NUMERIC: ("number", "null"),
        CATEGORICAL: (*SINGLE, "null"),
        TOKENS: LISTS,
        TEXT: ("string", "bytes", "null"),
    }
    fits = {SPARSE: is_pair, EMBEDDING: width > 0}.get(role, kind in allowed.get(role, ()))
    if fits:
        return None
    empty = role == EMBEDDING and kind in NUMBER_LISTS
    return (
        f"column {name!r} cannot be {role}: it holds "
        f"{'no list with an element' if empty else FAMILY_WORDS.get(kind.partition(':')[0], kind)}; "
        "correct features.roles, or convert the column"
    )


def _expected_families(
    plan: Plan, schema: Schema, others: Iterable[str], with_labels: bool
) -> dict[str, Callable[[str], bool]]:
    """Column → whether a family is acceptable for its role."""
    expected: dict[str, Callable[[str], bool]] = {}
    columns = _column_families(plan)
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
