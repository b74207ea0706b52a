"""The text of messages: safe for a terminal, data in them short, commands that a shell takes as they stand.

Control characters, escape sequences and characters that change the direction of text are written as escapes, so that
nothing that stands in data can steer a terminal or read otherwise than it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

LONGEST = 200
"""Characters of one piece of data in a message."""

MOST_LINES = 12
"""Problems of one kind that a message writes out."""

_QUOTED = re.compile(rf"(?<![^\s(\[{{:=,])(['\"])(?:(?!\1)[^\\\n]|\\.){{{LONGEST - 1},}}\1(?=[\s)\]}},;:.?…]|$)")
_WORD = re.compile(rf"[^\s/]{{{LONGEST + 1},}}")


def safe(text: str) -> str:
    """Text with every character but line breaks that is not printable written as an escape."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """Text with every character that is not printable, line breaks too, written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cut(text: str, longest: int = LONGEST) -> str:
    """Printable text of at most so many characters: the beginning, and an ellipsis where something is left out.

    >>> cut("abcdefgh", 5)
    'abcd…'
    """
    shown = printable(text[: longest + 1])
    return shown if len(shown) <= longest and len(text) <= longest else shown[: longest - 1] + "…"


def quoted(value: object, longest: int = LONGEST) -> str:
    """A value of data as Python writes it, at most so many characters long, the closing quote kept.

    >>> quoted("it's"), quoted(None), quoted("abcdefgh", 7)
    ('"it\\'s"', 'None', "'abcd…'")
    """
    if isinstance(value, str | bytes):
        value = value[: longest + 1]
    text = printable(repr(value))
    if len(text) <= longest:
        return text
    end = text[-1] if text[-1] in "'\"]})" else ""
    return text[: longest - 1 - len(end)] + "…" + end


def some_of(names: Iterable[object], most: int = 3, longest: int = LONGEST) -> str:
    """Values of data with commas between them, as many as fit, and how many more there are.

    >>> some_of(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    values = list(names)
    shown: list[str] = []
    for value in values[:most]:
        text = quoted(value, longest if not shown else max(8, longest // most))
        if shown and sum(map(len, shown)) + len(text) > longest:
            break
        shown.append(text)
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def listed(problems: Sequence[str], most: int = MOST_LINES) -> str:
    """Problems as one message, one a line, the first dozen written out."""
    shown = list(problems[:most])
    if len(problems) > len(shown):
        shown.append(f"… and {len(problems) - len(shown):,} more")
    return "\n".join(shown)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a readable length; the error's class where it has none."""
    lines = str(error).strip().splitlines()
    return cut(lines[0]) if lines else type(error).__name__


def word(text: str) -> str:
    """One argument of a command as a shell takes it, whatever characters it has.

    >>> word("my data"), word("run"), word("a\\nb")
    ("'my data'", 'run', "$'a\\\\nb'")
    """
    if text.isprintable():
        return shlex.quote(text)
    escaped = (_escaped(char) for char in text)
    return f"$'{''.join(escaped)}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    if char.isprintable():
        return char
    if char == "\n":
        return "\\n"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def command(*words: object) -> str:
    """A command that can be copied into a shell as it stands.

    >>> command("mlclf", "fit", "my data", "--out", "run")
    "mlclf fit 'my data' --out run"
    """
    return " ".join(word(str(each)) for each in words)


def shortened(text: str) -> str:
    """A message whose quoted pieces, and words that are no paths, are cut where they are longer than data may be."""
    if len(text) <= LONGEST:
        return text
    text = _QUOTED.sub(lambda found: found[0][: LONGEST - 2] + "…" + found[1], text)
    return _WORD.sub(lambda found: found[0][: LONGEST - 1] + "…", text)
