"""Roles of columns: declared, or what the type of a column suggests."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.families import FAMILY_WORDS, LISTS, NUMBER_LISTS, SINGLE
from mlclf.data.schema.globs import matched_names
from mlclf.data.schema.samples import list_width
from mlclf.data.schema.schema import CATEGORICAL, EMBEDDING, NUMERIC, SPARSE, TEXT, TOKENS, FeatureColumn
from mlclf.errors import ConfigError


def role_setting(name: str, role: str) -> str:
    """How the role of a column is declared, for a shell."""
    return f"--set {shlex.quote('features.roles=' + json.dumps({name: role}, ensure_ascii=False))}"


LARGEST_EMBEDDING = 1 << 22
"""Elements of an embedding: 16 MiB of a row in float32."""


def declared_roles(names: Sequence[str], roles: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for pattern, role in roles.items():
        for name in matched_names(names, [pattern], "column", "features.roles"):
            result[name] = role
    return result


def assigned_roles(
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
        vector = f"{role_setting(name, EMBEDDING)} takes lists of one length as vectors"
        hints = {
            "floats": f"is a list of floats; {vector}, and a pair 'X_indices' and 'X_values' is sparse",
            "bools": f"is a list of booleans; {vector}",
            "bytes": f"holds bytes; if they are text in UTF-8, {role_setting(name, CATEGORICAL)} or text reads them",
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
