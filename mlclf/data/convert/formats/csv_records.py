"""A CSV file's bytes as UTF-8 text in blocks of whole records, whatever stands in quotes and however it is encoded."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mlclf.data.convert.formats.csv_dialect import Dialect, Malformed
from mlclf.data.convert.formats.text_lines import BLOCK_BYTES, FIRST_BYTES, Block, open_input, read_bytes
from mlclf.errors import ConfigError, DataError
from mlclf.messages import quoted

MAX_RECORD_BYTES = 64 << 20
"""A quote that is never closed is noticed after so many bytes; no honest record is longer."""

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""What a file may begin with, and the encoding that reads and leaves it out; the longer marks first."""

NO_TEXT = ("idna", "mbcs", "oem", "palmos", "punycode", "raw_unicode_escape", "undefined", "unicode_escape")
UTF8 = ("utf-8", "utf-8-sig")


def encoding_of(name: str) -> str:
    """The name of an encoding as Python has it.

    Raises:
        ConfigError: there is no such encoding of text.
    """
    try:
        info = codecs.lookup(name)
        "".encode(name)  # refuses what is no encoding of text
        found = info.name
    except (LookupError, ValueError, UnicodeError):
        found = ""
    if not found or found in NO_TEXT:
        raise ConfigError(
            f"--encoding must be an encoding of text such as utf-8, utf-16, cp1252 or latin-1, got {name[:60]!r}"
        )
    return found


