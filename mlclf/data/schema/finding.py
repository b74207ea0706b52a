"""Column roles, found from the Parquet schemas or declared, and the check that every shard agrees."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import pyarrow as pa

from mlclf.data.arrow.families import LISTS, SINGLE, family
from mlclf.data.features.fitted_column import FeatureColumn
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.agreement import check_parts, check_shards, column_families
from mlclf.data.schema.globs import matched_names
from mlclf.data.schema.label_lists import AUTO, num_elements
from mlclf.data.schema.roles import assigned_roles, declared_roles, role_setting
from mlclf.data.schema.samples import free_texts, index_columns
from mlclf.data.schema.schema import Schema
from mlclf.errors import ConfigError, DataError
from mlclf.messages import listed

LARGEST_EMBEDDING = 1 << 22
"""Elements of an embedding: 16 MiB of a row in float32."""


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
    columns = column_families(plan)
    names = list(columns)
    label_columns = matched_names(names, labels, "label", "--labels")
    check_parts(columns, (("--weight", weight), ("--key", key), ("--group", group)), other_columns)
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
    taken = {name for name in (weight, key, group) if name is not None} | set(label_columns)
    _check_claims(weight, label_columns, features, taken)
    excluded = set(matched_names(names, exclude, "column", "--exclude"))
    wanted = matched_names(names, features, "feature", "--features") if features else names
    candidates = [name for name in wanted if name not in taken and name not in excluded]
    declared = declared_roles(names, roles or {})
    chosen = {*features, *declared}
    indices = [name for name in candidates if name in index_columns(plan.shards) and name not in chosen]
    candidates = [name for name in candidates if name not in indices]
    if label_columns and needs_inputs:
        strings = [name for name in candidates if columns[name] == "string" and name not in declared]
        for name in free_texts(plan, strings):
            declared[name] = "text"
            notes.append(
                f"column {name!r} is read as text, by its words: nearly every row has a value of its own; "
                f"{role_setting(name, 'categorical')} makes it a category"
            )
    found, ignored = assigned_roles(plan, candidates, columns, declared, explicit=bool(features))
    _check_widths(found)
    ignored += [
        (name, f"it is the index of a pandas frame; {role_setting(name, 'numeric')} uses it") for name in indices
    ]
    used = list(label_columns) + [name for name in (weight, key, group) if name] + list(other_columns)
    schema = Schema(
        tuple(found), tuple(label_columns), lists is not None and not elements, weight, key, group, tuple(ignored),
        elements, tuple(notes),
    )  # fmt: skip
    check_shards(plan, schema, used)
    if labels and needs_inputs and not found:
        raise DataError(_nothing_left(ignored))
    return schema


def _nothing_left(ignored: Sequence[tuple[str, str]]) -> str:
    return (
        "no column is left to learn from: every column is a label, excluded, or of a type that cannot be an input"
        + "".join(f"\n  {name!r}: {why}" for name, why in ignored[:12])
    )


def _check_claims(weight: str | None, labels: Sequence[str], features: Sequence[str], taken: Container[str]) -> None:
    """Refuse a column that is wanted for two things."""
    if weight in labels:
        raise ConfigError(f"--weight: column {weight!r} is a label; name another column, or take it out of --labels")
    clash = [name for name in features if name in taken]
    if clash:
        raise ConfigError(
            f"a column cannot be a feature and a label, weight, key or group at once: {', '.join(map(repr, clash))}; "
            "take it out of --features, or out of the other argument"
        )


def _check_widths(found: Sequence[FeatureColumn]) -> None:
    """Refuse embeddings that no memory holds."""
    for column in found:
        if column.width > LARGEST_EMBEDDING:
            raise DataError(
                f"column {column.name!r}: an embedding must have at most {LARGEST_EMBEDDING:,} elements, the schema "
                f"says {column.width:,}; write the file again, or leave the column out with --exclude"
            )


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
