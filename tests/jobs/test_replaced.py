"""Outputs of jobs: what --overwrite and --resume keep, bind and refuse; what a run lists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import names_below, plain_table, with_column, write

import mlclf
from mlclf import Run
from mlclf.data.parquet.shards import FooterCache
from mlclf.errors import ConfigError, FullDiskError
from mlclf.jobs.calibrate import CalibrateOptions
from mlclf.outputs.listing import Inventory, Listing

QUICK: dict[str, Any] = {"optimizer.l2": 0.1}


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(fitted: Any) -> Run:
    return Run.open(fitted.run)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two files, one in the folder of a partition."""
    write(tmp_path / "data" / "day=1" / "part.parquet", plain_table(30))
    write(tmp_path / "data" / "day=2" / "part.parquet", plain_table(20, seed=1))
    return str(tmp_path / "data")


# ── what is replaced ────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_of_one_name_in_partitions_have_parts_of_their_own(run: Run, data: str, tmp_path: Path) -> None:
    for _ in range(2):
        run.predict(data, tmp_path / "out", overwrite=True)
        parts = {
            name: pq.read_metadata(tmp_path / "out" / name).num_rows
            for name in ("day=1/part.parquet", "day=2/part.parquet")
        }
        assert parts == {"day=1/part.parquet": 30, "day=2/part.parquet": 20}
    assert list(Listing.read(tmp_path / "out").contents) == [*parts, "_SUCCESS"]  # type: ignore[union-attr]


@pytest.mark.parametrize("foreign", ["mine.txt", "day=1/mine.parquet", "empty/"])
def test_predict_and_apply_keep_what_they_did_not_write(run: Run, data: str, tmp_path: Path, foreign: str) -> None:
    scores, decisions = run.predict(data, tmp_path / "scores"), tmp_path / "decisions"
    mlclf.apply_thresholds(str(scores), run.path / "thresholds.json", decisions)
    for out in (scores, decisions):
        (out / foreign).parent.mkdir(parents=True, exist_ok=True)
        (out / foreign).mkdir() if foreign.endswith("/") else (out / foreign).write_text("mine")
    before = everything(tmp_path)
    reason = (
        f"this folder holds {foreign.rstrip('/')!r}, which is not on the list; move it away, or give another --out$"
    )
    with pytest.raises(ConfigError, match=f"{scores}: --overwrite replaces only what predict wrote, and {reason}"):
        run.predict(data, scores, overwrite=True)
    shutil.rmtree(scores)
    before = {name: value for name, value in before.items() if not name.startswith("scores/")}
    run.predict(data, scores)
    with pytest.raises(ConfigError, match=f"{decisions}: --overwrite replaces only what apply wrote, and {reason}"):
        mlclf.apply_thresholds(str(scores), run.path / "thresholds.json", decisions, overwrite=True)
    assert {name: value for name, value in everything(tmp_path).items() if not name.startswith("scores/")} == before


def test_a_run_is_no_folder_of_scores(run: Run, fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted.run, tmp_path / "run")
    before = everything(tmp_path)
    message = f"{tmp_path / 'run'}: --overwrite replaces only what predict wrote, and this folder is of 'fit'; give "
    with pytest.raises(ConfigError, match=exactly(message + "another --out")):
        run.predict(fitted.test, tmp_path / "run", overwrite=True)
    assert everything(tmp_path) == before


def test_scores_do_not_replace_what_they_are_made_of(run: Run, data: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=exactly(f"{data}: --out must not be in the input folder {data}; give another --out")
    ):
        run.predict(data, data, overwrite=True)
    scores = run.predict(data, tmp_path / "scores")
    one = scores / "day=1" / "part.parquet"
    with pytest.raises(ConfigError, match=f"^{scores}: --out must not be in the input folder {scores}; give another"):
        mlclf.apply_thresholds(str(scores), run.path / "thresholds.json", scores, overwrite=True)
    with pytest.raises(
        ConfigError, match=f"^{scores}: --overwrite replaces only what apply wrote, and this folder is of"
    ):
        mlclf.apply_thresholds(str(one), run.path / "thresholds.json", scores, overwrite=True)
    with pytest.raises(
        ConfigError, match=exactly(f"{scores}: --out must not hold the input {one}; give another --out")
    ):
        run.predict(str(one), scores, overwrite=True)
    assert sum(pq.read_metadata(path).num_rows for path in scores.rglob("*.parquet")) == 50


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_all_that_a_run_holds_is_listed(fitted: Any, tmp_path: Path, optimizer: str, overwrite: bool) -> None:
    """Also after calibrate has written thresholds again; an edited file is not ours any more."""
    out, settings = tmp_path / "run", QUICK | {"optimizer.name": optimizer, "training.epochs": 2}
    if overwrite:
        mlclf.fit(fitted.data, "label_*", out, key="id", settings=QUICK)
    run = mlclf.fit(fitted.data, "label_*", out, key="id", settings=settings, overwrite=overwrite)
    run.calibrate((), "recall:0.9", confidence=None)
    run.evaluate(fitted.test, tmp_path / "metrics.json")
    listing = Listing.read(out)
    assert listing is not None
    assert listing.finished
    files = {name for name in names_below(out) if (out / name).is_file()}
    assert files - {"_written.jsonl"} == set(listing.contents) & files
    assert ("checkpoints/final/last.safetensors" in files) == (optimizer == "adam")
    assert Inventory(out, listing).foreign() is None
    (out / "thresholds.json").write_text((out / "thresholds.json").read_text() + " ")
    with pytest.raises(ConfigError, match=r"this folder holds 'thresholds\.json', which has changed since"):
        mlclf.fit(fitted.data, "label_*", out, key="id", settings=QUICK, overwrite=True)


