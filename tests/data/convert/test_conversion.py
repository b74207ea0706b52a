"""Conversion: the rows of every format, the words of every refusal, and files that appear whole or not at all."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.convert.conversion import convert, convert_steps
from mlclf.data.convert.formats import text_lines
from mlclf.data.parquet.column_statistics import read_footers
from mlclf.data.parquet.planning import make_plan
from mlclf.errors import ConfigError, DataError

MEKA = """% a note
@relation 'films: -C 2'
@attribute comedy {0,1}
@ATTRIBUTE 'film noir' {0,1}
@attribute stars numeric
@attribute 'the kind' {good,'not so, good'}
@attribute year integer
@data
"""
MULAN = """@relation films
@attribute stars real
@attribute year integer
@attribute seen {0,1}
@attribute c++ {0,1}
@attribute noir {0,1}
@data
"""
XML = """<?xml version="1.0" encoding="utf-8"?>
<labels xmlns="http://mulan.sourceforge.net/labels"><label name="noir"><label name="c++"></label></label></labels>"""


def read(folder: Path) -> pa.Table:
    assert (folder / "_SUCCESS").exists()
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(path: Path, **options: Any) -> str:
    """The message without the folder; nothing is left."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises((DataError, ConfigError)) as error:
        convert(path, path.parent / "out", **options)
    assert sorted(path.parent.rglob("*")) == before
    return str(error.value).replace(f"{path.parent}/", "")


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pq.read_schema(folder / "part-00000.parquet").metadata[b"mlclf"])
    return found


# ── sparse text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_libsvm_of_one_label(tmp_path: Path) -> None:
    path = written(tmp_path / "a.svm", "+1 1:0.5 4:2\n-1\n")
    done = convert(path, tmp_path / "out")
    assert (done.rows, done.files, done.row_groups) == (2, 1, 1)
    assert read(tmp_path / "out").to_pydict() == {"indices": [[0, 3], []], "values": [[0.5, 2], []], "label": [1, -1]}
    assert facts(tmp_path / "out") == done.source == {"format": "libsvm", "labels": "label"}
    footers = read_footers(make_plan(str(tmp_path / "out")).shards)
    assert footers is not None
    assert all(footers.checksums.values())


def test_libsvm_of_many_labels_in_two_files_one_packed(tmp_path: Path) -> None:
    first = written(tmp_path / "a.libsvm", "1,3 1:0.5\n")
    second = tmp_path / "b.libsvm.gz"
    second.write_bytes(gzip.compress(b"2 2:1\n\n 3:1\n"))
    convert([first, second], tmp_path / "out")
    assert read(tmp_path / "out").column("labels").to_pylist() == [["1", "3"], ["2"], []]


def test_xmc(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xmc", "2 5 3\n0,2 0:1 4:0.25\n 1:1\n")
    done = convert(path, tmp_path / "out")
    assert read(tmp_path / "out").to_pydict() == {
        "indices": [[0, 4], [1]], "values": [[1, 0.25], [1]], "labels": [["0", "2"], []],
    }  # fmt: skip
    assert done.source == {"format": "xmc", "num_features": 5, "num_labels": 3}
    written(path, "3 5 3\n0 0:1\n1\n")
    assert refusal(path, overwrite=True, format="xmc") == (
        "a.xmc: expected 3 rows, as line 1 says, got 2; copy the file again"
    )
    written(path, "0 0:1\n")
    assert refusal(path, overwrite=True) == (
        "a.xmc line 1: expected three whole numbers, ROWS FEATURES LABELS, got '0 0:1'"
    )


def test_a_mistake_far_into_a_file_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1_000)
    monkeypatch.setattr(text_lines, "FIRST_BYTES", 1_000)
    path = written(tmp_path / "a.svm", "1 1:0.5\n" * 5_000 + "1 1:x\n" + "1 1:0.5\n" * 10)
    assert refusal(path) == "a.svm line 5001: expected INDEX:VALUE, VALUE a finite float32 number, got '1:x'"
    path.write_bytes(gzip.compress(b"1 1:0.5\n" * 9_000)[:-20])
    path.rename(tmp_path / "b.svm.gz")
    assert refusal(tmp_path / "b.svm.gz").startswith("b.svm.gz: cannot be read (")


