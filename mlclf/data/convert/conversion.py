"""`convert`: files of other formats → Parquet with row groups of a good size and page checksums."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from mlclf.config.settings import Settings
from mlclf.data.convert.formats.csv_dialect import delimiter_of
from mlclf.data.convert.formats.csv_records import encoding_of
from mlclf.data.convert.formats.csv_rows import CsvFormat
from mlclf.data.convert.formats.opening import Reading, Source, open_source
from mlclf.data.convert.formats.tables import Piece
from mlclf.data.convert.row_groups import check_numbers
from mlclf.data.convert.row_writer import RowsWritten, rows_written
from mlclf.data.storage.sources import steady
from mlclf.errors import ConfigError, DataError
from mlclf.given_files import problem_of
from mlclf.names import names_of
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain

FORMATS = {
    ".libsvm": "libsvm", ".svm": "libsvm", ".svmlight": "libsvm", ".xmc": "xmc", ".arff": "arff", ".csv": "csv",
    ".tsv": "tsv", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
"""Format by the ending of a file's name; an ending of compression before it is left out."""

NAMES = ("libsvm", "xmc", "arff", "csv", "tsv", "arrow", "parquet")
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
TYPES = {
    "bool": pa.bool_(), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(),
    "string": pa.string(), "date": pa.date32(), "timestamp": pa.timestamp("us"),
}  # fmt: skip

METADATA_KEY = b"mlclf"
"""Key of the JSON in each file's schema that says where its rows are from."""


@dataclass(frozen=True)
class Converted:
    """What was written, and what was found in the sources: JSON-able, as it stands in the files."""

    folder: Path
    rows: int
    files: int
    row_groups: int
    source: dict[str, object]


