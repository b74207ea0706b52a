"""What is no regular file is refused before it is opened, by every command and every option that names a file."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet.planning import make_plan
from mlclf.data.storage.finding import find_sources
from mlclf.errors import DataError
from mlclf.given_files import found_at, problem_of, read_given

SECONDS = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Parquet file `data/a.parquet`, a FIFO, a socket, and links to them, to a device and to nothing."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": [0.0, 1.0] * 20, "y": [0, 1] * 20}), tmp_path / "data" / "a.parquet")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "to_fifo").symlink_to("fifo")
    (tmp_path / "to_device").symlink_to("/dev/zero")
    (tmp_path / "to_nothing").symlink_to("gone")
    (tmp_path / "to_itself").symlink_to("to_itself")
    return tmp_path


KINDS = {
    "fifo": "a FIFO",
    "socket": "a socket",
    "to_fifo": "a FIFO",
    "to_device": "a device",
    "to_nothing": "a link to 'gone', where nothing is",
    "data": "a folder",
    "none": "no such file",
    "to_itself": "too many levels of symbolic links",
}


def test_what_there_is(folder: Path) -> None:
    assert {name: found_at(folder / name) for name in KINDS} == KINDS
    assert found_at(folder / "data" / "a.parquet") is None
    assert found_at(str(folder / "a\0b")) == "embedded null byte"
    assert found_at(folder / ("a" * 300)) == "file name too long"


def test_reading_refuses_them_and_large_files(folder: Path) -> None:
    for name, found in KINDS.items():
        with pytest.raises(OSError, match=f"^{re.escape(found)}$"):
            read_given(folder / name)
    with pytest.raises(OSError, match=r"^a file of [0-9,]+ bytes, more than 100$"):
        read_given(folder / "data" / "a.parquet", 100)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "data"])
def test_data_by_its_name(folder: Path, name: str) -> None:
    path = folder / name
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}: {problem_of(path)}')}$"):
        make_plan([str(path)])


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("data", "none")])
@pytest.mark.parametrize("pattern", ["data", "data/*.parquet"])
def test_data_in_a_folder_or_a_glob(folder: Path, name: str, pattern: str) -> None:
    part = folder / "data" / "b.parquet"
    (folder / name).rename(part) if name in ("fifo", "socket") else part.symlink_to(f"../{name}")
    with pytest.raises(DataError, match=f"^{re.escape(f'{part}: {problem_of(part)}')}$"):
        make_plan([str(folder / pattern)])


def test_a_broken_link_that_may_be_a_folder_is_named(folder: Path) -> None:
    (folder / "data" / "day=2").symlink_to("../gone")
    (folder / "data" / "notes.txt").write_text("no data")
    os.mkfifo(folder / "data" / "log")
    sources, warnings = find_sources([str(folder / "data")])
    assert [source.relative for source in sources] == ["a.parquet"]
    where = folder / "data" / "day=2"
    why = "must be a regular file, found a link to '../gone', where nothing is; restore that file, or remove the link"
    others = "1 file is passed over, not in Parquet: 'notes.txt'; 'mlclf convert' writes CSV, Arrow and more as Parquet"
    assert sorted(warnings) == sorted([f"{where} is passed over: {why}", f"{folder / 'data'}: {others}"])


def test_links_to_folders_around_end(folder: Path) -> None:
    for name in ("l1", "l2"):
        (folder / "data" / name).symlink_to(".")
    sources, warnings = find_sources([str(folder / "data")])
    assert [source.relative for source in sources] == ["a.parquet"]
    assert warnings == [
        f"{folder / 'data' / name} is a link to a folder that is read already; it is read once" for name in ("l1", "l2")
    ]


FIT = "fit data/a.parquet --labels y --out made"
COMMANDS = [
    "inspect {}", "fit {} --labels y --out made", FIT + " --config {}", FIT + " --valid {}", "shuffle {} --out made",
    "split {} --out made", "convert {} --out made --format csv", "convert {} --out made --format libsvm",
    "convert {} --out made --format arff", "convert {} --out made --format arrow",
    "convert {} --out made --format parquet", "convert data/a.parquet --out made --format arff --labels-xml {}",
    "evaluate {} --labels y --score-kind logit", "evaluate s.parquet --thresholds {} --labels y",
    "evaluate s.parquet --labels y --score-kind logit --label-data {} --key k",
    "evaluate s.parquet --labels y --score-kind logit --label-names {}",
    "calibrate {} --labels y --score-kind logit --out made",
    "calibrate s.parquet --labels y --score-kind logit --out made --prior {}",
    "calibrate s.parquet --labels y --score-kind logit --out made --prevalence {}",
    "calibrate s.parquet --labels y --score-kind logit --out made --unlabelled {}",
    "apply {} t.json --out made --score-kind logit", "apply s.parquet {} --out made --score-kind logit",
    "diff {} t.json s.parquet --score-kind logit", "diff t.json {} s.parquet --score-kind logit",
    "predict {} data --out made", "evaluate {} data", "fit --resume --out {}",
]  # fmt: skip
"""Every command, with one of the files that it is given left open."""


@pytest.mark.slow
def test_no_command_opens_a_fifo(folder: Path) -> None:
    scores = pa.table({"score_y": [0.5, -0.5] * 20, "y": [1, 0] * 20, "k": list(range(40))})
    pq.write_table(scores, folder / "s.parquet")
    (folder / "x.parquet").symlink_to("fifo")
    code = """
import io, sys
from contextlib import redirect_stderr, redirect_stdout
from mlclf.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["mlclf", *line.split()]
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            main()
        code = 0
    except SystemExit as end:
        code = end.code
    print(code, repr(said.getvalue()), line, flush=True)
"""
    lines = "\n".join(command.format("x.parquet") for command in COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, input=lines, capture_output=True, text=True, timeout=SECONDS
    )
    said = done.stdout.splitlines()
    assert len(said) == len(COMMANDS), done.stderr
    wrong = [line for line in said if not re.match(r"2 .*x\.parquet", line.partition("', ")[0])]
    assert not wrong
