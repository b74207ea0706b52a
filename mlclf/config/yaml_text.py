"""YAML as text: every scalar but a plain null keeps the characters that were written.

Anchors, aliases and tags are refused, and so is what is nested deep or holds very many values: it is read event by
event, and the reading stops there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from mlclf.messages import first_line, quoted

MOST_BYTES = 8 << 20
MOST_VALUES = 300_000
MOST_LEVELS = 32
"""The time of PyYAML's scanner grows with the square of the depth of brackets."""

QUOTE = "quote text with special characters"
NULLS = ("", "~", "null", "Null", "NULL")

Path = tuple[str, ...]
Place = Callable[[Any], str]
"""A mark of PyYAML, or None → what stands before a message."""


class YamlText:
    """What a piece of YAML holds.

    Attributes:
        value: dicts, lists, texts and None; None too where there is a problem with the YAML as a whole.
        sources: where each key was written, by its path.
        problems: what is wrong, one line each.
    """

    def __init__(self, text: str, path: Path, place: Place) -> None:
        """Read a piece that stands at `path` of a larger tree."""
        self.value: Any = None
        self.sources: dict[Path, str] = {}
        self.problems: list[str] = []
        self._place = place
        self._forbidden: list[str] = []
        try:
            events = self._checked(yaml.parse(text, Loader=yaml.SafeLoader))
            first = next(events, None)
            value = None if first is None else self._plain(first, events, path)
            next(events, None)  # the end, where a second document is refused
            self.value = None if self._forbidden else value
        except _RefusedError as error:
            self.problems = [str(error)]
        except yaml.YAMLError as error:
            parts = [getattr(error, "context", None), getattr(error, "problem", None)]
            reason = ", ".join(part for part in parts if part) or first_line(error)
            source = place(getattr(error, "problem_mark", None))
            self.problems = [f"{source}: must be YAML: {reason}; {QUOTE}"]
        self.problems = self._forbidden or self.problems

    def _checked(self, events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
        """The events of values, as long as they are few and not nested deep."""
        depth = values = documents = 0
        for event in events:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            values += isinstance(event, yaml.NodeEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > MOST_LEVELS:
                raise _RefusedError(
                    f"{self._place(event.start_mark)}: must be YAML of at most {MOST_LEVELS} levels, found more; "
                    "remove brackets"
                )
            if values > MOST_VALUES:
                raise _RefusedError(
                    f"{self._place(event.start_mark)}: must hold at most {MOST_VALUES:,} values, found more; "
                    "name many columns by a glob"
                )
            if documents > 1:
                what, found = "expected a single document in the stream", "but found another document"
                raise _RefusedError(f"{self._place(event.start_mark)}: must be YAML: {what}, {found}; {QUOTE}")
            self._note_forbidden(event)
            if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
                yield event

    def _note_forbidden(self, event: yaml.Event) -> None:
        """Note anchors, aliases and tags, which make a small file huge or a text something else."""
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        source = self._place(event.start_mark) if anchor or tag else ""
        if anchor:
            hint = "write the value out, or quote text that begins with '*' or '&'"
            self._forbidden.append(f"{source}: anchors and aliases are refused, found {quoted(anchor)}; {hint}")
        if tag:
            self._forbidden.append(f"{source}: tags are refused, found {quoted(tag)}; quote text that begins with '!'")

    def _plain(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return None if event.style is None and event.value in NULLS else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._plain(item, events, path) for item in _until_end(events)]
        return self._mapping(events, path) if isinstance(event, yaml.MappingStartEvent) else None

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key in _until_end(events):
            source, name = self._place(key.start_mark), getattr(key, "value", None)
            if not isinstance(key, yaml.ScalarEvent):
                self._plain(key, events, path)
            inner = self._plain(next(events), events, (*path, str(name)))
            if not isinstance(key, yaml.ScalarEvent):
                self.problems.append(f"{source}: a key must be text, found a list or a mapping; quote it")
            elif name in values:
                shown = quoted(".".join((*path, key.value)))
                self.problems.append(f"{source}: {shown} must be given once, found again; remove one")
            else:
                self.sources[*path, key.value] = source
                values[key.value] = inner
        return values


class _RefusedError(Exception):
    """The YAML is larger or deeper than any that is meant; the text says which."""


def _until_end(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """The events up to the end of the list or mapping that they are in."""
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event
