"""Hints for a refused setting: the nearest key, and the values that it may take."""

from __future__ import annotations

import difflib
import re
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from mlclf.config.fields import Says, SettingPath
from mlclf.config.settings import Arguments, Settings
from mlclf.messages import quoted

WHERE = ("data", "where")
QUOTED = re.compile(r'"(?:[^"\\]|\\.|"")*"|\'(?:[^\']|\'\')*\'', re.DOTALL)
OPERATOR = re.compile(r"[=<>]|\b(?:AND|BETWEEN|FALSE|IN|IS|NOT|OR|TRUE)\b", re.IGNORECASE)


@cache
def known_settings() -> dict[SettingPath, Any]:
    """Return the annotation of every argument and setting by its path."""
    known: dict[SettingPath, Any] = {(name,): kind for name, kind in _annotations(Arguments).items()}
    for section, model in _annotations(Settings).items():
        known |= {(section, name): kind for name, kind in _annotations(model).items()}
    return known


def _annotations(model: type[BaseModel]) -> dict[str, Any]:
    hints = get_type_hints(model, include_extras=True)
    return {name: hints[name] for name in model.model_fields}


def is_mapping(path: SettingPath) -> bool:
    kind = known_settings().get(path)
    return any(get_origin(member) is dict for member in (kind, *get_args(kind)))


def setting_path(key: str) -> SettingPath:
    """Return section and field, and the entry's name where the field is a mapping; the name may hold dots."""
    section, *rest = key.split(".", 2)
    if len(rest) == 2 and not is_mapping((section, rest[0])):
        rest = [".".join(rest)]
    return (section, *rest)


def sibling_keys(path: SettingPath) -> list[str]:
    """Return the names that could stand where `path` ends."""
    names = [known[-1] for known in known_settings() if known[:-1] == path[:-1]]
    return names if len(path) > 1 else [*names, *Settings.model_fields]


def nearest_key(path: SettingPath) -> str:
    """Return a hint: a similar name beside `path`, or anywhere, or all the names that could stand there."""
    siblings = {name: ".".join((*path[:-1], name)) for name in sibling_keys(path)}
    for names in (siblings, {known[-1]: ".".join(known) for known in known_settings()}):
        for name in difflib.get_close_matches(path[-1], names, n=1):
            return f"did you mean {names[name]!r}?"
    return f"known are {', '.join(siblings)}"


def expected_values(path: SettingPath) -> str:
    """Return what the value at `path` must be, in words."""
    if path in known_settings():
        return _in_words(known_settings()[path])
    return f"a section with the keys {', '.join(sibling_keys((*path, '')))}"


def _in_words(kind: Any) -> str:
    *most, last = _alternatives(kind)
    return f"{', '.join(most)} or {last}" if most else last


def _alternatives(kind: Any) -> list[str]:
    """Return the words for each member of a type."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return [extra.text for extra in kind.__metadata__ if isinstance(extra, Says)] or _alternatives(members[0])
    if origin in (Union, UnionType):
        return [words for member in members for words in _alternatives(member)]
    if origin is Literal:
        return [repr(member) for member in members]
    if origin is dict:
        return [f"a mapping of names to {_in_words(members[1])}"]
    return [{bool: "true or false", str: "text", NoneType: "null"}[kind]]


def shown_value(value: object) -> str:
    return "null" if value is None else quoted(value, 80)
