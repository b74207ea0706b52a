"""How text is cut into records and values: the delimiter, quotes and escapes of a CSV file, declared or found.

A record ends at a line end (LF, CRLF or CR) outside quotes. A value may stand in double quotes, where a quote is
doubled (RFC 4180) or, where there is an escape character, follows it; a quote inside a value that does not begin with
one is a letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlclf.errors import ConfigError, DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
"""Those that are looked for, and their names."""

DELIMITER_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " "}
SAMPLE_BYTES, SAMPLE_RECORDS = 256 << 10, 200
QUOTE = ord('"')


class Malformed(Exception):  # noqa: N818  # never leaves the readers, which name the line
    """Text stands behind a closing quote, at `place`."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Dialect:
    """Delimiter between values (one ASCII character), whether quotes enclose values, and what escapes a character."""

    delimiter: str = ","
    quotes: bool = True
    escape: str | None = None

    @cached_property
    def _value(self) -> bytes:
        mark, escape = re.escape(self.delimiter.encode()), re.escape((self.escape or "").encode())
        ends = rb"\r\n" + mark + escape
        one = rb"(?:[^" + ends + rb"]" + (rb"|" + escape + rb"[\s\S])" if escape else rb")")
        if not self.quotes:
            return one + rb"*+"
        first = rb'(?:[^"' + ends + rb"]" + (rb"|" + escape + rb"[\s\S])" if escape else rb")")
        inner = rb'(?:[^"' + escape + rb']++|""' + (rb"|" + escape + rb"[\s\S])*+" if escape else rb")*+")
        return rb'(?:"' + inner + rb'"|' + first + one + rb"*+|)"

    @cached_property
    def _record(self) -> re.Pattern[bytes]:
        mark = re.escape(self.delimiter.encode())
        return re.compile(rb"(" + self._value + rb"(?:" + mark + self._value + rb")*+)(\r\n|\r|\n|\Z)?")

    @cached_property
    def _values(self) -> re.Pattern[bytes]:
        return re.compile(rb"(" + self._value + rb")(" + re.escape(self.delimiter.encode()) + rb"|\Z)")

    @cached_property
    def _ends(self) -> NDArray[np.bool_]:
        """[256] bool: bytes that may stand beside a quote that opens or closes a value, a quote among them."""
        table = np.zeros(256, np.bool_)
        table[[ord(self.delimiter), QUOTE, 10, 13]] = True
        return table

    def records(self, data: bytes, is_last: bool) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and place after the line end of each whole record, one after the other: exact, and slow.

        Args:
            data: begins with a record.
            is_last: whether the file ends with it; else a record that may go on is not whole.

        Raises:
            Malformed: text stands behind a closing quote.
        """
        place = 0
        while place < len(data):
            found = self._record.match(data, place)
            assert found is not None  # a record may be empty
            end, after = found.end(1), found.end()
            if not found[2]:
                is_open = end < len(data) and data[end] == QUOTE and (end == 0 or data[end - 1] != QUOTE)
                if end < len(data) and not is_open and not (self.escape and data[end] == ord(self.escape)):
                    raise Malformed(end)
                if not is_last or end < len(data):
                    return
            elif after == len(data) and not is_last and data[-1] == 13:
                return  # a line feed may follow
            yield place, end, after
            place = after

    def values(self, record: bytes) -> list[str]:
        """The values of one whole record."""
        found, place = [], 0
        while True:
            match = self._values.match(record, place)
            if match is None:
                raise Malformed(place)
            found.append(self._plain(match[1]).decode("utf-8", "replace"))
            place = match.end()
            if not match[2]:
                return found

    def column_at(self, record: bytes, place: int) -> int:
        """The number of the column that a byte of a record belongs to."""
        ends = (match.end() for match in self._values.finditer(record))
        return next((index for index, end in enumerate(ends) if end > place), 0)

    def _plain(self, value: bytes) -> bytes:
        if self.quotes and value[:1] == b'"':
            value = value[1:-1].replace(b'""', b'"')
        escape = re.escape((self.escape or "").encode())
        return re.sub(escape + rb"([\s\S])", rb"\1", value) if escape else value

    def whole_records(self, data: bytes, is_last: bool) -> int:
        """How many bytes of `data`, which begins with a record, are whole records; all of them where it is the last.

        Raises:
            Malformed: text stands behind a closing quote.
        """
        if self.escape is None:
            cut = self._cut_by_parity(data, is_last)
            if cut is not None:
                return cut
        return max((after for _, _, after in self.records(data, is_last)), default=0)

    def _cut_by_parity(self, data: bytes, is_last: bool) -> int | None:
        """The end of the last record, before which an even number of quotes stands; None where quotes are letters."""
        stop = len(data) if is_last or data[-1:] != b"\r" else len(data) - 1
        if not self.quotes or b'"' not in data:
            return len(data) if is_last else _last_end(data, stop)
        letters = np.frombuffer(data, np.uint8)
        places = np.flatnonzero(letters == QUOTE)
        if is_last and len(places) % 2 == 0:
            cut = len(data)
        else:
            cut = _last_end(data, stop)
            while (before := int(np.searchsorted(places, cut))) % 2:
                cut = _last_end(data, int(places[before - 1]))
        return cut if self._is_regular(letters, places[: np.searchsorted(places, cut or stop)]) else None

    def _is_regular(self, letters: NDArray[np.uint8], places: NDArray[np.int64]) -> bool:
        """Whether every other quote opens a value, and those between close it: then counting them is exact."""
        opening, closing = places[0::2], places[1::2]
        before = letters[opening[1:] - 1] if len(opening) and opening[0] == 0 else letters[opening - 1]
        after = letters[closing[closing + 1 < len(letters)] + 1]
        return bool(self._ends[before].all() and self._ends[after].all())


def _last_end(data: bytes, stop: int) -> int:
    """The place after the last line end before a place; 0 where there is none."""
    return max(data.rfind(b"\n", 0, stop), data.rfind(b"\r", 0, stop)) + 1


class Found(NamedTuple):
    """The dialect of a file, and sentences on what was found."""

    dialect: Dialect
    notes: tuple[str, ...] = ()


def delimiter_of(text: str) -> str:
    """The character that an option means.

    >>> [delimiter_of(text) for text in (";", "tab", "\\\\t")]
    [';', '\\t', '\\t']

    Raises:
        ConfigError: it is not one ASCII character that can stand between values.
    """
    character = DELIMITER_NAMES.get(text, text)
    if len(character) != 1 or not character.isascii() or character.isalnum() or character in "\"\\\r\n.+-_'\0":
        raise ConfigError(
            "--delimiter must be one character that stands between values, or one of "
            f"{', '.join(DELIMITER_NAMES)}, got {text!r}"
        )
    return character


def find_dialect(
    path: Path, data: bytes, is_all: bool, declared: Dialect, *, finds: tuple[bool, bool], num_names: int | None
) -> Found:
    """Find what is not declared from the first bytes of a file, which begin with a record.

    Args:
        is_all: whether the file ends with them.
        declared: the dialect, with the usual delimiter of files of this name where none is declared.
        finds: whether the delimiter, and whether the escape character is to be found.
        num_names: how many columns are declared; None where they are not.

    Raises:
        DataError: more than one delimiter would cut all records alike.
    """
    may_escape = finds[1] and declared.quotes and b'\\"' in data
    options = [declared, *([replace(declared, escape="\\")] if may_escape else ())]
    chosen = [_with_delimiter(path, data, is_all, option, num_names) if finds[0] else option for option in options]
    fitting = [
        each
        for each in chosen
        if _width(each, data, is_all) is not None and (not may_escape or _is_well_formed(each, data, is_all))
    ]
    found = (fitting or chosen)[0]
    notes = []
    if found.delimiter != declared.delimiter:
        notes.append(f"{path}: values are separated by {DELIMITERS[found.delimiter]}, as found")
    if found.escape != declared.escape:
        notes.append(f"{path}: quotes inside values follow a backslash, as found")
    return Found(found, tuple(notes))


def _with_delimiter(path: Path, data: bytes, is_all: bool, plain: Dialect, num_names: int | None) -> Dialect:
    """The dialect with the delimiter that cuts all of the first records into as many values, or else most of them."""
    dialects = [replace(plain, delimiter=mark) for mark in dict.fromkeys((plain.delimiter, *DELIMITERS))]
    widths = [_widths(each, data, is_all) for each in dialects]
    first = [num_names or (found[0] if found else 1) for found in widths]
    shares = [
        sum(width == wanted for width in found) / len(found) if found and wanted > 1 else 0.0
        for found, wanted in zip(widths, first, strict=True)
    ]
    fitting = [each for each, share in zip(dialects, shares, strict=True) if share == 1]
    if len(fitting) > 1:
        names = " and ".join(DELIMITERS[each.delimiter] for each in fitting)
        raise DataError(
            f"{path}: values must be separated by one character, and {names} would each cut every record into as many "
            "values; say which it is with --delimiter"
        )
    best = dialects[max(range(len(shares)), key=shares.__getitem__)]
    return best if max(shares) > 0.5 else plain


def _widths(dialect: Dialect, data: bytes, is_all: bool) -> list[int] | None:
    """The number of values in each of the first records that is not blank; None where they are malformed."""
    sample = data[:SAMPLE_BYTES]
    widths: list[int] = []
    try:
        for start, end, _ in dialect.records(sample, is_all and len(sample) == len(data)):
            if end > start:
                widths.append(len(dialect.values(data[start:end])))
            if len(widths) == SAMPLE_RECORDS:
                break
    except Malformed:
        return None
    return widths


def _width(dialect: Dialect, data: bytes, is_all: bool) -> int | None:
    """The number of values in each of the first records; None where it is not one, or they are malformed."""
    widths = set(_widths(dialect, data, is_all) or ())
    return widths.pop() if len(widths) == 1 else None


def _is_well_formed(dialect: Dialect, data: bytes, is_all: bool) -> bool:
    try:
        cut = dialect.whole_records(data, is_all)
    except Malformed:
        return False
    return cut == len(data) if is_all else cut > 0
