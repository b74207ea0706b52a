"""CSV files: rows as they were written, whatever stands in quotes and at borders of blocks, and what is said of it."""

from __future__ import annotations

import bz2
import csv
import datetime as dt
import gzip
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import made_csv
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.convert.conversion import convert, convert_steps
from mlclf.data.convert.formats import csv_records as records
from mlclf.data.convert.formats.csv_dialect import Dialect, Malformed, delimiter_of
from mlclf.data.convert.formats.csv_rows import blank_line, may_hold_codes, types_of_columns
from mlclf.errors import ConfigError, DataError

SEMICOLONS = "values are separated by semicolons, as found"


def read(content: bytes | str, folder: Path, **options: Any) -> tuple[pa.Table, list[str]]:
    """The rows of a CSV file, and the sentences on it without its path."""
    path = folder / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes, steps = [], convert_steps(path, folder / "out", overwrite=True, **options)
    for progress in steps:
        notes += [progress.note.removeprefix(str(path)).removeprefix(":").strip()] if progress.note else []
    return pq.read_table(folder / "out"), notes


def refusal(content: bytes | str, folder: Path, **options: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as error:
        read(content, folder, **options)
    return str(error.value).replace(f"{folder}/", "")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 120 bytes, so that records, quotes and line ends lie at their borders."""
    monkeypatch.setattr(records, "FIRST_BYTES", 120)
    monkeypatch.setattr(records, "BLOCK_BYTES", 120)


# ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ODD_ROWS = [
    ["x\ny", "1"], ['say "hi"', "2"], ["", "3"], ["a,b", "4"], ["\r\n", "5"], ['"', "6"], ['""\n""', "7"],
    ["\n\n", "8"], ["é", "9"], ["plain", "10"], ['end"', "11"], [",", "12"], ["\r", "13"], ['",\n"', "14"],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("has_last", [True, False])
def test_line_breaks_in_quotes_at_every_place_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line_end: str, has_last: bool
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows([["t", "n"], *ODD_ROWS])
    text = file.getvalue() if has_last else file.getvalue().removesuffix(line_end)
    for size in range(12, len(text.encode()) + 2, 3):
        monkeypatch.setattr(records, "FIRST_BYTES", size)
        monkeypatch.setattr(records, "BLOCK_BYTES", size)
        found, _ = read(text, tmp_path, types={"n": "string", "t": "string"})
        assert [list(row.values()) for row in found.to_pylist()] == ODD_ROWS


def test_a_line_break_at_the_border_of_a_large_block_makes_no_row(tmp_path: Path) -> None:
    row = 'Acme,Bonn,"Main Street 5\nBuilding B, Floor 2, Germany"\n'
    number = (12 << 20) // len(row)
    for pad in ("", "x" * 20):
        found, _ = read(f"company,city{pad},address\n" + row * number, tmp_path)
        assert found.num_rows == number
        assert found[f"city{pad}"].unique().to_pylist() == ["Bonn"]


@pytest.mark.parametrize("escape", [None, "\\"])
def test_cuts_are_where_the_exact_scan_cuts(escape: str | None) -> None:
    draw = np.random.default_rng(0)
    dialect, letters = Dialect(",", True, escape), np.frombuffer(b'ab,,\n\n\r""""\\', np.uint8)
    outcomes = Counter[bool]()
    for _ in range(5_000):
        data = draw.choice(letters, draw.integers(1, 24)).tobytes()
        for is_last in (False, True):
            cuts = []
            for cut in (exact_cut, cut_by_blocks):
                try:
                    cuts.append(cut(dialect, data, is_last))
                except Malformed:
                    cuts.append(None)
            assert cuts[0] == cuts[1], (data, is_last)
            outcomes[cuts[0] is None] += 1
    assert min(outcomes[True], outcomes[False]) > 1_000


def exact_cut(dialect: Dialect, data: bytes, is_last: bool) -> int:
    return max((after for _, _, after in dialect.records(data, is_last)), default=0)


def cut_by_blocks(dialect: Dialect, data: bytes, is_last: bool) -> int:
    """Where the records end that are cut out piece by piece."""
    found, step = 0, 1
    while step:
        step = dialect.whole_records(data[found:], is_last)
        found += step
    return found


def test_a_quote_inside_a_value_without_quotes_is_a_letter(tmp_path: Path, small_blocks: None) -> None:
    rows = [['5" pipe', "1"], ["x, y", "2"], ['a "b" c', "3"], ["it's", "4"]] * 20
    text = "t,n\n" + "".join(f'"{a}",{b}\n' if "," in a else f"{a},{b}\n" for a, b in rows)
    found, notes = read(text, tmp_path)
    assert [[row["t"], str(row["n"])] for row in found.to_pylist()] == rows
    assert list(csv.reader(io.StringIO(text)))[1:] == rows
    assert notes == []


def test_a_record_without_end_is_refused_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(records, "FIRST_BYTES", 1 << 16)
    text = "t,n\na,1\n" + '"' + "long " * 400_000
    assert refusal(text, tmp_path) == (
        "a.csv line 3: a quote opens a value and is not closed before 1 MiB follow; mend the record, or give "
        "--no-quotes"
    )
    assert refusal("t,n\na,1\n" + "x" * (2 << 20), tmp_path, quotes=False) == (
        "a.csv line 3: a line is not ended before 1 MiB follow; mend the record, or give --no-quotes"
    )
    found, _ = read("t,n\na,1\n" + '"' + "x" * 500_000 + '",2\n', tmp_path)
    assert len(found["t"][1].as_py()) == 500_000


def test_memory_is_that_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FIRST_BYTES", 1 << 16)
    monkeypatch.setattr(records, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr("mlclf.data.convert.formats.opening.BYTES_AHEAD", 1 << 18)
    line = '"a ""quoted""\nvalue",' + ",".join(f"{index / 7:.4f}" for index in range(1, 60)) + "\n"
    text = ",".join(f"c{index}" for index in range(60)) + "\n" + line * 60_000  # 24 MB
    default = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(default)
    pa.set_memory_pool(counted)
    try:
        path = tmp_path / "a.csv"
        path.write_text(text)
        convert(path, tmp_path / "out", memory_budget=16 << 20)
    finally:
        pa.set_memory_pool(default)
    assert counted.max_memory() < 24 << 20
    assert pq.read_table(tmp_path / "out").num_rows == 60_000


# ── what is found ───────────────────────────────────────────────────────────────────────────────────────────────────

FINDINGS: dict[str, tuple[bytes | str, dict[str, Any], dict[str, list[Any]], list[str]]] = {
    "the plain case": ("a,b\n1,x\n2,\n", {}, {"a": [1, 2], "b": ["x", None]}, []),
    "semicolons": ("a;b\n1;x\n", {}, {"a": [1], "b": ["x"]}, ["values are separated by semicolons, as found"]),
    "tabs": ("a\tb\n1\tx\n", {}, {"a": [1], "b": ["x"]}, ["values are separated by tabs, as found"]),
    "pipes": ("a|b\n1|x, y; z\n", {}, {"a": [1], "b": ["x, y; z"]}, ["values are separated by pipes, as found"]),
    "a delimiter that is declared": ("a:b\n1:x\n", {"delimiter": ":"}, {"a": [1], "b": ["x"]}, []),
    "a delimiter by its name": ("a|b\n1|x\n", {"delimiter": "pipe"}, {"a": [1], "b": ["x"]}, []),
    "a spreadsheet's line": (
        "sep=;\r\na;b\r\n1;x\r\n", {}, {"a": [1], "b": ["x"]}, ["values are separated by ';', as line 1 says"],
    ),
    "the mark of UTF-8": ("\ufeff\"a\",b\n1,é\n", {}, {"a": [1], "b": ["é"]}, []),
    "UTF-16": (
        "a,b\n1,é\n".encode("utf-16"), {}, {"a": [1], "b": ["é"]},
        ["the encoding is UTF-16, as the mark at its beginning says"],
    ),
    "UTF-16 without a mark": ("a,b\n1,é\n".encode("utf-16-be"), {"encoding": "utf-16-be"}, {"a": [1], "b": ["é"]}, []),
    "cp1252": ("a,b\n1,€\n".encode("cp1252"), {"encoding": "cp1252"}, {"a": [1], "b": ["€"]}, []),
    "codes": (
        "zip,phone,id,n\n01001,+41791234567,12345678901234567890,0\n2134,5,1,-0.5\n", {},
        {"zip": ["01001", "2134"], "phone": ["+41791234567", "5"], "id": ["12345678901234567890", "1"], "n": [0, -0.5]},
        [("text in columns 'zip', 'phone', 'id', since numbers would lose how '01001' is written; --type zip=float64 "
         "reads numbers")],
    ),
    "codes that are declared numbers": ("zip\n01001\n", {"types": {"zip": "int64"}}, {"zip": [1001]}, []),
    "hexadecimal numbers and overflow": (
        "a,b\n0x1F,12e44000\n", {}, {"a": ["0x1F"], "b": ["12e44000"]},
        ["text in columns 'a', 'b', since numbers would lose how '0x1F' is written; --type a=float64 reads numbers"],
    ),
    "zeros, signs and infinity are numbers": (
        "a,b\n0,inf\n-0.5,+1.5\n.5,1e3\n", {}, {"a": [0, -0.5, 0.5], "b": [float("inf"), 1.5, 1000]}, [],
    ),
    "decimal commas": (
        "a;b\n1,5;x\n\"0,25\";y\n-3;z\n", {}, {"a": [1.5, 0.25, -3], "b": ["x", "y", "z"]},
        [SEMICOLONS, "column 'a', such as '1,5': a comma separates decimals, as found"],
    ),
    "commas that may be of thousands": (
        "a;b\n1,500;x\n", {}, {"a": ["1,500"], "b": ["x"]},
        [SEMICOLONS,
         ("column 'a', such as '1,500': text, since the comma may separate thousands or decimals; "
         "--decimal , reads decimals")],
    ),
    "decimal commas that are declared": (
        "a;b\n1,500;x\n", {"decimal": ",", "delimiter": ";"}, {"a": [1.5], "b": ["x"]}, [],
    ),
    "decimal commas beside points": (
        "a;b\n1,5;2.5\n", {"delimiter": ";"}, {"a": ["1,5"], "b": [2.5]},
        ["column 'a', such as '1,5': text, since the decimals of column 'b' follow a point"],
    ),
    "escaped quotes": (
        'a,b\n"say \\"hi\\", you",1\n"c\\\\",2\n', {}, {"a": ['say "hi", you', "c\\"], "b": [1, 2]},
        ["quotes inside values follow a backslash, as found"],
    ),
    "escapes that are declared": ("a,b\nx\\,y,1\n", {"escape": "\\"}, {"a": ["x,y"], "b": [1]}, []),
    "a backslash is a letter": ('a,b\n"C:\\",1\n"\\n",2\n', {}, {"a": ["C:\\", "\\n"], "b": [1, 2]}, []),
    "blank lines": (
        "\n\na,b\n1,x\n\n2,y\n\n", {}, {"a": [1, 2], "b": ["x", "y"]},
        ["blank lines, such as line 5, are passed over"],
    ),
    "blank lines in quotes": ('a,b\n1,"x\n\ny"\n', {}, {"a": [1], "b": ["x\n\ny"]}, []),
    "blank lines of one column": (
        "a\n1\n\n2\n\n", {}, {"a": [1, None, 2, None]}, ["blank lines, such as line 3, are rows without a value"],
    ),
    "lines of delimiters": ("a,b\n,\n1,x\n", {}, {"a": [None, 1], "b": [None, "x"]}, []),
    "words for missing values": (
        'a,b\nNA,NA\n1,x\nnull,\n"",""\n', {}, {"a": [None, 1, None, None], "b": ["NA", "x", None, ""]},
        ["'NA' is missing in column 'a'", "'null' is missing in column 'a'",
         "'NA' is text in column 'b'; with --null NA it is missing"],
    ),
    "words that are declared": (
        "a,b\nNA,NA\n-9,-9\n1,x\n", {"null_words": ["NA", "-9"]}, {"a": [None, None, 1], "b": [None, None, "x"]},
        [],
    ),
    "a column of nothing but a word": (
        "a,b\nNA,1\n", {}, {"a": ["NA"], "b": [1]}, ["'NA' is text in column 'a'; with --null NA it is missing"],
    ),
    "numbers in quotes": ('a,b\n"1","x"\n"","y"\n', {}, {"a": [1, None], "b": ["x", "y"]}, []),
    "booleans are words": ("a,b\ntrue,true\nFalse,1\n", {}, {"a": [True, False], "b": ["true", "1"]}, []),
    "booleans that are declared": (
        "a,b\n1,x\n0,y\n", {"types": {"a": "bool"}}, {"a": [True, False], "b": ["x", "y"]}, [],
    ),
    "dates and times": (
        "a,b\n2020-01-02,2020-01-02 10:00:00\n9999-12-31,1500-01-01T00:00:00\n", {},
        {"a": [dt.date(2020, 1, 2), dt.date(9999, 12, 31)],
         "b": [dt.datetime(2020, 1, 2, 10), dt.datetime(1500, 1, 1)]},
        [],
    ),
    "an empty name": (
        ",a\n0,x\n", {}, {"unnamed_1": [0], "a": ["x"]},
        [("line 1: the header has an empty name, for which column 'unnamed_1' is written; pandas writes row numbers "
         "so, which are no input: mlclf fit --exclude unnamed_1")],
    ),
    "a header of numbers": (
        "1,2\n3,4\n", {}, {"1": [3], "2": [4]},
        ["line 1: the header has numbers as names, such as '1'; if it is a row, give --names"],
    ),
    "no header": ("3,4\n", {"names": ["x", "y"]}, {"x": [3], "y": [4]}, []),
    "names say which delimiter": (
        "1,5;2;a\n1,7;3;b\n", {"names": ["x", "y", "z"]}, {"x": [1.5, 1.7], "y": [2, 3], "z": ["a", "b"]},
        [SEMICOLONS, "column 'x', such as '1,5': a comma separates decimals, as found"],
    ),
    "no quotes": ('a,b\n"x,1\n', {"quotes": False}, {"a": ['"x'], "b": [1]}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", FINDINGS)
def test_what_is_found_and_said(tmp_path: Path, case: str) -> None:
    content, options, expected, notes = FINDINGS[case]
    found, said = read(content, tmp_path, **options)
    assert found.to_pydict() == expected
    assert said == notes


REFUSALS: dict[str, tuple[bytes | str, dict[str, Any], str]] = {
    "a short row": ("a,b\n1,2\n\n3\n", {}, "a.csv line 4: expected 2 values, as in the header, got 1"),
    "a long row after a line break in quotes": (
        'a,b\n1,"x\ny"\n3,4,5\n', {}, "a.csv line 4: expected 2 values, as in the header, got 3",
    ),
    "a short row of a file with semicolons": (
        "a;b\n1;2\n3\n4;5\n", {}, "a.csv line 3: expected 2 values, as in the header, got 1",
    ),
    "two delimiters": (
        "a;b,c\n1;2,3\n", {},
        ("a.csv: values must be separated by one character, and commas and semicolons would each cut every record into "
        "as many values; say which it is with --delimiter"),
    ),
    "not UTF-8": (
        "name,x\nAnn,1\n\"Müller\n\",2\n".encode("latin-1"), {},
        ("a.csv line 3 column 'name' byte 3: text must be UTF-8, got b'\"M\\xfcller'; give the encoding that it is "
        "with --encoding, such as cp1252 or latin-1"),
    ),
    "a header that is not UTF-8": (
        b"a,b\xfc\n1,2\n", {},
        ("a.csv line 1 byte 4: text must be UTF-8, got b'a,b\\xfc'; give the encoding that it is with --encoding, such "
        "as cp1252 or latin-1"),
    ),
    "not the encoding declared": (
        b"a,b\n1,x\x81\n", {"encoding": "cp1252"},
        ("a.csv line 2 character 4: must be cp1252, got the bytes b'\\x81'; give the encoding that it is with "
        "--encoding"),
    ),
    "UTF-16 without a mark": (
        "a,b\n1,2\n".encode("utf-16-le"), {},
        ("a.csv line 1: text must not hold zero bytes, and this looks like UTF-16 without a mark; give --encoding "
        "utf-16-le or utf-16-be"),
    ),
    "the mark of another encoding": (
        b"\xef\xbb\xbfa\n1\n", {"encoding": "latin-1"},
        "a.csv: the file begins with the mark of UTF-8, and --encoding is iso8859-1; leave --encoding out",
    ),
    "a quote that is never closed": (
        'a,b\n1,x\n2,"y\n3,z\n', {},
        ("a.csv line 3: a quote opens a value and is not closed before the file ends; mend the record, or give "
        "--no-quotes"),
    ),
    "text behind a quote": (
        'a,b\n1,2\n"x"y,3\n', {},
        ("a.csv line 3: a delimiter or a line end must follow a closing quote, got '1,2\\n\"x\"y,3\\n'; double the "
        "quotes inside values, or give --escape '\\' or --no-quotes if they are written so"),
    ),
    "names twice": (
        "a;b;a\n1;2;3\n", {}, "a.csv line 1: column names must be distinct, got 'a' more than once; rename one",
    ),
    "a name that an empty one would have": (
        "unnamed_2,\n1,2\n", {},
        "a.csv line 1: column names must be distinct, got 'unnamed_2' more than once; rename one",
    ),
    "an open quote in the header": (
        '"a,b\n1,2\n', {},
        ("a.csv line 1: must be column names whose quotes are closed, got '\"a,b\\n1,2\\n'; mend the header, or give "
        "--no-quotes"),
    ),
    "a header where names are given": (
        "\nx,y\n1,2\n", {"names": ["x", "y"]},
        "a.csv: the first record must be a row where --names is given, and has these names; leave --names out",
    ),
    "a declared type": (
        "a,b\n1,x\n", {"types": {"b": "int64"}},
        ("a.csv line 2 column 'b': expected int64, the type of the rows before, got 'x'; mend it, or name another type "
        "with --type b=TYPE"),
    ),
    "an unknown encoding": (
        "a\n1\n", {"encoding": "rot13"},
        "--encoding must be an encoding of text such as utf-8, utf-16, cp1252 or latin-1, got 'rot13'",
    ),
    "an unknown decimal mark": ("a\n1\n", {"decimal": ";"}, "--decimal must be . or , got ';'"),
    "an escape of two characters": (
        "a\n1\n", {"escape": "\\\\"}, "--escape must be one character, such as a backslash, got '\\\\\\\\'",
    ),
    "an escape that is the delimiter": (
        "a\n1\n", {"escape": "|", "delimiter": "|"}, "--escape must differ from --delimiter, got '|' for both",
    ),
    "a delimiter of two characters": (
        "a\n1\n", {"delimiter": "::"},
        ("--delimiter must be one character that stands between values, or one of comma, semicolon, tab, \\t, pipe, "
        "space, got '::'"),
    ),
    "another format": (
        "a\n1\n", {"delimiter": ";", "format": "libsvm"},
        "--delimiter: is for csv and tsv only, and the files are libsvm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    content, options, message = REFUSALS[case]
    assert refusal(content, tmp_path, **options) == message


# ── later blocks and files ──────────────────────────────────────────────────────────────────────────────────────────


def test_codes_beyond_the_first_block_are_not_lost(tmp_path: Path, small_blocks: None) -> None:
    rows = "".join(f"{number},x\n" for number in range(100, 300))
    assert refusal("n,t\n" + rows + "007,y\n", tmp_path) == (
        "a.csv line 202 column 'n': int64, the type of the rows before, would lose how '007' is written; keep it with "
        "--type n=string, or read numbers with --type n=int64"
    )
    assert refusal("n,t\n" + rows.replace(",", ".5,") + "1e999,y\n", tmp_path).startswith(
        "a.csv line 202 column 'n': float64, the type of the rows before, would lose how '1e999' is written; "
    )
    for kind, last in (("string", "007"), ("int64", 7)):
        found, _ = read("n,t\n" + rows + "007,y\n", tmp_path, types={"n": kind})
        assert found["n"][-1].as_py() == last
    found, _ = read("t,n\n" + "07:30 x,1\n" * 50, tmp_path)
    assert found["t"].unique().to_pylist() == ["07:30 x"]


def test_where_a_code_may_begin() -> None:
    draw = np.random.default_rng(0)
    letters = np.frombuffer(b'0015x+-,;.\n"', np.uint8)
    code = re.compile(rb'(?:^|[,\n"])[+-]?0[0-9xX]')
    found = Counter[bool]()
    for _ in range(3_000):
        data = draw.choice(letters, draw.integers(1, 12)).tobytes()
        has_code = code.search(data) is not None
        assert may_hold_codes(data, ",") == has_code, data
        found[has_code] += 1
    assert min(found.values()) > 300
    assert may_hold_codes(b"x" * (64 << 10) + b",01", ",")
    assert may_hold_codes(b"x" * ((64 << 10) - 3) + b",-01", ",")


def test_where_a_blank_line_is() -> None:
    draw = np.random.default_rng(0)
    letters, found = np.frombuffer(b"ab\n\n\r\n", np.uint8), Counter[bool]()
    for _ in range(3_000):
        data = draw.choice(letters, draw.integers(1, 9)).tobytes() + b"a"
        starts = [start for start, end, _ in Dialect().records(data, True) if start == end]
        assert blank_line(data, True) == (starts[0] if starts else None), data
        found[bool(starts)] += 1
    assert min(found.values()) > 300
    assert blank_line(b'"a\n\n",\r\n\r\n', True) == 8
    assert blank_line(b'"a\n\n",\r\n', True) is None
    assert blank_line(b'"a\n\n",\r\n', False) == 3


def test_words_and_empty_texts_beyond_the_first_block(tmp_path: Path, small_blocks: None) -> None:
    rows = "".join(f"{number},x\n" for number in range(100))
    found, notes = read("n,t\n" + rows + 'NA,NA\nnan,""\n"",\n1,y\n' + rows, tmp_path)
    assert found.slice(100, 4).to_pydict() == {"n": [None, None, None, 1], "t": ["NA", "", None, "y"]}
    assert (found.num_rows, notes) == (204, [])


def test_bytes_that_are_no_text_far_into_a_file_are_named(tmp_path: Path, small_blocks: None) -> None:
    text = ("name,n\r\n" + '"x\ny",1\r\n' * 200 + "Müller,2\r\n").encode("latin-1")
    assert refusal(text, tmp_path) == (
        "a.csv line 402 column 'name' byte 2: text must be UTF-8, got b'M\\xfcller,2'; give the encoding that it is "
        "with --encoding, such as cp1252 or latin-1"
    )
    found, _ = read(text, tmp_path, encoding="latin-1")
    assert (found.num_rows, found["name"][-1].as_py()) == (201, "Müller")
    text = text.replace(b"\xfc", b"\x81")
    assert refusal(text, tmp_path, encoding="cp1252").startswith("a.csv line 402 character 2: must be cp1252, got ")


def test_a_mistake_far_into_a_compressed_file_is_named(tmp_path: Path, small_blocks: None) -> None:
    text = ("a,b\n" + '"x\ny",1\n' * 200 + "z,2,3\n").encode()
    for name, packed in (("a.csv.gz", gzip.compress(text)), ("a.csv.bz2", bz2.compress(text))):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(DataError, match=r" line 402: expected 2 values, as in the header, got 3$"):
            convert(tmp_path / name, tmp_path / "out")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(DataError, match=r"b\.csv\.gz: cannot be read \(.*\); copy or write it again$"):
        convert(tmp_path / "b.csv.gz", tmp_path / "out")


def test_files_after_the_first_have_its_types_and_are_spoken_of_once(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a;b\n1,5;01\n")
    (tmp_path / "2.csv").write_text("b|a\n5|2\n7|3\n")
    (tmp_path / "3.csv").write_text("a;b\n4;01\n")
    paths = [tmp_path / f"{number}.csv" for number in (1, 2, 3)]
    notes = [progress.note for progress in convert_steps(paths, tmp_path / "out") if progress.note]
    assert pq.read_table(tmp_path / "out").to_pydict() == {"a": [1.5, 2, 3, 4], "b": ["01", "5", "7", "01"]}
    assert notes == [
        f"{paths[0]}: values are separated by semicolons, as found",
        f"{paths[0]}: column 'a', such as '1,5': a comma separates decimals, as found",
        f"{paths[0]}: text in column 'b', since numbers would lose how '01' is written; --type b=float64 reads numbers",
        f"{paths[1]}: values are separated by pipes, as found",
    ]


def test_the_command_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlclf_command: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_bytes("name;x\nMüller;1,5\nNA;007\n".encode("cp1252"))
    called = mlclf_command(
        "convert", "a.csv", "--out", "out", "--encoding", "cp1252", "--delimiter", "semicolon", "--decimal", ",",
        "--null", "NA", "--type", "x=float64", "--escape", "\\",
    )  # fmt: skip
    assert called.code == 0, called.err
    assert pq.read_table("out").to_pydict() == {"name": ["Müller", None], "x": [1.5, 7.0]}


def test_types_of_columns_by_name_and_glob() -> None:
    kinds = {"C1": pa.int64(), "C*": pa.string(), "[x]": pa.bool_()}
    assert types_of_columns(kinds, ["label", "C1", "C2", "C*", "x", "[x]"]) == {
        "C1": pa.int64(), "C2": pa.string(), "C*": pa.string(), "x": pa.bool_(), "[x]": pa.bool_(),
    }  # fmt: skip


def test_delimiters_by_word_and_character() -> None:
    assert [delimiter_of(text) for text in ("comma", "tab", "\\t", " ", "~")] == [",", "\t", "\t", " ", "~"]
    for text in ("", "a", "7", '"', "\n", "é", "-"):
        with pytest.raises(ConfigError, match=r"^--delimiter must be one character"):
            delimiter_of(text)


# ── four writers ────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8),
    st.text(st.sampled_from('",;\n\\ aé0NA'), max_size=6),
)
TABLES = st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[TEXTS] * width), min_size=1, max_size=12))


def write_csv(rows: list[tuple[Any, ...]], names: list[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def write_pandas(rows: list[tuple[Any, ...]], names: list[str], path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(rows, columns=names, dtype=object).to_csv(path, index=False)


def write_polars(rows: list[tuple[Any, ...]], names: list[str], path: Path) -> None:
    import polars as pl

    pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row").write_csv(path)


def write_duckdb(rows: list[tuple[Any, ...]], names: list[str], path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=names)
    with duckdb.connect() as connection:
        connection.register("written", table)
        connection.execute(f"copy written to '{path}' (header)")


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_csv, write_pandas, write_polars, write_duckdb])
def test_four_writers_get_their_rows_back(tmp_path_factory: pytest.TempPathFactory, write: Any) -> None:
    folder = tmp_path_factory.mktemp("written")
    keeps_empty = write in (write_polars, write_duckdb)  # the others write missing and empty texts alike

    @settings(max_examples=60, deadline=None)
    @given(rows=TABLES, size=st.integers(40, 200))
    def same(rows: list[tuple[Any, ...]], size: int) -> None:
        names = [f"c{index}" for index in range(len(rows[0]))]
        write(rows, names, folder / "a.csv")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(records, "FIRST_BYTES", size)
            patched.setattr(records, "BLOCK_BYTES", size)
            convert(folder / "a.csv", folder / "out", types={"*": "string"}, delimiter=",", overwrite=True)
        found = [tuple(row.values()) for row in pq.read_table(folder / "out").to_pylist()]
        assert found == [tuple(value if keeps_empty else value or None for value in row) for row in rows]

    same()


@pytest.mark.parametrize("seed", range(48))
def test_made_files_give_their_rows_or_a_right_refusal(tmp_path: Path, seed: int) -> None:
    made = made_csv.make(7_000 + seed)
    assert made_csv.judged(made, tmp_path)[1] is None


def test_a_made_file_that_is_read_otherwise_is_noticed(tmp_path: Path) -> None:
    made = made_csv.Made("csv", {"a": ("code", ["01"]), "b": ("text", ["x"])}, b"a,b\n1,x\n")
    assert made_csv.judged(made, tmp_path) == ("read", "row 0 of 'a': 1, not '01', of kind code")
    made.damage = ("short row", 2)
    assert made_csv.judged(made, tmp_path) == ("read", "('short row', 2) was not noticed")