def test_memory_is_that_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(text_lines, "FIRST_BYTES", 1 << 16)
    line = "1 " + " ".join(f"{index}:{index / 7:.4f}" for index in range(1, 60)) + "\n"
    path = written(tmp_path / "a.svm", line * 40_000)  # 21 MB
    default = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(default)
    pa.set_memory_pool(counted)
    try:
        convert(path, tmp_path / "out", memory_budget=16 << 20)
    finally:
        pa.set_memory_pool(default)
    assert counted.max_memory() < 24 << 20
    assert read(tmp_path / "out").num_rows == 40_000


def test_a_conversion_that_is_left_removes_its_temporaries(tmp_path: Path) -> None:
    path = written(tmp_path / "a.svm", "1 1:0.5\n" * 1_000)
    steps = convert_steps(path, tmp_path / "out")
    assert next(steps).total == path.stat().st_size
    assert len(list(tmp_path.iterdir())) == 2
    steps.close()
    assert list(tmp_path.iterdir()) == [path]


# ── ARFF ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_meka_dense(tmp_path: Path) -> None:
    path = written(tmp_path / "a.arff", MEKA + "1, 0, 3.5, good, 1999\n% note\n\n0,1,?,'not so, good',?\n")
    done = convert(path, tmp_path / "out")
    found = read(tmp_path / "out")
    assert found.to_pydict() == {
        "stars": [3.5, None], "the kind": ["good", "not so, good"], "year": [1999, None], "label_comedy": [1, 0],
        "label_film_noir": [0, 1],
    }  # fmt: skip
    assert found.schema.field("label_comedy").type == pa.uint8()
    assert done.source == {
        "format": "arff", "relation": "films: -C 2", "label_names": ["comedy", "film noir"],
    }  # fmt: skip


def test_meka_labels_at_the_end(tmp_path: Path) -> None:
    path = written(tmp_path / "a.arff", MULAN.replace("films", "'films: -C -2'") + "1,2,1,0,1\n")
    convert(path, tmp_path / "out")
    assert read(tmp_path / "out").to_pydict() == {
        "stars": [1], "year": [2], "seen": ["1"], "label_c__": [0], "label_noir": [1],
    }  # fmt: skip


def test_mulan_sparse(tmp_path: Path) -> None:
    path = written(tmp_path / "a.arff", MULAN + "{0 1.5, 2 1,4 1}\r\n{}\n{ 1 2000 , 3 1 }\n")
    xml = written(tmp_path / "a.xml", XML)
    done = convert(path, tmp_path / "out", labels_xml=xml)
    assert read(tmp_path / "out").to_pydict() == {
        "indices": [[0, 2], [], [1]], "values": [[1.5, 1], [], [2000]], "label_noir": [1, 0, 0],
        "label_c__": [0, 0, 1],
    }  # fmt: skip
    assert done.source["feature_names"] == ["stars", "year", "seen"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MEKA + "1,0,3,good\n", "line 9: expected 5 values, one an attribute, got 4"),
        (MEKA + "1,0,x,good,1\n", "line 9: attribute 'stars' must be a finite number or ?, got 'x'"),
        (MEKA + "1,0,inf,good,1\n", "line 9: attribute 'stars' must be a finite number or ?, got 'inf'"),
        (MEKA + "1,0,1,bad,1\n", "line 9: attribute 'the kind' must be one of good, not so, good, got 'bad'"),
        (MEKA + "1,2,1,good,1\n", "line 9: label 'film noir' must be one of 0, 1, got '2'"),
        (MEKA + "1,0,1,good,1\n{0 1}\n", "line 10: a sparse row among dense ones; a file must have one kind"),
        (MEKA + "{0 1}\n1,0\n", "line 10: expected a sparse row {INDEX VALUE, ...} as in the rows before, got '1,0'"),
        (MEKA + "{0 1}\n{5 1}\n", "line 10: indices must be below 5, the number of attributes, got '5 1'"),
        (MEKA + "{0 1}\n{2}\n", "line 10: expected INDEX VALUE between commas, got '2'"),
        (MEKA + "{0 1}\n{2 x}\n", "line 10: expected INDEX VALUE, VALUE a finite number, got '2 x'"),
        (MEKA + "{0 1}\n{3 good}\n", "line 10: attribute 'the kind' must be numeric in sparse rows, got '3 good'"),
        (MEKA + "{0 2}\n", "line 9: label 'comedy' must be 0 or 1, got '2'"),
        (
            MEKA.replace("numeric", "odd"),
            "line 5: a type must be numeric, real, integer, string, date or {LEVELS}, got 'odd'",
        ),
        ("@relation a\n@attribut\n", "line 2: expected @relation, @attribute NAME TYPE or @data, got '@attribut'"),
    ],
)  # fmt: skip
def test_malformed_arff_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(written(tmp_path / "a.arff", text)) == f"a.arff {words}"


