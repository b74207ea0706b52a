"""The types of the columns of a CSV file, from its first rows, so that no value loses what is written.

A column is of integers, booleans, dates, times, timestamps or floats where all its values are written so, else of text.
Codes stay text: numbers would lose the zeros that 01001 begins with, the plus of +41791234567, digits beyond the 19th.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.arrow.arrays import is_text
from mlclf.messages import quoted, some_of
from mlclf.messages import word as shell_word

MISSING_WORDS = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "\\N", "n/a", "nan", "null",
)  # fmt: skip
"""Missing in columns of numbers, booleans and times; in columns of text they are text, unless declared."""

CODE = r"^\s*(?:[+-]?0[0-9xX]|\+[0-9]{7,}\s*$)"
WHOLE = r"^\s*[+-]?[0-9]+\s*$"
LONG = r"[0-9]{16,}"
COMMA = r"^\s*[+-]?(?:[0-9]+(?:,[0-9]+)?|,[0-9]+)(?:[eE][+-]?[0-9]+)?\s*$"
DECIMALS = r"(?:^|[^0-9])0*,|,(?:[0-9]{1,2}|[0-9]{4,})(?:$|[^0-9])"
"""Of a value that matches COMMA, which has another number of digits after its comma than thousands have."""


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def columns(names: Sequence[str]) -> str:
    """The first names, quoted and cut, and how many more there are.

    >>> columns(["zip"]), columns(["a", "b", "c", "d", "e"])
    ("column 'zip'", "columns 'a', 'b', 'c' and 2 more")
    """
    return f"column{'s' if len(names) > 1 else ''} {some_of(names)}"


@dataclass(frozen=True)
class Evidence:
    """The first rows of a file, read with the types that they could have, and as they are written.

    Attributes:
        path: the file.
        table: columns of the types found, the words of `MISSING_WORDS` missing.
        texts: the same values as text, the empty ones null.
        declared: columns whose types are not to be found.
    """

    path: Path
    table: pa.Table
    texts: pa.Table
    declared: frozenset[str]

    def decimal_commas(self) -> tuple[bool, tuple[str, ...]]:
        """Whether a comma stands before decimals, and sentences on it."""
        found = [name for name in self._found() if is_text(self.kind(name)) and _all(self._values(name), COMMA)]
        commas = {name: _first(self._values(name), ",") for name in found}
        found = [name for name in found if commas[name] is not None]
        if not found:
            return False, ()
        words = f"{self.path}: {columns(found)}, such as {quoted(commas[found[0]], 60)}"
        if not any(_any(self._values(name), DECIMALS) for name in found):
            return False, (
                f"{words}: text, since the comma may separate thousands or decimals; --decimal , reads decimals",
            )
        points = [n for n in self._found() if pa.types.is_floating(self.kind(n)) and _any(self._values(n), "[.]")]
        if points:
            return False, (f"{words}: text, since the decimals of {columns(points)} follow a point",)
        return True, (f"{words}: a comma separates decimals, as found",)

    def codes(self) -> dict[str, str]:
        """Columns of numbers that are text, since a number would lose how a value is written: name → that value."""
        found: dict[str, str] = {}
        for name in self._found():
            kind, values = self.kind(name), self._values(name)
            code = _first(values, CODE) if is_number(kind) else None
            if code is None and pa.types.is_floating(kind):
                code = overflow(self.texts.column(name), self.table.column(name))
                code = code or (_first(values, LONG) if _all(values, WHOLE) else None)
            if code is not None:
                found[name] = code
        return found

    def hollow(self) -> list[str]:
        """Columns that hold nothing but words for missing values, such as NA; they are read as text."""
        return [
            name
            for name in self._found()
            if pa.types.is_null(self.kind(name)) and self.texts.column(name).null_count < self.texts.num_rows
        ]

    def words(self, kinds: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        """Sentences on words that may mean a missing value, where columns are of these types."""
        missing: dict[str, list[str]] = {}
        kept: dict[str, list[str]] = {}
        for name in self.texts.column_names:
            column = self.texts.column(name)
            for word in pc.unique(column.filter(pc.is_in(column, pa.array(MISSING_WORDS)))).to_pylist():
                (kept if is_text(kinds[name]) else missing).setdefault(word, []).append(name)
        lines = [f"{self.path}: {word!r} is missing in {columns(names)}" for word, names in missing.items()]
        lines += [
            f"{self.path}: {word!r} is text in {columns(names)}; with --null {shell_word(word)} it is missing"
            for word, names in kept.items()
        ]
        return tuple(lines)

    def kind(self, name: str) -> pa.DataType:
        return self.table.schema.field(name).type

    def _found(self) -> list[str]:
        return [name for name in self.table.column_names if name not in self.declared]

    def _values(self, name: str) -> pa.ChunkedArray:
        """The values of a column as text, but for the missing ones, and words that mean so."""
        column = self.texts.column(name)
        return column.filter(pc.invert(pc.is_in(column, pa.array([*MISSING_WORDS, None], pa.string()))))


def overflow(texts: pa.ChunkedArray, numbers: pa.ChunkedArray) -> str | None:
    """The first text of digits whose number is infinite."""
    written = texts.filter(pc.is_inf(numbers))
    return _first(written, "[0-9]") if len(written) else None


def code_in(texts: pa.ChunkedArray) -> str | None:
    """The first value that is a code, such as 007, which would not survive as a number."""
    return _first(texts, CODE)


def _first(values: pa.ChunkedArray, pattern: str) -> str | None:
    found = values.filter(pc.match_substring_regex(values, pattern))
    return str(found[0].as_py()) if len(found) else None


def _any(values: pa.ChunkedArray, pattern: str) -> bool:
    return _first(values, pattern) is not None


def _all(values: pa.ChunkedArray, pattern: str) -> bool:
    """Whether there are values, and all match."""
    return len(values) > 0 and bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
