"""A file of any format → its schema and tables."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from mlclf.data.convert.formats.arff import Arff
from mlclf.data.convert.formats.arff_header import read_header
from mlclf.data.convert.formats.csv_files import open_csv
from mlclf.data.convert.formats.csv_rows import CsvFormat, CsvRows
from mlclf.data.convert.formats.sparse_text import SparseText, has_several_labels, xmc_header
from mlclf.data.convert.formats.tables import TABLES, Piece, tables
from mlclf.data.convert.formats.text_lines import Block, blocks
from mlclf.errors import DataError

MAX_HEADER_BYTES = 256 << 20
PARSERS = 2
"""Threads that parse text."""

BYTES_AHEAD = 32 << 20
"""Of text, which are read and parsed while a row group is written."""


@dataclass(frozen=True)
class Reading:
    """How files are read, as the arguments of `convert` say."""

    format: str | None = None
    labels_xml: Path | None = None
    first_index: int | None = None
    multilabel: bool = False
    csv: CsvFormat = field(default_factory=CsvFormat)


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Source:
    """A file being read: its rows, facts for the output's metadata, how later files are read, and notes to show."""

    pieces: Iterator[Piece]
    facts: dict[str, object]
    reading: Reading
    notes: list[str] = field(default_factory=list)


def open_source(path: Path, reading: Reading) -> Source:
    """Look at the beginning of a file and return its rows."""
    assert reading.format is not None
    if reading.format in TABLES:
        return Source(tables(path, reading.format), {"format": reading.format}, reading)
    if reading.format in ("csv", "tsv"):
        return _csv(path, reading)
    text = blocks(path)
    first = next(text, None)
    if first is None:
        return Source(iter(()), {"format": reading.format}, reading)
    openers = {"libsvm": _libsvm, "xmc": _xmc, "arff": _arff}
    return openers[reading.format](path, first, text, reading)


def _csv(path: Path, reading: Reading) -> Source:
    file = open_csv(path, reading.csv)
    later = replace(reading, csv=replace(reading.csv, decimal=file.rows.decimal))
    return Source(_tables(file.rows, file.blocks), {"format": reading.format} | file.facts, later, file.notes)


def _libsvm(path: Path, first: Block, rest: Iterator[Block], reading: Reading) -> Source:
    tags = reading.multilabel or has_several_labels(first.data)
    rows = SparseText(1 if reading.first_index is None else reading.first_index, tags)
    facts: dict[str, object] = {"format": "libsvm", "labels": "tags" if tags else "label"}
    return Source(_tables(rows, chain([first], rest)), facts, replace(reading, multilabel=tags))


def _xmc(path: Path, first: Block, rest: Iterator[Block], reading: Reading) -> Source:
    line, _, data = first.data.partition(b"\n")
    header = xmc_header(line)
    if header is None:
        found = line[:60].decode("utf-8", "replace")
        raise DataError(f"{path} line 1: expected three whole numbers, ROWS FEATURES LABELS, got {found!r}")
    num_rows, num_features, num_labels = header
    rows = SparseText(reading.first_index or 0, True, True, num_features, num_labels)
    facts: dict[str, object] = {"format": "xmc", "num_features": num_features, "num_labels": num_labels}
    start = [replace(first, data=data, first_line=2)] if data else []
    return Source(_counted(_tables(rows, chain(start, rest)), path, num_rows), facts, reading)


def _counted(pieces: Iterator[Piece], path: Path, expected: int) -> Iterator[Piece]:
    found = 0
    for table, read in pieces:
        found += table.num_rows
        yield table, read
    if found != expected:
        raise DataError(f"{path}: expected {expected:,} rows, as line 1 says, got {found:,}; copy the file again")


def _arff(path: Path, first: Block, rest: Iterator[Block], reading: Reading) -> Source:
    data = first
    while not (found := _data_line(data.data)):
        more = next(rest, None)
        if more is None or len(data.data) > MAX_HEADER_BYTES:
            break
        data = replace(data, data=data.data + more.data, done_bytes=more.done_bytes)
    cut = found or len(data.data)
    header = read_header(path, data.data[:cut].decode("utf-8", "replace").splitlines(), reading.labels_xml)
    start = replace(data, data=data.data[cut:], first_line=header.first_row)
    head = next((line for line in start.data.split(b"\n", 100) if line.strip() and not line.startswith(b"%")), b"")
    arff = Arff(header, head.lstrip().startswith(b"{"))
    labels = [arff.attributes[index].name for index in arff.labels]
    facts: dict[str, object] = {"format": "arff", "relation": header.relation, "label_names": labels}
    if arff.is_sparse:
        facts["feature_names"] = [arff.attributes[index].name for index in arff.features]
    return Source(_tables(arff, chain([start] if start.data else [], rest)), facts, reading)


def _data_line(data: bytes) -> int:
    """The place after the line @data, 0 where there is none."""
    lower = data.lower()
    place = 0 if lower.startswith(b"@data") else lower.find(b"\n@data") + 1
    return lower.find(b"\n", place) + 1 if place or lower.startswith(b"@data") else 0


def _tables(rows: SparseText | Arff | CsvRows, text: Iterator[Block]) -> Iterator[Piece]:
    """Tables of blocks in their order; while one is used the next are parsed."""
    waiting: deque[tuple[Future[pa.Table], int, int]] = deque()
    ahead = 0
    with ThreadPoolExecutor(PARSERS) as parsers:
        for block in text:
            waiting.append((parsers.submit(rows.table, block), block.done_bytes, len(block.data)))
            ahead += len(block.data)
            while ahead > BYTES_AHEAD:
                table, read, size = waiting.popleft()
                ahead -= size
                yield table.result(), read
        for table, read, _ in waiting:
            yield table.result(), read