def test_labels_of_arff_must_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.arff", MULAN + "1,2,1,0,1\n")
    assert refusal(path) == "a.arff: labels must be named by --labels-xml or by -C N in @relation, got 'films'"
    xml = written(tmp_path / "a.xml", XML.replace("noir", "blanc"))
    assert refusal(path, labels_xml=xml) == (
        "a.xml: label 'blanc' must be an attribute of a.arff; check that they belong together"
    )
    written(path, "@relation a\n")
    assert refusal(path) == "a.arff: an ARFF file must have a line @data, and this one has none; check what the file is"


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_csv_and_tsv(tmp_path: Path) -> None:
    for ending, mark in (("csv", ","), ("tsv", "\t")):
        rows = [["id", "x", "day", "text"], ["1", "0.5", "2020-01-02", '"a ""b"""'], ["2", "", "", ""]]
        path = written(tmp_path / f"a.{ending}", "\n".join(mark.join(row) for row in rows) + "\n")
        convert(path, tmp_path / ending, types={"id": "int32"})
        found = read(tmp_path / ending)
        assert [str(each) for each in found.schema.types] == ["int32", "double", "date32[day]", "string"]
        assert found.column("x").to_pylist() == [0.5, None]
        assert found.column("text").to_pylist() == ['a "b"', None]


def test_malformed_csv_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "a,b\n1,2\n3\n")
    assert refusal(path) == "a.csv line 3: expected 2 values, as in the header, got 1"
    written(path, "a,b\n1,2\n3,x\n")
    assert refusal(path, types={"b": "int64"}) == (
        "a.csv line 3 column 'b': expected int64, the type of the rows before, got 'x'; mend it, or name another type "
        "with --type b=TYPE"
    )
    written(path, "a,a\n1,2\n")
    assert refusal(path) == "a.csv line 1: column names must be distinct, got 'a' more than once; rename one"
    written(path, "")
    assert refusal(path) == "a.csv: must begin with a line of column names, and is empty; check the file"
    written(path, "a,b\n")
    assert refusal(path) == "a.csv: the files must hold rows, and hold none; check what wrote them"


def test_arrow_and_the_parquet_of_pandas(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(9.0), "level": pa.array(list("abcabcabc")).dictionary_encode()})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, 4)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    done = convert([tmp_path / "a.arrow", tmp_path / "b.arrow"], tmp_path / "out")
    assert done.rows == 18
    assert read(tmp_path / "out").column("level").to_pylist() == list("abcabcabc") * 2
    pandas = table.append_column("__index_level_0__", [np.arange(9)]).replace_schema_metadata({"pandas": "{}"})
    pq.write_table(pandas, tmp_path / "a.parquet")
    convert(tmp_path / "a.parquet", tmp_path / "two")
    assert read(tmp_path / "two").to_pydict() == table.to_pydict()
    assert b"pandas" not in pq.read_schema(tmp_path / "two" / "part-00000.parquet").metadata
    damaged = tmp_path / "c" / "a.arrow"
    damaged.parent.mkdir()
    damaged.write_bytes(b"nothing")
    assert refusal(damaged).startswith("a.arrow: must be an Arrow IPC file or stream (")