def test_a_run_of_an_earlier_release_opens_and_is_not_replaced(fitted: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(fitted.run, out)
    (out / "_written.jsonl").unlink()
    run = Run.open(out)
    run.calibrate((), "recall:0.9", confidence=None)
    assert not (out / "_written.jsonl").exists()
    with pytest.raises(ConfigError, match="this folder has no list of that"):
        mlclf.fit(fitted.data, "label_*", out, settings=QUICK, overwrite=True)
    assert mlclf.fit(out=out, resume=True).label_names == run.label_names


def test_a_second_calibration_of_a_run_is_refused(fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted.run, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    steps = run.calibrate_steps([fitted.test], None, CalibrateOptions())
    next(steps)
    with pytest.raises(
        ConfigError, match=rf"run: another job \(calibrate, process {os.getpid()}\) is writing there; wait"
    ):
        run.calibrate((), "f1")
    steps.close()
    run.calibrate((), "f1")


def test_metrics_and_thresholds_replace_no_data(run: Run, fitted: Any, tmp_path: Path) -> None:
    path = shutil.copy(fitted.test, tmp_path / "data.parquet")
    before = Path(path).read_bytes()
    reason = "and this file is none; name another file"
    start = f"{path}: --out replaces only JSON that such a command wrote, with 'format_version' and "
    with pytest.raises(ConfigError, match=exactly(f"{start}'log_loss', {reason}")):
        run.evaluate(str(path), path)
    with pytest.raises(ConfigError, match=exactly(f"{start}'objective', {reason}")):
        run.calibrate(str(path), "f1", path)
    assert Path(path).read_bytes() == before
    run.calibrate(str(path), "f1", tmp_path / "t.json")
    run.calibrate(str(path), "recall:0.9", tmp_path / "t.json")
    with pytest.raises(ConfigError, match="'log_loss', and this file is none"):
        run.evaluate(str(path), tmp_path / "t.json")


# ── what is gone on with ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def half(run: Run, data: str, tmp_path: Path) -> Path:
    """Scores of which the second part and the mark are missing."""
    out = run.predict(data, tmp_path / "half")
    (out / "day=2" / "part.parquet").unlink()
    (out / "_SUCCESS").unlink()
    return out


def test_parts_that_are_there_are_kept(run: Run, data: str, half: Path) -> None:
    before = (half / "day=1" / "part.parquet").stat()
    run.predict(data, half, resume=True)
    assert (half / "day=1" / "part.parquet").stat() == before
    assert pq.read_metadata(half / "day=2" / "part.parquet").num_rows == 20
    assert (half / "_SUCCESS").exists()
    run.predict(data, half, overwrite=True)


def test_half_an_output_may_be_replaced(run: Run, data: str, half: Path) -> None:
    run.predict(data, half, overwrite=True)
    assert pq.read_metadata(half / "day=2" / "part.parquet").num_rows == 20


def test_another_run_thresholds_or_arguments_are_refused(
    run: Run, fitted: Any, data: str, half: Path, tmp_path: Path
) -> None:
    before = everything(half)
    other = mlclf.fit(fitted.data, "label_*", tmp_path / "other", key="id", settings={"optimizer.l2": 5.0})
    start = f"{half}: --resume goes on with what was made of the same things, and different from what is there "
    end = "; give what was given before, another --out, or --overwrite"
    with pytest.raises(ConfigError, match=exactly(f"{start}are the run, the thresholds{end}")):
        other.predict(data, half, resume=True)
    with pytest.raises(ConfigError, match=exactly(f"{start}is the arguments{end}")):
        run.predict(data, half, top=1, resume=True)
    shutil.copytree(fitted.run, tmp_path / "tuned")
    tuned = Run.open(tmp_path / "tuned")
    tuned.calibrate((), "recall:0.9", confidence=None)
    with pytest.raises(ConfigError, match=exactly(f"{start}is the thresholds{end}")):
        tuned.predict(data, half, resume=True)
    assert everything(half) == before


def rewritten(path: Path, table: pa.Table) -> None:
    """Write a file anew, with the time of writing that it had."""
    status = path.stat()
    write(path, table)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("how", ["rows", "values"])
def test_parts_of_input_that_was_written_since_are_made_anew(
    run: Run, data: str, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("mlclf.data.parquet.shards.FOOTERS", FooterCache(0))  # as in another process
    table = plain_table(30)
    table = plain_table(33, seed=4) if how == "rows" else with_column(table, "a", np.flip(table["a"].to_numpy()).copy())
    rewritten(Path(data) / "day=1" / "part.parquet", table)
    run.predict(data, half, resume=True)
    run.predict(data, tmp_path / "again")
    for name in ("day=1/part.parquet", "day=2/part.parquet"):
        assert pq.read_table(half / name).equals(pq.read_table(tmp_path / "again" / name))


def test_what_is_not_of_the_input_is_refused(run: Run, data: str, half: Path) -> None:
    one = half / "day=1" / "part.parquet"
    with pytest.raises(
        ConfigError,
        match=exactly(
            f"{one}: was made of a file that is not in the input now; give the same input, or another --out, or "
            "--overwrite"
        ),
    ):
        run.predict(str(Path(data) / "day=2"), half, resume=True)
    one.write_bytes(b"changed")
    with pytest.raises(ConfigError, match=exactly(f"{one}: has changed since; move it away, or give another --out")):
        run.predict(data, half, resume=True)
    (half / "_written.jsonl").unlink()
    message = (
        f"{half}: --resume goes on with what predict began, and nothing here says that it did (_written.jsonl); give "
        "another --out"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        run.predict(data, half, resume=True)
    assert one.read_bytes() == b"changed"


def test_a_foreign_part_is_not_replaced(run: Run, data: str, half: Path) -> None:
    two = half / "day=2" / "part.parquet"
    text = (half / "_written.jsonl").read_text().splitlines(keepends=True)
    (half / "_written.jsonl").write_text("".join(line for line in text if "day=2" not in line))
    two.write_bytes(b"mine")
    message = f"{two}: is not on the list of what was written; move it away, or give another --out"
    with pytest.raises(ConfigError, match=exactly(message)):
        run.predict(data, half, resume=True)
    assert two.read_bytes() == b"mine"


def test_decisions_are_bound_to_thresholds_and_arguments(run: Run, data: str, tmp_path: Path) -> None:
    scores, thresholds = str(run.predict(data, tmp_path / "scores")), tmp_path / "t.json"
    shutil.copy(run.path / "thresholds.json", thresholds)
    out = mlclf.apply_thresholds(scores, thresholds, tmp_path / "out")
    start = f"{out}: --resume goes on with what was made of the same things, and different from what is there is "
    end = "; give what was given before, another --out, or --overwrite"
    with pytest.raises(ConfigError, match=exactly(f"{start}the arguments{end}")):
        mlclf.apply_thresholds(scores, thresholds, out, key="id", resume=True)
    document = json.loads(thresholds.read_text())
    document["labels"]["label_a"]["threshold"] = 0.25
    thresholds.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=exactly(f"{start}the thresholds{end}")):
        mlclf.apply_thresholds(scores, thresholds, out, resume=True)
    with pytest.raises(
        ConfigError,
        match=exactly("--resume goes on with what is there and --overwrite replaces it: give one of the two"),
    ):
        mlclf.apply_thresholds(scores, thresholds, out, resume=True, overwrite=True)


@pytest.mark.parametrize(
    "names",
    [
        ["00002/a.parquet", "a.parquet", "a.pq"],
        ["a.pq", "a.parq", "a.parquet", "a.pq.parquet", "a.parq-2.parquet"],
        ["b.pq", "b.parquet/c.parquet", "b.parquet/c.pq"],
    ],
)
def test_parts_are_one_to_one_with_the_input(run: Run, tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / "data" / name, plain_table(10 + number))
    for options in ({}, {"resume": True}, {"overwrite": True}):
        run.predict(str(tmp_path / "data"), tmp_path / "out", **options)
        rows = sorted(
            pq.read_metadata(path).num_rows for path in (tmp_path / "out").rglob("*.parquet") if path.is_file()
        )
        assert rows == [10 + number for number in range(len(names))]


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
import mlclf.cli
mlclf.cli.main()
"""


def limited(limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_limit_on_files_ends_with_the_command_that_goes_on(run: Run, fitted: Any, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.parquet", plain_table(10))
    write(tmp_path / "data" / "b b.parquet", plain_table(20_000))
    out = tmp_path / "out put"
    done = limited(60_000, "predict", fitted.run, tmp_path / "data", "--out", out)
    assert done.returncode == 1
    assert re.search(
        r"^error: .*/out put: a file is larger than a limit here allows \(ulimit -f\): it takes about [\d,]+ bytes, "
        r"[\d,]+ were written, and [\d,]+ are free now; what is whole is kept: make room, then go on with --resume\n"
        rf"  mlclf predict {fitted.run} {tmp_path / 'data'} --out '{out}' --resume\n\Z",
        done.stderr,
        re.MULTILINE,
    ), done.stderr
    assert names_below(out) == {"_written.jsonl", "a.parquet"}
    done = limited(60_000, "shuffle", tmp_path / "data" / "b b.parquet", "--out", tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr.endswith(f"  mlclf shuffle '{tmp_path}/data/b b.parquet' --out {tmp_path}/new\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out put"]
    run.predict(str(tmp_path / "data"), out, resume=True)


@pytest.mark.slow
def test_a_fit_that_finds_no_room_leaves_nothing(fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr("mlclf.run_folder.RunFolder.write_model", fail)
    with pytest.raises(
        FullDiskError, match=r"what was begun is removed: make room, then run the same command again$"
    ) as error:
        mlclf.fit(fitted.data, "label_*", tmp_path / "run", settings=QUICK)
    assert not error.value.resume
    assert not list(tmp_path.iterdir())
    with pytest.raises(FullDiskError, match=r"what is whole is kept: make room, then go on with --resume$"):
        mlclf.fit(
            fitted.data, "label_*", tmp_path / "run", settings=QUICK | {"optimizer.name": "adam", "training.epochs": 1}
        )
    monkeypatch.undo()
    mlclf.fit(out=tmp_path / "run", resume=True)


# ── a cache that was left ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_cache_that_a_killed_fit_left_is_removed(fitted: Any, tmp_path: Path, mlclf_command: Any) -> None:
    out = tmp_path / "run"
    shutil.copytree(fitted.run, out)
    for name in ("0" * 32 + "/000000000000-16.slab", "0" * 32 + "/.000000000000-16.slab.12-0123abcd"):
        (out / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "cache" / name).write_bytes(b"slab")
    called = mlclf_command("fit", "--resume", "--out", out)
    assert called.code == 0
    assert f"{out}: removed the cache that a fit had left which was killed" in called.err
    assert not (out / "cache").exists()
    (tmp_path / ".run.mlclf" / "new").mkdir(parents=True)
    called = mlclf_command("fit", "--resume", "--out", out)
    assert f"{out}: removed what a job that was killed had left in {tmp_path / '.run.mlclf'}" in called.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (out / "cache").mkdir()
    (out / "cache" / "mine.txt").write_text("mine")
    assert mlclf_command("fit", "--resume", "--out", out).code == 0
    assert (out / "cache" / "mine.txt").exists()


# ── stopped ─────────────────────────────────────────────────────────────────────────────────────────────────────────

STOPPED = """
import os, signal, sys
import mlclf.cli
import mlclf.outputs.output as output
number, last = int(sys.argv.pop(1)), sys.argv.pop(1)
original = output.Listing.append
def append(self, folder, name, *rest):
    original(self, folder, name, *rest)
    if name == last:
        os.kill(os.getpid(), number)
output.Listing.append = append
mlclf.cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(15, 143), (9, -9)])
def test_scores_that_were_stopped_are_gone_on_with(run: Run, data: str, tmp_path: Path, number: int, code: int) -> None:
    """Stopped when the second part is whole and listed, but has not its name yet."""
    out = tmp_path / "out"
    stopped = [sys.executable, "-c", STOPPED, str(number), "day=2/part.parquet", "predict", str(run.path), data]
    done = subprocess.run([*stopped, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (out / "day=1" / "part.parquet").exists()
    assert not (out / "_SUCCESS").exists()
    run.predict(data, out, resume=True)
    whole = {"_SUCCESS", "_written.jsonl", "day=1", "day=1/part.parquet", "day=2", "day=2/part.parquet"}
    assert names_below(out) == whole
    before = everything(out)
    done = subprocess.run([*stopped, "--out", str(out), "--overwrite"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert everything(out) == before
    assert (tmp_path / ".out.mlclf").exists() == (number == 9)
    run.predict(data, out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert names_below(out) == whole
