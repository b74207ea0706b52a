"""CSV files opened: how they are written, their header, and the types of their columns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mlclf.data.convert.formats.csv_dialect import Dialect, Malformed, find_dialect
from mlclf.data.convert.formats.csv_records import RecordFile, lines_in, not_utf8
from mlclf.data.convert.formats.csv_rows import DELIMITER_LINE, NUMBER, CsvFormat, CsvRows
from mlclf.data.convert.formats.csv_types import columns
from mlclf.data.convert.formats.text_lines import Block
from mlclf.errors import DataError
from mlclf.messages import quoted


@dataclass(frozen=True)
class CsvFile:
    """A file whose beginning was looked at.

    Attributes:
        rows: makes tables of blocks.
        blocks: of whole records, as far as there are rows.
        facts: the encoding, the delimiter and more, JSON-able.
        notes: sentences on what was found; more come while rows are read.
    """

    rows: CsvRows
    blocks: Iterator[Block]
    facts: dict[str, object]
    notes: list[str]


def open_csv(path: Path, form: CsvFormat) -> CsvFile:
    """Look at the first 8 MiB of a file.

    Raises:
        DataError: it is no text, its header cannot serve, or the dialect or a type is not clear; names the line.
    """
    file = RecordFile(path, form.encoding, form.names is None)
    try:
        return _opened(file, form)
    except BaseException:
        file.close()
        raise


def _opened(file: RecordFile, form: CsvFormat) -> CsvFile:
    path, notes, skip = file.path, list(file.notes), 0
    marked = DELIMITER_LINE.match(file.first) if form.delimiter is None else None
    if marked is not None:
        skip, form = marked.end(), replace(form, delimiter=marked[1].decode())
        notes.append(f"{path}: values are separated by {form.delimiter!r}, as line {file.first_line} says")
    beginning = file.first[skip:]
    declared = Dialect(form.delimiter or form.usual, form.quotes, form.escape)
    finds, num_names = (form.delimiter is None, form.escape is None), None if form.names is None else len(form.names)
    dialect, found = find_dialect(path, beginning, file.is_all, declared, finds=finds, num_names=num_names)
    notes += found
    names = form.names
    if names is None:
        line = file.first_line + lines_in(file.first[:skip])
        names, more, after = _header(file, beginning, dialect, line)
        notes += more
        skip += after
    elif len(names) > 1 and _begins_with(names, beginning, dialect, file.is_all):
        raise DataError(
            f"{path}: the first record must be a row where --names is given, and has these names; leave --names out"
        )
    blocks = file.blocks(dialect, names, skip)
    first = next(blocks, None)
    facts: dict[str, object] = {"encoding": file.encoding, "delimiter": dialect.delimiter}
    rows = CsvRows(path, dialect, names, form, notes)
    if first is None:
        file.close()
        return CsvFile(rows, iter(()), facts, notes)
    rows.find_types(first)
    facts |= {"decimal": rows.decimal} | ({"escape": dialect.escape} if dialect.escape else {})
    return CsvFile(rows, _until_closed(file, first, blocks), facts, notes)


def _until_closed(file: RecordFile, first: Block, rest: Iterator[Block]) -> Generator[Block, None, None]:
    try:
        yield first
        del first
        yield from rest
    finally:
        file.close()


def _header(file: RecordFile, data: bytes, dialect: Dialect, line: int) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The names of the columns, sentences on them, and the place after their record."""
    place = f"{file.path} line {line}"
    if not data:
        raise DataError(f"{file.path}: must begin with a line of column names, and is empty; check the file")
    try:
        start, end, after = next(dialect.records(data, file.is_all))
        str(data[:end], "utf-8")
        names = dialect.values(data[start:end])
    except (StopIteration, Malformed):
        raise DataError(
            f"{place}: must be column names whose quotes are closed, got "
            f"{quoted(data[:40].decode('utf-8', 'replace'))}; mend the header, or give --no-quotes"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(str(file.path), line, data, error)) from None
    notes = []
    unnamed = [index for index, name in enumerate(names) if not name]
    for index in unnamed:
        names[index] = f"unnamed_{index + 1}"
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(
            f"{place}: column names must be distinct, got {quoted(twice[0], 60)} more than once; rename one"
        )
    if unnamed:
        given = [names[index] for index in unnamed]
        notes.append(
            f"{place}: the header has an empty name, for which {columns(given)} is written; pandas writes row numbers "
            f"so, which are no input: mlclf fit --exclude {given[0]}"
        )
    if len(names) > len(unnamed) and all(NUMBER.fullmatch(name) for name in names):
        notes.append(
            f"{place}: the header has numbers as names, such as {quoted(names[0], 60)}; if it is a row, give --names"
        )
    return tuple(names), tuple(notes), after


def _begins_with(names: Sequence[str], data: bytes, dialect: Dialect, is_all: bool) -> bool:
    """Whether the first record that is not blank holds these names."""
    try:
        spans = ((start, end) for start, end, _ in dialect.records(data, is_all) if end > start)
        return any(dialect.values(data[start:end]) == list(names) for start, end in islice(spans, 1))
    except Malformed:
        return False  # which is refused when the record is read