def test_files_must_go_together(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.csv", "a,b\n1,2\n"), written(tmp_path / "b.csv", "a,c\n1,2\n")
    with pytest.raises(DataError) as error:
        convert([first, second], tmp_path / "out")
    assert str(error.value) == f"{second}: must have the columns of the files before, differs in 'b'"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "a\n1\n")
    assert refusal(path, multilabel=True) == "--multilabel: is for libsvm only, and the files are csv"
    assert refusal(path, first_index=1) == "--first-index: is for libsvm and xmc only, and the files are csv"
    assert refusal(path, format="svm").startswith("--format must be one of libsvm, xmc, arff, csv, ")
    assert refusal(path, types={"a": "number"}).startswith("--type a: must be one of bool, int32, ")
    assert refusal(path, format="libsvm", first_index=-1) == "--first-index must be 0 or more, and below 2**31, got -1"
    odd = written(tmp_path / "a.txt", "1")
    assert refusal(odd) == "a.txt: the format must follow from the names' endings, one for all; give --format"
    assert refusal(tmp_path / "no.csv") == "no.csv: no such file; check the path"
    convert(path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--out must not hold the input .*00000\.parquet; give another --out"):
        convert(tmp_path / "out" / "part-00000.parquet", tmp_path / "out", overwrite=True)


def test_commands_convert_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlclf_command: Any) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.svm", "".join(f"{row % 2} {row + 1}:0.5\n" for row in range(100)))
    called = mlclf_command("convert", "a.svm", "--out", "rows")
    assert (called.code, called.out) == (0, "100 rows in 1 file(s), 1 row group(s): rows\n")
    called = mlclf_command("split", "rows", "--labels", "label", "--by", "stratified", "--out", "parts")
    assert (called.code, called.out) == (
        0, "train: 80 rows: parts/train\nvalid: 10 rows: parts/valid\ntest: 10 rows: parts/test\n",
    )  # fmt: skip
    for arguments, words in (
        (("convert", "a.svm", "--out", "x", "--type", "a"), "error: --type must be COLUMN=TYPE, got 'a'\n"),
        (
            ("split", "rows", "--out", "x", "--fractions", "0.5,half"),
            "error: --fractions must be numbers such as 0.8,0.1,0.1, got '0.5,half'\n",
        ),
    ):
        called = mlclf_command(*arguments)
        assert (called.code, called.err) == (2, words)


def test_csv_without_a_header_gets_names_and_types_by_globs(tmp_path: Path) -> None:
    path = written(tmp_path / "day_0.tsv", "0\t7\t68e04d34\t05e89000\n1\t\t\t12e44000\n")
    names = ["label", "I1", "C1", "C2"]
    table = read(convert(path, tmp_path / "out", names=names, types={"C*": "string", "label": "int32"}).folder)
    assert table.to_pydict() == {
        "label": [0, 1], "I1": [7, None], "C1": ["68e04d34", None], "C2": ["05e89000", "12e44000"]
    }  # fmt: skip


def test_names_and_types_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "1,2\n3,4\n5\n")
    assert refusal(path, names=["x", "y"]) == "a.csv line 3: expected 2 values, as many as --names, got 1"
    assert refusal(path, names=["x", "x"]) == "--names: must differ from each other, got 'x' more than once"
    path = written(tmp_path / "b.csv", "x,y\n1,2\n")
    assert refusal(path, types={"z*": "string"}) == "--type z*: no column fits; the first columns are x, y"
    path = written(tmp_path / "c.arff", MULAN)
    assert refusal(path, names=["x"]) == "--names: is for csv and tsv only, and the files are arff"


def test_a_quote_may_be_a_letter(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'text\tn\n"open\t1\n"a" b\t2\n')
    assert read(convert(path, tmp_path / "out", quotes=False).folder)["text"].to_pylist() == ['"open', '"a" b']
    (tmp_path / "bad").mkdir()
    path = written(tmp_path / "bad" / "b.tsv", 'text\tn\n"open\t1\n"a\n')
    assert refusal(path, quotes=False) == "b.tsv line 3: expected 2 values, as in the header, got 1"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_conversion_that_is_stopped_leaves_what_was_there(tmp_path: Path, number: signal.Signals) -> None:
    few = written(tmp_path / "few.csv", "x,y\n1,2\n")
    convert(few, tmp_path / "out")
    many = written(tmp_path / "many.csv", "x,y\n" + "1.5,2.5\n" * 2_000_000)
    command = [sys.executable, "-m", "mlclf", "convert", str(many), "--out", str(tmp_path / "out"), "--overwrite"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.mlclf/*/*part-*")) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(number)
    _, problem = running.communicate(timeout=60)
    assert running.returncode == (143 if number == signal.SIGTERM else -number)
    assert read(tmp_path / "out").num_rows == 1
    if number == signal.SIGTERM:
        assert problem.endswith("error: stopped by SIGTERM\n")
        assert not (tmp_path / ".out.mlclf").exists()
    convert(few, tmp_path / "out", overwrite=True)
