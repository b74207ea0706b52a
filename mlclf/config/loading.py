"""YAML and options of the command line → validated settings; an error names the line or option it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mlclf.config.explanations import (
    OPERATOR,
    QUOTED,
    WHERE,
    expected_values,
    is_mapping,
    known_settings,
    nearest_key,
    setting_path,
    shown_value,
    sibling_keys,
)
from mlclf.config.fields import SettingPath, SettingsModel
from mlclf.config.settings import FORMAT_VERSION, Arguments, RunFile, Settings
from mlclf.config.yaml_text import MOST_BYTES, Place, YamlText
from mlclf.errors import ConfigError, RunError
from mlclf.given_files import read_given, reason_of
from mlclf.messages import quoted


def load_run_file(
    path: Path | None,
    sets: Sequence[str] = (),
    *,
    given: Mapping[str, object] | None = None,
    content: bytes | None = None,
) -> RunFile:
    """Return the defaults, overridden by the YAML file, by the values that are `given`, and by each ``key=value``.

    `content` are the bytes of the file, where they have been read.

    A value of `sets` is text as it stands, unless it begins with ``[``, ``{`` or a quote, which makes it YAML; empty,
    ``~`` and ``null`` are null. A longer key sets one entry of a mapping: ``features.roles.zip=categorical``. A
    condition of ``data.where`` may begin with a column or a text in quotes: it is YAML only where its quotes enclose a
    whole condition.

    >>> load_run_file(None, ["optimizer.l2=1e-4", "model.hidden=[64, 32]"]).settings.model.hidden
    (64, 32)

    Raises:
        ConfigError: the file or a value is not what it must be; one line for each problem, with its place.
        RunError: the file is of another `format_version`.
    """
    tree = _Tree()
    if path is not None:
        tree.read(path, content)
    for key, value in (given or {}).items():
        if tree.is_new(key):
            tree.store(setting_path(key), _as_written(value))
    for text in sets:
        tree.set(text)
    return tree.run_file()


def _as_written(value: object) -> Any:
    """A value of Python as YAML is read: lists and mappings of texts and None.

    >>> _as_written({"a": (1, 2.5), "b": True, "c": None})
    {'a': ['1', '2.5'], 'b': 'true', 'c': None}
    """
    if isinstance(value, Mapping):
        return {str(key): _as_written(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_written(each) for each in value]
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _begins_with_a_term(condition: str) -> bool:
    """Whether a condition begins with a column or a text in quotes, and is not in quotes as a whole.

    >>> [_begins_with_a_term(text) for text in ('"my column" > 0', '"my flag"', '"x > 0"', "'x IS NULL'")]
    [True, True, False, False]
    """
    if condition[:1] not in ("'", '"'):
        return False
    is_column = condition[0] == '"' and not OPERATOR.search(condition[1:-1])
    return is_column or QUOTED.fullmatch(condition) is None


def _source_of(key: str) -> str:
    """Where a value was given: the flag of an argument, or --set."""
    return f"--{key.replace('_', '-')}" if key in Arguments.model_fields else f"--set {key}"


class _Tree:
    """Values as they were written, where each was written, and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[SettingPath, str] = {}
        self.problems: list[str] = []

    def read(self, path: Path, content: bytes | None = None) -> None:
        """Take the values of a YAML file."""
        try:
            text = (read_given(path, MOST_BYTES) if content is None else content).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: must be a YAML file, found {reason_of(error)}; check the path") from None
        values = self._parse(text, (), lambda mark: f"{path}:{mark.line + 1}" if mark else f"{path}")
        if not isinstance(values, dict | None):
            self.problems.append(
                f"{path}: must hold lines of 'key: value', found {shown_value(values)}; write such lines"
            )
            return
        self.values = values or {}
        found = self.values.pop("format_version", str(FORMAT_VERSION))
        if found != str(FORMAT_VERSION):
            raise RunError(
                f"{path} holds settings of format_version {shown_value(found)}, this release of mlclf reads "
                f"{FORMAT_VERSION}; use the release that wrote it or write it again"
            )

    def set(self, text: str) -> None:
        """Take one ``key=value``."""
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            self.problems.append(f"--set {quoted(text)} must have the form key=value, such as optimizer.l2=0.1")
        elif self.is_new(key):
            path, before = setting_path(key), len(self.problems)
            is_yaml = value[:1] in ("[", "{", '"', "'") and not (path == WHERE and _begins_with_a_term(value))
            plain = None if value in ("", "~", "null") else value
            parsed = self._parse(value, path, lambda mark: _source_of(key)) if is_yaml else plain
            if len(self.problems) == before:
                self.store(path, parsed)

    def is_new(self, key: str) -> bool:
        """Make room for a value, whose source is the option of the key; False for a section, which is refused."""
        path, source = setting_path(key), _source_of(key)
        if key in Settings.model_fields:
            keys = ", ".join(sibling_keys((key, "")))
            self.problems.append(f"{source}: names a section; set one of its keys: {keys}")
            return False
        self.sources = {known: place for known, place in self.sources.items() if known[: len(path)] != path}
        self.sources[path] = source
        return True

    def run_file(self) -> RunFile:
        """Return the validated values, or raise all problems."""
        given = {
            key: {} if value is None and key in Settings.model_fields else value for key, value in self.values.items()
        }
        arguments = self._build(Arguments, {key: given.pop(key) for key in Arguments.model_fields if key in given})
        settings = self._build(Settings, given)
        if self.problems or arguments is None or settings is None:
            raise ConfigError("\n".join(self.problems))
        return RunFile(arguments, settings)

    def store(self, path: SettingPath, value: object) -> None:
        place = self.values
        for depth, part in enumerate(path[:-1]):
            inner = place.get(part)
            if depth == 0 and not isinstance(inner, dict | None):
                return  # the file has no mapping where the section should be, which is reported
            place[part] = inner if isinstance(inner, dict) else {}
            place = place[part]
        place[path[-1]] = value

    def _parse(self, text: str, path: SettingPath, place: Place) -> Any:
        """Return YAML as dicts, lists, texts and None, and note where its keys are and what is wrong with it."""
        found = YamlText(text, path, place)
        self.sources |= found.sources
        self.problems += found.problems
        return found.value

    def _build(self, model: type[SettingsModel], values: dict[str, Any]) -> SettingsModel | None:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            self.problems += dict.fromkeys(
                line for item in error.errors(include_url=False) for line in self._explain(item)
            )
            return None

    def _explain(self, item: ErrorDetails) -> Iterator[str]:
        """Yield the lines for one of pydantic's errors, of which every member of a union makes its own."""
        path = tuple(str(part) for part in item["loc"])
        if item["type"] == "rules":
            for name, message in item["ctx"]["broken"]:
                yield f"{self._source(tuple(name.split('.')))}: {name} {message}"
            return
        if item["type"] == "extra_forbidden":
            yield f"{self._source(path)}: unknown setting {quoted('.'.join(path))}; {nearest_key(path)}"
            return
        field = next(path[:end] for end in (1, 2) if path[:end] in known_settings() or end == len(path))
        given = self._value(field)
        key = [part for part in path[len(field) :] if isinstance(given, dict) and part in given][:1]
        if key or not (isinstance(given, dict) and is_mapping(field)):  # else the error of its entry says it
            found = shown_value(self._value((*field, *key))) + "".join(f" for {quoted(part)}" for part in key)
            yield f"{self._source((*field, *key))}: {'.'.join(field)} must be {expected_values(field)}, got {found}"

    def _value(self, path: SettingPath) -> Any:
        value: Any = self.values
        for part in path:
            value = value[part]
        return value

    def _source(self, path: SettingPath) -> str:
        """Return where the value was written, or the nearest mapping around it, or else another key of its section."""
        around = (path[:end] for end in range(len(path), 0, -1))
        beside = (known for known in self.sources if known[0] == path[0])
        return next(self.sources[known] for known in (*around, *beside) if known in self.sources)
