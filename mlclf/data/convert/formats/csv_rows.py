"""CSV files → Arrow tables: whole records are cut out here, and parsed by pyarrow with types that keep their values."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from mlclf.data.arrow.arrays import is_text
from mlclf.data.convert.formats.csv_dialect import Dialect
from mlclf.data.convert.formats.csv_records import lines_in
from mlclf.data.convert.formats.csv_types import MISSING_WORDS, Evidence, code_in, columns, is_number, overflow
from mlclf.data.convert.formats.text_lines import Block
from mlclf.errors import DataError
from mlclf.messages import cut, quoted, word


@dataclass(frozen=True)
class CsvFormat:
    """What is declared of CSV files; None is what is found.

    Attributes:
        usual: the delimiter that is expected.
        delimiter: between values.
        quotes: whether a value may be in double quotes.
        escape: a character that takes from the next one what it means.
        encoding: of the text.
        decimal: `.` or `,`.
        null_words: texts that mean a missing value in every column.
        names: of the columns of a file without a header; None where the first line has them.
        types: column or glob → type.
        found: the types of columns of the first file, for those after it.
    """

    usual: str = ","
    delimiter: str | None = None
    quotes: bool = True
    escape: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    null_words: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    types: Mapping[str, pa.DataType] | None = None
    found: Mapping[str, pa.DataType] | None = None


def types_of_columns(types: Mapping[str, pa.DataType], names: Sequence[str]) -> dict[str, pa.DataType]:
    """The type of each column that has one: that of its name, else that of the last glob that fits.

    >>> types_of_columns({"C1": pa.int64(), "C*": pa.string()}, ["label", "C1", "C2"])
    {'C1': DataType(int64), 'C2': DataType(string)}
    """
    chosen: dict[str, pa.DataType] = {}
    for pattern, kind in types.items():
        fitting = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        chosen |= {name: kind for name in fitting if name == pattern or name not in types}
    return {name: chosen[name] for name in names if name in chosen}


def blank_line(data: bytes, quotes: bool) -> int | None:
    """Where a line without a character begins outside quotes; None where there is none."""
    if data[:1] in (b"\n", b"\r"):
        return 0
    letters = np.frombuffer(data, np.uint8)
    ends = letters == 10
    if b"\r" in data:
        returns = letters == 13
        ends[:-1] |= returns[:-1] & ~ends[1:]  # of a CRLF the feed is the end
        ends[-1] |= returns[-1]
        second = ends.copy()
        second[:-1] |= returns[:-1] & ends[1:]
    else:
        second = ends
    places = np.flatnonzero(ends[:-1] & second[1:])
    if not len(places):
        return None
    if not quotes or b'"' not in data:
        return int(places[0]) + 1
    counts = np.searchsorted(np.flatnonzero(letters == ord('"')), places)
    outside = places[counts % 2 == 0]
    return int(outside[0]) + 1 if len(outside) else None


def may_hold_codes(data: bytes, delimiter: str) -> bool:
    """Whether a value begins with a zero and a digit or an x; a few others may be taken for such."""
    letters = np.frombuffer(b"\n\n" + data, np.uint8)
    for start in range(2, len(letters), CACHED_BYTES):
        stop = min(start + CACHED_BYTES, len(letters) - 1)
        before, after = letters[start - 1 : stop - 1], letters[start + 1 : stop + 1]
        begins = (after - 48) < 10
        begins |= (after | 32) == ord("x")
        begins &= letters[start:stop] == ord("0")
        beside = before <= ord('"')  # also spaces and line ends
        beside |= before == ord(delimiter)
        beside |= (before - 43) <= 2  # a sign, or a comma
        begins &= beside
        places = np.flatnonzero(begins) + start
        first = letters[places - 1]
        signs = (first == ord("-")) | (first == ord("+"))
        first = np.where(signs, letters[places - 2], first)
        if ((first <= ord('"')) | (first == ord(delimiter))).any():
            return True
    return False


_CONVERSION = re.compile(r"In CSV column #(\d+): .*?(?:CSV conversion error to (.+?): invalid value '(.*)')", re.DOTALL)
DELIMITER_LINE = re.compile(rb"sep=([^\w\r\n\"])(?:\r\n|\r|\n)", re.IGNORECASE)
NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
"""What columns of booleans are found by; where they are declared, 1 and 0 are booleans too."""

CACHED_BYTES = 64 << 10
"""Arrays of so many bytes are soon made; larger ones are new pages of memory each time."""


class CsvRows:
    """Makes tables of blocks of records; the types of columns are those declared, or found from the first block.

    Args:
        path: the file.
        dialect: how its text is cut.
        names: of its columns.
        form: what is declared.
        notes: takes sentences on what is found.
    """

    def __init__(self, path: Path, dialect: Dialect, names: Sequence[str], form: CsvFormat, notes: list[str]) -> None:
        self._path, self._dialect, self._names, self._form, self._notes = path, dialect, list(names), form, notes
        self._declared = types_of_columns(form.types or {}, self._names)
        self._kinds: dict[str, pa.DataType] = dict(self._declared)
        self.decimal = form.decimal or "."
        self._texts: list[str] = []
        self._others: list[str] = []
        self._guarded: list[str] = []
        self._reads_apart = False
        self._has_said_blank = False

    def find_types(self, block: Block) -> None:
        """Find the types of the columns that have none declared.

        Raises:
            DataError: a row is malformed, or a value is not of the type declared.
        """
        known = {name: kind for name, kind in (self._form.found or {}).items() if name in self._names}
        self._kinds = known | self._declared
        if self._form.found is None:
            try:
                evidence = self._evidence(block)
                if self._form.decimal is None:
                    is_comma, notes = evidence.decimal_commas()
                    self._notes += notes
                    if is_comma:
                        self.decimal = ","
                        evidence = self._evidence(block)
            except pa.ArrowException as error:
                raise DataError(self._problem(block, str(error))) from error
            self._kinds = {field.name: field.type for field in evidence.table.schema} | self._declared
            codes = evidence.codes()
            self._kinds |= dict.fromkeys([*codes, *evidence.hollow()], pa.string())
            self._notes += self._words_on_codes(codes)
            self._notes += evidence.words(self._kinds)
        self._texts = [name for name in self._names if name in self._kinds and is_text(self._kinds[name])]
        self._others = [name for name in self._names if name not in self._texts]
        self._guarded = [n for n in self._others if n in self._kinds and is_number(self._kinds[n])]
        self._guarded = [name for name in self._guarded if name not in self._declared]

    def _words_on_codes(self, codes: Mapping[str, str]) -> list[str]:
        if not codes:
            return []
        name, code = next(iter(codes.items()))
        option = f"--type {word(f'{name}=float64')}"
        words = f"numbers would lose how {quoted(code, 60)} is written; {option} reads numbers"
        return [f"{self._path}: text in {columns(list(codes))}, since {words}"]

    def _evidence(self, block: Block) -> Evidence:
        table = self._read(block.data, self._names, self._declared, is_lenient=True, finds=True)
        texts = self._read(block.data, self._names, dict.fromkeys(self._names, pa.string()), is_lenient=False)
        return Evidence(self._path, table, texts, frozenset(self._declared))

    def table(self, block: Block) -> pa.Table:
        """The rows of a block.

        Raises:
            DataError: a row is malformed, a value is not of its column's type, or would lose what is written.
        """
        try:
            found = self._rows(block.data)
        except pa.ArrowException as error:
            raise DataError(self._problem(block, str(error))) from error
        if self._guarded:
            self._check_losses(block, found)
        if not self._has_said_blank:
            self._say_blank(block)
        return found

    def _rows(self, data: bytes) -> pa.Table:
        """Rows whose words for missing values are those of text in columns of text, and all in the others."""
        if not self._others or not self._texts:
            return self._read(data, self._names, self._kinds, is_lenient=bool(self._others))
        if not self._reads_apart:
            try:
                return _without_nan(self._read(data, self._names, self._kinds, is_lenient=False))
            except pa.ArrowException:
                found = self._read_apart(data)
                self._reads_apart = True
                return found
        return self._read_apart(data)

    def _read_apart(self, data: bytes) -> pa.Table:
        others = self._read(data, self._others, self._kinds, is_lenient=True)
        texts = self._read(data, self._texts, self._kinds, is_lenient=False)
        found = {table_name: table.column(table_name) for table in (others, texts) for table_name in table.column_names}
        return pa.table([found[name] for name in self._names], names=self._names)

    def _read(
        self,
        data: bytes,
        names: Sequence[str],
        kinds: Mapping[str, pa.DataType],
        *,
        is_lenient: bool,
        finds: bool = False,
    ) -> pa.Table:
        """Columns of the rows; where lenient, words and empty texts in quotes are missing too."""
        options = {"true_values": TRUE, "false_values": FALSE} if finds and pa.bool_() not in kinds.values() else {}
        return pv.read_csv(
            pa.py_buffer(data),
            pv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=self._names),
            pv.ParseOptions(
                delimiter=self._dialect.delimiter,
                quote_char='"' if self._dialect.quotes else False,
                escape_char=self._dialect.escape or False,
                ignore_empty_lines=len(self._names) > 1,
            ),
            pv.ConvertOptions(
                include_columns=list(names),
                column_types={name: kinds[name] for name in names if name in kinds},
                null_values=["", *self._form.null_words, *(MISSING_WORDS if is_lenient else ())],
                strings_can_be_null=True,
                quoted_strings_can_be_null=is_lenient,
                decimal_point=self.decimal,
                **options,
            ),
        )

    # ── what is wrong with a row, slowly ────────────────────────────────────────────────────────────────────────────

    def _check_losses(self, block: Block, found: pa.Table) -> None:
        """Refuse numbers, in columns where numbers were found, that are written so that a number loses it."""
        infinite = [n for n in self._guarded if pa.types.is_floating(found.schema.field(n).type)]
        infinite = [name for name in infinite if pc.any(pc.is_inf(found.column(name))).as_py()]
        names = self._guarded if may_hold_codes(block.data, self._dialect.delimiter) else infinite
        if not names:
            return
        texts = self._read(block.data, names, dict.fromkeys(names, pa.string()), is_lenient=False)
        for name in names:
            code = code_in(texts.column(name))
            if code is None and name in infinite:
                code = overflow(texts.column(name), found.column(name))
            if code is not None:
                kind = "int64" if pa.types.is_integer(self._kinds[name]) else "float64"
                raise DataError(
                    f"{self._place_of(block, self._names.index(name), code)}: {kind}, the type of the rows before, "
                    f"would lose how {quoted(code, 60)} is written; keep it with --type {word(f'{name}=string')}, "
                    f"or read numbers with --type {word(f'{name}={kind}')}"
                )

    def _place_of(self, block: Block, column: int, value: str) -> str:
        for line, values in self._records(block):
            if len(values) > column and values[column] == value:
                return f"{self._path} line {line} column {quoted(self._names[column], 60)}"
        return f"{self._path} column {quoted(self._names[column], 60)}"

    def _records(self, block: Block) -> Iterator[tuple[int, list[str]]]:
        """The number of the first line, and the values, of each record that is not blank."""
        line = block.first_line
        for start, end, after in self._dialect.records(block.data, True):
            if end > start or len(self._names) == 1:
                yield line, self._dialect.values(block.data[start:end])
            line += lines_in(block.data[start:after])

    def _problem(self, block: Block, message: str) -> str:
        """The message with the first line at fault."""
        conversion = _CONVERSION.search(message)
        for line, values in self._records(block):
            place = f"{self._path} line {line}"
            if len(values) != len(self._names):
                given = "as in the header" if self._form.names is None else "as many as --names"
                return f"{place}: expected {len(self._names)} values, {given}, got {len(values)}"
            if conversion and values[int(conversion[1])].strip() == conversion[3].strip():
                column, kind, value = self._names[int(conversion[1])], conversion[2], conversion[3]
                return (
                    f"{place} column {quoted(column, 60)}: expected {kind}, the type of the rows before, "
                    f"got {quoted(value, 60)}; mend it, or name another type with --type {word(f'{column}=TYPE')}"
                )
        return f"{block.place(0)}: the records from this line on cannot be read ({cut(message)}); mend the file"

    def _say_blank(self, block: Block) -> None:
        """Say once what blank lines are; those inside quotes are none."""
        start = blank_line(block.data, self._dialect.quotes)
        if start is not None and not self._has_said_blank:
            self._has_said_blank = True
            what = "rows without a value" if len(self._names) == 1 else "passed over"
            line = block.first_line + lines_in(block.data[:start])
            self._notes.append(f"{self._path}: blank lines, such as line {line}, are {what}")


def _without_nan(table: pa.Table) -> pa.Table:
    """NaN is missing, as in the columns where the word is read so."""
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_floating(field.type) and pc.any(pc.is_nan(column)).as_py():
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            table = table.set_column(index, field, column)
    return table
