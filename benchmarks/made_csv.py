"""Made CSV files: four writers, many dialects, odd values, broken on purpose; each gives its rows or a right refusal.

    python benchmarks/made_csv.py [--files 1000] [--seed 0]

Every file has a few columns of whole numbers, floats, booleans, dates, times, codes or text (quotes, line breaks,
delimiters, words such as NA, empty texts) with missing values, and is written by ``csv``, pandas, polars or DuckDB with
a delimiter, line ends, an encoding and quotes drawn at random. Half are converted in blocks of a few hundred bytes with
declared types, half with nothing declared. A seventh is broken on purpose: a row too short, two columns of one name, a
byte that is no text, a quote that is never closed. A file passes when its rows are those that were written, or it is
refused where it was broken, with the line. Exits 1 when one fails; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import io
import random
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.convert.conversion import convert
from mlclf.data.convert.formats import csv_records as records
from mlclf.errors import DataError, MlclfError

WRITERS = ("csv", "pandas", "polars", "duckdb")
KINDS = ("int64", "float64", "bool", "date", "timestamp", "code", "text", "text")
PIECES = ("a", "Zoë", " ", '"', '""', "'", ",", ";", "|", "\t", "\n", "\r\n", "\n\n", "NA", "null", "0", "007", "1.5",
          "\\", "日本", "€", "-", "true", "x y", "#", "%", "=1+1")  # fmt: skip
DAMAGES = ("short row", "doubled name", "no text", "open quote")


@dataclass
class Made:
    """A file that was made: what was written, how it is read, and what is wrong with it.

    Attributes:
        columns: name → kind and values.
        content: the bytes.
        options: of `convert`.
        block_bytes: of the blocks that it is read in; None for the usual ones.
        loses_empty: whether the writer writes missing and empty texts alike.
        damage: what was broken, and the line; None where nothing was.
    """

    writer: str
    columns: dict[str, tuple[str, list[Any]]]
    content: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)
    block_bytes: int | None = None
    loses_empty: bool = False
    damage: tuple[str, int] | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="made-csv-") as folder:
        for number in range(arguments.files):
            made = make(arguments.seed + number)
            outcome, problem = judged(made, Path(folder))
            outcomes[outcome] += 1
            failed += problem is not None
            if problem is not None:
                print(f"FAIL file {arguments.seed + number} by {made.writer}: {problem}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    print(f"{arguments.files - failed} passed, {failed} failed")
    return 1 if failed else 0


# ── making ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def make(seed: int) -> Made:
    """A file, the same for the same seed."""
    draw = random.Random(seed)
    writer = WRITERS[seed % len(WRITERS)]
    rows = draw.choice((1, 2, 7, 40, 150))
    names = draw.sample(
        ["id", "x", "a b", 'q"q', "name,first", "späte", "2020", "flag", "day", "n;m"], draw.randint(1, 6)
    )
    made = Made(writer, {})
    for name in names:
        kind = draw.choice(KINDS)
        missing = draw.choice((0.0, 0.2))
        values = [None if draw.random() < missing else value_of(kind, draw) for _ in range(rows)]
        made.columns[name] = (kind, values)
    text = WRITING[writer](made, draw)
    finish(made, text, draw)
    return made


def value_of(kind: str, draw: random.Random) -> Any:
    match kind:
        case "int64":
            return draw.choice((0, 1, -5, 10**18, draw.randrange(10**6)))
        case "float64":
            return draw.choice((0.5, -1e300, 1e-7, draw.random(), float(draw.randrange(100))))
        case "bool":
            return draw.random() < 0.5
        case "date":
            return dt.date(1900, 1, 1) + dt.timedelta(days=draw.randrange(80_000))
        case "timestamp":
            return dt.datetime(1990, 1, 1) + dt.timedelta(
                seconds=draw.randrange(10**9), microseconds=draw.choice((0, 5))
            )
        case "code":
            return f"{draw.randrange(10**5):05d}"
    return "".join(draw.choice(PIECES) for _ in range(draw.choice((0, 1, 1, 2, 3, 8))))


def by_csv(made: Made, draw: random.Random) -> str:
    delimiter = delimiter_for(made, draw)
    line_end = draw.choice(("\n", "\r\n"))
    escapes = draw.random() < 0.2
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    made.loses_empty = True
    if escapes:
        made.options["escape"] = "\\"
    if line_end == "\n" and quoting == csv.QUOTE_MINIMAL:  # a lone CR would stand without quotes
        for kind, values in made.columns.values():
            if kind == "text":
                values[:] = [value and value.replace("\r", "") for value in values]
    file = io.StringIO(newline="")
    writer = csv.writer(
        file, delimiter=delimiter, lineterminator=line_end, quoting=quoting,
        doublequote=not escapes, escapechar="\\" if escapes else None,
    )  # fmt: skip
    writer.writerow(made.columns)
    writer.writerows(zip(*(values for _, values in made.columns.values()), strict=True))
    return file.getvalue()


def by_pandas(made: Made, draw: random.Random) -> str:
    import pandas as pd

    made.loses_empty = True
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, (_, values) in made.columns.items()})
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    return str(frame.to_csv(index=False, sep=delimiter_for(made, draw), quoting=quoting))


def by_polars(made: Made, draw: random.Random) -> str:
    import polars as pl

    frame = pl.from_arrow(arrow_of(made))
    assert isinstance(frame, pl.DataFrame)
    style = draw.choice(("necessary", "always", "non_numeric"))
    made.loses_empty = style == "always"
    return frame.write_csv(separator=delimiter_for(made, draw), quote_style=style)


def by_duckdb(made: Made, draw: random.Random) -> str:
    import duckdb

    table = arrow_of(made)
    delimiter = delimiter_for(made, draw)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = Path(folder) / "a.csv"
        connection.register("made", table)
        forced = ", force_quote *" if draw.random() < 0.3 else ""
        connection.execute(f"copy made to '{path}' (header, delimiter '{delimiter}'{forced})")
        made.loses_empty = bool(forced)
        return path.read_bytes().decode()


WRITING = {"csv": by_csv, "pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb}


def arrow_of(made: Made) -> pa.Table:
    kinds = {"code": pa.string(), "text": pa.string(), "bool": pa.bool_(), "date": pa.date32(), "int64": pa.int64(),
             "float64": pa.float64(), "timestamp": pa.timestamp("us")}  # fmt: skip
    arrays = [pa.array(values, kinds[kind]) for kind, values in made.columns.values()]
    return pa.table(arrays, names=list(made.columns))


def delimiter_for(made: Made, draw: random.Random) -> str:
    """A delimiter, which is declared or must be found."""
    delimiter = draw.choice((",", ",", ";", "\t", "|"))
    made.options["delimiter"] = delimiter
    if draw.random() < 0.5 and len(made.columns) > 1:
        del made.options["delimiter"]
    return delimiter


def finish(made: Made, text: str, draw: random.Random) -> None:
    """Break the text, or leave its last line end out, and encode it; decide what is declared."""
    declares = draw.random() < 0.5
    types = {"code": "string", "text": "string"}
    if declares:
        made.options["types"] = {glob_of(name): types.get(kind, kind) for name, (kind, _) in made.columns.items()}
        made.options.setdefault("delimiter", None)
        made.block_bytes = draw.choice((300, 1_000, 5_000))
    lines = text.count("\n") + 1
    if draw.random() < 1 / 7:
        damage = draw.choice(DAMAGES)
        if damage == "short row" and len(made.columns) > 1:
            text = text.removesuffix("\n").removesuffix("\r") + "\n" + "1\n"
            made.damage = (damage, lines)
        elif damage == "doubled name" and len(made.columns) > 1:
            made.damage = (damage, 1)
            mark = draw.choice((",", "|"))
            made.options = {"delimiter": mark}
            text = mark.join(["x"] * 2) + "\n" + mark.join("12") + "\n"
        elif damage == "open quote":
            text = text.removesuffix("\n").removesuffix("\r") + "\n" + '"never closed' + "\n"
            made.damage = (damage, lines)
    elif text.endswith("\n") and len(made.columns) > 1 and draw.random() < 0.3:
        text = text.removesuffix("\n").removesuffix("\r")
    encoding = draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
    try:
        made.content = text.encode(encoding)
    except UnicodeEncodeError:
        made.content, encoding = text.encode(), "utf-8"
    if encoding == "cp1252" and not text.isascii():
        if made.damage is None and draw.random() < 0.3:
            before = text[: next(place for place, letter in enumerate(text) if not letter.isascii())]
            made.damage = ("no text", len(re.findall("\r\n|\r|\n", before)) + 1)
        else:
            made.options["encoding"] = "cp1252"


def glob_of(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


# ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def judged(made: Made, folder: Path) -> tuple[str, str | None]:
    """What became of a file, and what is wrong with that, if anything."""
    path = folder / "made.csv"
    path.write_bytes(made.content)
    first, later = (made.block_bytes,) * 2 if made.block_bytes else (records.FIRST_BYTES, records.BLOCK_BYTES)
    try:
        with patch.multiple(records, FIRST_BYTES=first, BLOCK_BYTES=later):
            found = pq.read_table(convert(path, folder / "out", overwrite=True, **made.options).folder)
    except DataError as error:
        return "refused", why_not_right(made, str(error))
    except MlclfError as error:
        return "refused", f"refused with {error}"
    if made.damage is not None:
        return "read", f"{made.damage} was not noticed"
    return "read", difference(made, found)


def why_not_right(made: Made, message: str) -> str | None:
    """What is wrong with a refusal; None where the file was broken so, or two delimiters are as good."""
    if made.damage is not None:
        what, line = made.damage
        is_named = f" line {line}" in message or (what == "open quote" and " line " in message)
        return None if is_named else f"{what} in line {line} was refused with {message}"
    if "say which it is with --delimiter" in message:
        text = made.content.decode(made.options.get("encoding") or "utf-8-sig", "replace")
        texts = [csv.reader(io.StringIO(text, newline=""), delimiter=mark) for mark in ",;\t|"]
        widths = [{len(row) for row in rows if row} for rows in texts]
        return None if sum(len(each) == 1 and each != {1} for each in widths) > 1 else message
    return f"refused with {message}"


def difference(made: Made, found: pa.Table) -> str | None:
    """The first value that differs from what was written; None where there is none."""
    if found.column_names != list(made.columns):
        return f"columns {found.column_names}, not {list(made.columns)}"
    for name, (kind, values) in made.columns.items():
        read = found.column(name).to_pylist()
        loses_empty = made.loses_empty or not pa.types.is_string(found.schema.field(name).type)
        if len(read) != len(values):
            return f"{len(read)} rows, not {len(values)}"
        for row, (written, value) in enumerate(zip(values, read, strict=True)):
            if not is_same(written, value, loses_empty):
                return f"row {row} of {name!r}: {value!r}, not {written!r}, of kind {kind}"
    return None


def is_same(written: Any, value: Any, loses_empty: bool) -> bool:
    """Whether a value is what was written; without a declared type, text that is a number may be one."""
    if written is None or value is None:
        return value in (None, "") and written in (None, "") and (written == value or loses_empty)
    if isinstance(written, str) and not isinstance(value, str):
        return is_meant(written, value)
    if isinstance(value, str) and not isinstance(written, str):  # a column of one kind in which nothing says so
        return is_meant(value, written)
    return bool(written == value)


def is_meant(text: str, value: Any) -> bool:
    """Whether a text says a value, and nothing is lost: no zeros before, no plus."""
    if isinstance(value, bool):
        return text in (str(value), str(value).lower(), str(value).upper())
    if isinstance(value, int | float):
        return re.match(r"\s*[+-]?0[0-9xX]|\+", text) is None and float(text.replace(",", ".")) == value
    if isinstance(value, dt.date | dt.time):
        return str(value) == str(type(value).fromisoformat(text))
    return False


if __name__ == "__main__":
    sys.exit(main())