def convert(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,  # as the option is called
    labels_xml: str | Path | None = None,
    first_index: int | None = None,
    multilabel: bool = False,
    types: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    quotes: bool = True,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    escape: str | None = None,
    null_words: Sequence[str] = (),
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Converted:
    """Convert files of other formats to Parquet files in `out`, with their rows in order.

    Sparse rows become list columns `indices` (int32, from 0) and `values` (float32). Labels of ARFF become `label_*`
    columns (uint8 where they are 0 and 1), those of XMC text and of multi-label libsvm one list column `labels` of the
    ids as text, that of single-label libsvm a column `label` (float64). The files' metadata holds the source's format
    and the names of labels. `out` appears whole, or stays as it was. Memory holds a block of a file and a row group,
    whatever the size of the files.

    Args:
        files: files of one format; .gz, .bz2, .zst and .lz4 are unpacked (but for Parquet, and CSV's error lines).
        out: the folder to write, on local disk.
        format: libsvm, xmc, arff, csv, tsv, arrow or parquet; None for what the files' names end in.
        labels_xml: Mulan's XML file that names the labels of ARFF files; without it they are MEKA's ``-C N``.
        first_index: the least index of sparse text; None for 1 in libsvm and 0 in XMC.
        multilabel: whether libsvm rows have any number of labels; found from the first 8 MiB where not given.
        types: column or glob → bool, int32, int64, float32, float64, string, date or timestamp, of CSV and TSV.
        names: of the columns of CSV and TSV without a header; None where the first line has them.
        quotes: whether values of CSV and TSV may be in double quotes; else a quote is a letter like others.
        delimiter: between values of CSV and TSV: a character, or comma, semicolon, tab, pipe; found where not given.
        encoding: of CSV and TSV, such as cp1252; UTF-8, or what a mark at the beginning says, where not given.
        decimal: before the decimals of CSV and TSV, ``.`` or ``,``; found where not given.
        escape: the character of CSV and TSV that takes from the next its meaning; a backslash is found.
        null_words: texts of CSV and TSV that mean a missing value, also in columns of text.
        overwrite: replace what an earlier job wrote to `out`.
        memory_budget: bytes that row groups are made for; None for `runtime.memory_budget`.

    Raises:
        ConfigError: an option does not fit, or `out` may not be written.
        DataError: a file is malformed; names the file, the line and what was expected.
    """
    steps = convert_steps(
        files, out, format=format, labels_xml=labels_xml, first_index=first_index, multilabel=multilabel, types=types,
        names=names, quotes=quotes, delimiter=delimiter, encoding=encoding, decimal=decimal, escape=escape,
        null_words=null_words, overwrite=overwrite, memory_budget=memory_budget,
    )  # fmt: skip
    return drain(steps)


def convert_steps(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,  # as the option is called
    labels_xml: str | Path | None = None,
    first_index: int | None = None,
    multilabel: bool = False,
    types: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    quotes: bool = True,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    escape: str | None = None,
    null_words: Sequence[str] = (),
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Generator[Progress, None, Converted]:
    """The job of `convert`, yielding progress in bytes of the files; returns what was written."""
    folder, paths = Path(out), [Path(each) for each in names_of(files)]
    budget = Settings().runtime.memory_budget if memory_budget is None else memory_budget
    xml = None if labels_xml is None else Path(labels_xml)
    kind = _format(paths, format)
    text = CsvFormat(
        "\t" if kind == "tsv" else ",",
        None if delimiter is None else delimiter_of(delimiter),
        quotes,
        escape,
        None if encoding is None else encoding_of(encoding),
        decimal,
        tuple(null_words),
        None if names is None else tuple(names),
        _types(types or {}),
    )
    reading = Reading(kind, xml, first_index, multilabel, text)
    _check_options(reading)
    check_numbers(0, budget)
    with claimed(folder, "convert", overwrite=overwrite) as output:
        for path in paths:
            problem = problem_of(path)
            if problem is not None:
                raise DataError(f"{path}: {problem}")
        output.keep_apart(paths)
        for note in output.said():
            yield Progress.warning("data", note)
        output.needs_bytes = sum(path.stat().st_size for path in paths)
        with output.opened() as new:
            writer, facts = yield from _converted(paths, reading, new, budget)
        for note in output.said():
            yield Progress.warning("data", note)
    return Converted(folder, writer.rows, writer.files, writer.row_groups, facts)


def _converted(
    paths: Sequence[Path], reading: Reading, folder: Path, budget: int
) -> Generator[Progress, None, tuple[RowsWritten, dict[str, object]]]:
    """Write the rows of all files; returns what wrote them, and what was found in the first."""
    sizes = [path.stat().st_size for path in paths]
    with ExitStack() as stack:
        writer: RowsWritten | None = None
        kept, done = reading, 0
        said: set[str] = set()
        for path, size in zip(paths, sizes, strict=True):
            source = open_source(path, kept)
            yield from _said(source, path, said)
            for table, read in _steadily(path, source.pieces):
                if writer is None:
                    schema = _stated(table.schema, source.facts)
                    writer = stack.enter_context(rows_written(folder, schema, budget))
                    kept = replace(source.reading, csv=_with_types(source.reading, schema))
                    facts = source.facts
                writer.add(_conforming(table, writer.schema, path))
                yield Progress("convert", done + read, sum(sizes), unit="bytes")
            yield from _said(source, path, said)
            done += size
        if writer is None:
            raise DataError(f"{paths[0]}: the files must hold rows, and hold none; check what wrote them")
    return writer, facts


def _steadily(path: Path, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces of a file that stays as it is until its last."""
    with steady(path):
        yield from pieces


def _said(source: Source, path: Path, said: set[str]) -> Iterator[Progress]:
    """The sentences on a source, those that were said of a file before left out."""
    while source.notes:
        note = source.notes.pop(0)
        words = note.removeprefix(str(path))
        if words not in said:
            said.add(words)
            yield Progress.warning("convert", note)


def _format(paths: Sequence[Path], given: str | None) -> str:
    if not paths:
        raise ConfigError("no file was given; name at least one file to convert")
    if given is not None:
        if given not in NAMES:
            raise ConfigError(f"--format must be one of {', '.join(NAMES)}, got {given!r}")
        return given
    endings = {path: (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix for path in paths}
    formats = {FORMATS.get(ending) for ending in endings.values()}
    if len(formats) > 1 or None in formats:
        strange = next((path for path in paths if endings[path] not in FORMATS), paths[-1])
        raise ConfigError(f"{strange}: the format must follow from the names' endings, one for all; give --format")
    return str(formats.pop())


def _types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    for name, kind in types.items():
        if kind not in TYPES:
            raise ConfigError(f"--type {name}: must be one of {', '.join(TYPES)}, got {kind!r}")
    return {name: TYPES[kind] for name, kind in types.items()}


def _check_options(reading: Reading) -> None:
    text, of_text = reading.csv, ("csv", "tsv")
    allowed = {
        "--labels-xml": (reading.labels_xml is not None, ("arff",)),
        "--first-index": (reading.first_index is not None, ("libsvm", "xmc")),
        "--multilabel": (reading.multilabel, ("libsvm",)),
        "--type": (bool(text.types), of_text),
        "--names": (text.names is not None, of_text),
        "--no-quotes": (not text.quotes, of_text),
        "--delimiter": (text.delimiter is not None, of_text),
        "--encoding": (text.encoding is not None, of_text),
        "--decimal": (text.decimal is not None, of_text),
        "--escape": (text.escape is not None, of_text),
        "--null": (bool(text.null_words), of_text),
    }
    for option, (is_given, formats) in allowed.items():
        if is_given and reading.format not in formats:
            raise ConfigError(f"{option}: is for {' and '.join(formats)} only, and the files are {reading.format}")
    names = text.names or ()
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--names: must differ from each other, got {twice!r} more than once")
    if text.decimal not in (None, ".", ","):
        raise ConfigError(f"--decimal must be . or , got {text.decimal!r}")
    if text.escape is not None and (len(text.escape) != 1 or not text.escape.isascii() or text.escape in '"\r\n'):
        raise ConfigError(f"--escape must be one character, such as a backslash, got {text.escape!r}")
    if text.escape is not None and text.escape == (text.delimiter or text.usual):
        raise ConfigError(f"--escape must differ from --delimiter, got {text.escape!r} for both")
    if reading.first_index is not None and not 0 <= reading.first_index < 2**31:
        raise ConfigError(f"--first-index must be 0 or more, and below 2**31, got {reading.first_index}")


def _with_types(reading: Reading, schema: pa.Schema) -> CsvFormat:
    """How files after the first are read: with its types; each that was asked for must have a column."""
    text = reading.csv
    for pattern in text.types or {}:
        if pattern not in schema.names and not fnmatch.filter(schema.names, pattern):
            raise ConfigError(f"--type {pattern}: no column fits; the first columns are {', '.join(schema.names[:5])}")
    return replace(text, found=dict(zip(schema.names, schema.types, strict=True)))


def _stated(schema: pa.Schema, facts: Mapping[str, object]) -> pa.Schema:
    return schema.with_metadata((schema.metadata or {}) | {METADATA_KEY: json.dumps(facts).encode()})


def _conforming(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Rows of the schema of those before: the same columns, of types that go into theirs."""
    if set(table.column_names) != set(schema.names):
        different = sorted(set(table.column_names) ^ set(schema.names))
        raise DataError(f"{path}: must have the columns of the files before, differs in {different[0]!r}")
    table = table.select(schema.names)
    try:
        return table if table.schema.types == schema.types else table.cast(schema)
    except pa.ArrowException as error:
        line = str(error).splitlines()[0]
        raise DataError(f"{path}: columns must have the types of the files before ({line}); cast them") from error