class RecordFile:
    """A file that is read in blocks of whole records.

    Args:
        path: the file, which may be compressed.
        encoding: as declared; None for UTF-8, or what a mark at the beginning says.
        has_header: whether lines before the first record are blank.

    Raises:
        DataError: it cannot be read, or its encoding is another one.
    """

    def __init__(self, path: Path, encoding: str | None, has_header: bool) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self.first_line, self.is_all = 1, False
        self._stored, self._contents = open_input(path)
        start = read_bytes(self._contents, 4, path)
        marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
        self.encoding = encoding or marked or "utf-8"
        if marked is not None and encoding is None and marked not in UTF8:
            self.notes = (f"{path}: the encoding is {marked.upper()}, as the mark at its beginning says",)
        if marked == "utf-8-sig" and encoding is not None and encoding not in UTF8:
            raise DataError(
                f"{path}: the file begins with the mark of UTF-8, and --encoding is {encoding}; leave --encoding out"
            )
        if self.encoding in UTF8:
            start, self.encoding = start[3 * (marked == "utf-8-sig") :], "utf-8"
        self._decoder = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)("strict")
        self._lines_decoded = 0
        self._start = start
        self.first = self._first(has_header)

    def _first(self, has_header: bool) -> bytes:
        """The first 8 MiB as UTF-8, without the blank lines before a header."""
        data = self._text(FIRST_BYTES)
        while len(data) < FIRST_BYTES and not self.is_all:
            data += self._text(FIRST_BYTES - len(data))
        if self._decoder is None and data[:4096].count(0) > len(data[:4096]) // 4:
            raise DataError(
                f"{self.path} line 1: text must not hold zero bytes, and this looks like UTF-16 without a mark; give "
                "--encoding utf-16-le or utf-16-be"
            )
        data = data.removeprefix("\ufeff".encode())
        whole = data.lstrip(b"\r\n") if has_header else data
        self.first_line += lines_in(data[: len(data) - len(whole)])
        return whole

    def blocks(self, dialect: Dialect, names: Sequence[str], skip: int) -> Iterator[Block]:
        """Yield the whole records of the file after `skip` bytes of `first`, in blocks of about 2 MiB, the first 8 MiB.

        Raises:
            DataError: the file cannot be read, a quote is not closed, or text stands behind a closing quote.
        """
        self.first_line += lines_in(self.first[:skip])
        data, self.first = self.first[skip:], b""
        size = BLOCK_BYTES
        while data or not self.is_all:
            try:
                cut = dialect.whole_records(data, self.is_all)
            except Malformed as error:
                raise DataError(self._behind_a_quote(data, error.place)) from None
            if cut:
                self._check_utf8(data[:cut], dialect, names)
                is_ended = cut < len(data) or not self.is_all or data[-1:] in (b"\r", b"\n")
                yield self._block(data[:cut] if is_ended else data + b"\n")
                data, size = data[cut:], BLOCK_BYTES
            elif self.is_all:
                raise DataError(self._open_quote(dialect, "the file ends"))
            if len(data) > MAX_RECORD_BYTES:
                raise DataError(self._open_quote(dialect, f"{MAX_RECORD_BYTES >> 20} MiB follow"))
            if not self.is_all:
                data += self._text(size)
                size = min(size * 2, MAX_RECORD_BYTES)

    def close(self) -> None:
        self._contents.close()
        self._stored.close()

    def _block(self, data: bytes) -> Block:
        block = Block(str(self.path), data, self.first_line, self._stored.tell())
        self.first_line += lines_in(data)
        return block

    def _check_utf8(self, data: bytes, dialect: Dialect, names: Sequence[str]) -> None:
        if self._decoder is not None:
            return
        try:
            str(data, "utf-8")
        except UnicodeDecodeError as error:
            spans = dialect.records(data, True)
            start, end = next((start, end) for start, end, after in spans if after > error.start)
            index = dialect.column_at(data[start:end], error.start - start)
            column = f" column {quoted(names[index], 60)}" if index < len(names) else ""
            raise DataError(not_utf8(f"{self.path}", self.first_line, data, error, column)) from None

    def _text(self, size: int) -> bytes:
        """More of the file as UTF-8; empty, or without a whole character, at its end."""
        raw = self._start + read_bytes(self._contents, max(1, size - len(self._start)), self.path)
        self.is_all = len(raw) == len(self._start)
        self._start = b""
        if self._decoder is None:
            return raw
        try:
            text = self._decoder.decode(raw, self.is_all)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(self.encoding, "replace")
            line = self._lines_decoded + 1 + lines_in(before.encode())
            column = len(before) - max(before.rfind("\n"), before.rfind("\r"))
            raise DataError(
                f"{self.path} line {line} character {column}: must be {self.encoding}, got the bytes "
                f"{error.object[error.start : error.end][:8]!r}; give the encoding that it is with --encoding"
            ) from None
        data: bytes = text.encode("utf-8", "surrogatepass")
        self._lines_decoded += lines_in(data)
        return data

    def _behind_a_quote(self, data: bytes, place: int) -> str:
        line = self.first_line + lines_in(data[:place])
        shown = data[max(0, place - 20) : place + 20].decode("utf-8", "replace")
        return (
            f"{self.path} line {line}: a delimiter or a line end must follow a closing quote, got {quoted(shown)}; "
            "double the quotes inside values, or give --escape '\\' or --no-quotes if they are written so"
        )

    def _open_quote(self, dialect: Dialect, end: str) -> str:
        what = "a quote opens a value and is not closed before" if dialect.quotes else "a line is not ended before"
        return f"{self.path} line {self.first_line}: {what} {end}; mend the record, or give --no-quotes"


def not_utf8(name: str, first: int, data: bytes, error: UnicodeDecodeError, column: str = "") -> str:
    """Say in which line and where in it bytes are not UTF-8; `data` begins with line number `first`."""
    start = max(data.rfind(b"\n", 0, error.start), data.rfind(b"\r", 0, error.start)) + 1
    around = data[max(start, error.start - 20) : error.start + 20].splitlines()[0]
    return (
        f"{name} line {first + lines_in(data[:start])}{column} byte {error.start - start + 1}: text must be UTF-8, got "
        f"{around!r}; give the encoding that it is with --encoding, such as cp1252 or latin-1"
    )


def lines_in(data: bytes) -> int:
    """Line ends, LF, CRLF or CR."""
    feeds = int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10))
    return feeds + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)
