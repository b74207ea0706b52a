"""Roles of columns: declared, or what the type of a column suggests."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from mlclf.data.arrow.families import FAMILY_NAMES, NUMBER_LISTS
from mlclf.data.features.fitted_column import FeatureColumn
from mlclf.data.features.roles import ROLES
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.globs import matched_names
from mlclf.data.schema.samples import list_width
from mlclf.errors import ConfigError


def role_setting(name: str, role: str) -> str:
    """How the role of a column is declared, for a shell."""
    return f"--set {shlex.quote('features.roles=' + json.dumps({name: role}, ensure_ascii=False))}"


def declared_roles(names: Sequence[str], roles: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for pattern, role in roles.items():
        for name in matched_names(names, [pattern], "column", "features.roles"):
            result[name] = role
    return result


def assigned_roles(
    plan: Plan, candidates: Sequence[str], columns: Mapping[str, str], declared: Mapping[str, str], *, explicit: bool
) -> tuple[list[FeatureColumn], list[tuple[str, str]]]:
    """The candidates with their roles, and those left out with the reason.

    Args:
        columns: name → family.
        declared: name → role.
        explicit: whether the candidates were asked for by name, so that none may be left out.
    """
    found: list[FeatureColumn] = []
    ignored: list[tuple[str, str]] = []
    pairs = _pairs(candidates, columns)
    seconds = {second for _, second in pairs.values()}
    for name in candidates:
        if name in seconds:
            continue
        role, second = pairs.get(name, (_suggested_role(columns[name]), None))
        role = declared.get(name, role)
        if role == "ignore":
            ignored.append((name, "declared as ignore"))
            continue
        problem = _no_role_problem(name, columns[name]) if role is None else None
        if role is not None:
            column = _described(plan, name, role, columns[name], second)
            problem = _role_problem(column, columns[name])
        if problem is None:
            found.append(column)
        elif explicit or name in declared:
            raise ConfigError(problem)
        else:
            ignored.append((name, problem))
    return found, ignored


def _pairs(candidates: Sequence[str], columns: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Columns that belong together by their names: first column → its role, and its second column."""
    pairs = {}
    for name in candidates:
        for role in ROLES.values():
            second = role.second_column(name) or name
            fits = columns[name] in role.families and columns.get(second) in role.second_families
            if second != name and second in candidates and fits:
                pairs[name] = (role.role, second)
    return pairs


def _suggested_role(kind: str) -> str | None:
    suggested = (role.role for role in ROLES.values() if kind.partition(":")[0] in role.suggested_by)
    return next(suggested, None)


def _described(plan: Plan, name: str, role: str, kind: str, second: str | None) -> FeatureColumn:
    width = 0
    if ROLES[role].needs_width:
        width = int(kind.removeprefix("vector:")) if kind.startswith("vector:") else 0
        width = list_width(plan, name) if kind in NUMBER_LISTS else width
    return FeatureColumn(name, role, width, second if ROLES[role].second_families else None)


def _no_role_problem(name: str, kind: str) -> str:
    """Why a column of this family has no role by itself."""
    vector = f"{role_setting(name, 'embedding')} takes lists of one length as vectors"
    hints = {
        "floats": f"is a list of floats; {vector}, and a pair 'X_indices' and 'X_values' is sparse",
        "bools": f"is a list of booleans; {vector}",
        "bytes": f"holds bytes; if they are text in UTF-8, {role_setting(name, 'categorical')} or text reads them",
        "empty": "has no list with an element",
    }
    return f"column {name!r} {hints.get(kind, 'has a type that cannot be an input')}"


def _role_problem(column: FeatureColumn, kind: str) -> str | None:
    role = ROLES[column.role]
    if role.accepts(column, kind):
        return None
    is_empty = role.needs_width and kind in NUMBER_LISTS
    return (
        f"column {column.name!r} cannot be {column.role}: it holds "
        f"{'no list with an element' if is_empty else FAMILY_NAMES.get(kind.partition(':')[0], kind)}; "
        "correct features.roles, or convert the column"
    )
