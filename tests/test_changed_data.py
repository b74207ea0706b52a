"""Files that become others while they are read: it is noticed, and said which file it was."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlclf
from mlclf.config.loading import load_run_file
from mlclf.data.convert.conversion import convert_steps
from mlclf.data.convert.shuffling import shuffle_steps
from mlclf.data.convert.splitting import split_steps
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.planning import make_plan
from mlclf.data.storage.sources import STEADY
from mlclf.errors import ChangedDataError
from mlclf.jobs.calibrate import CalibrateOptions
from mlclf.jobs.evaluate import EvaluateOptions
from mlclf.jobs.fit import fit_steps
from mlclf.progress import Progress


def table(rows: int = 4000, flip: bool = False) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    return pa.table({"x": x, "label_a": (random.random(rows) < 1 / (1 + np.exp(-3 * x))) ^ flip})


def write(path: Path, **options: Any) -> None:
    """A file whose size and footer do not tell `flip`: no statistics, no dictionaries."""
    rows = table(flip=options.pop("flip", False))
    pq.write_table(rows, path, row_group_size=500, use_dictionary=False, write_statistics=False, compression="none")


def same_time(path: Path, change: Callable[[], object]) -> None:
    """Make a change and set the time of writing back."""
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_footer(path: Path) -> None:
    """Other bytes of the footer, as many as before: the name of a column."""
    path.write_bytes(path.read_bytes().replace(b"label_a", b"label_b"))


def replaced(path: Path) -> None:
    """Another file of the same size and time gets its name."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    same_time(other, lambda: other_footer(other))
    other.replace(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "rewritten": (lambda path: write(path, flip=True), r"it was written at [\d:.]+ UTC, now at [\d:.]+ UTC"),
    "touched": (lambda path: os.utime(path, (1, 1)), r"it was written at [\d:.]+ UTC, now at 00:00:01\.000000 UTC"),
    "appended": (lambda path: path.open("ab").write(b"more"), r"it had [\d,]+ bytes, has [\d,]+"),
    "shorter": (lambda path: os.truncate(path, 1000), r"it had [\d,]+ bytes, has 1,000"),
    "empty": (lambda path: os.truncate(path, 0), r"it had [\d,]+ bytes, has 0"),
    "other footer": (lambda path: same_time(path, lambda: other_footer(path)), "its footer is another one"),
    "replaced": (replaced, "its footer is another one"),
}


def message(path: Path, what: str) -> str:
    start = rf"^{re.escape(str(path))}: has changed while it was read: "
    return f"{start}{what}; {re.escape(STEADY)}$"


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("pieces", [0, 1])
def test_a_file_that_changes_between_plan_and_end(tmp_path: Path, name: str, pieces: int) -> None:
    change, what = CHANGES[name]
    path = tmp_path / "a.parquet"
    write(path)
    plan = make_plan(str(path))
    decoding = decode_unit(plan, plan.units[0], ["x"], 500)
    for _ in range(pieces):
        next(decoding)
    change(path)
    with pytest.raises(ChangedDataError, match=message(path, what)):
        list(decoding)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    plan = make_plan(str(path))
    path.unlink()
    with pytest.raises(ChangedDataError, match=rf"^{path}: is gone, it was there before; {STEADY}$"):
        list(decode_unit(plan, plan.units[0], ["x"], 500))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.link(path, path.with_name("link")),
        lambda path: path.chmod(0o600),
        lambda path: [shutil.copy2(path, path.with_name("copy")), path.with_name("copy").replace(path)],
    ],
    ids=["link", "mode", "copy"],
)
def test_what_leaves_the_rows_as_they_are_is_no_change(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    plan = make_plan(str(path))
    change(path)
    read = pa.concat_tables([piece for _, piece in decode_unit(plan, plan.units[0], ["x"], 500)])
    assert read["x"].to_pylist() == table()["x"].to_pylist()


def stopped_between(steps: Any, change: Callable[[], object], stage: str) -> None:
    """Run a job and make a change at its first step of a stage."""
    done = False
    for step in steps:
        if isinstance(step, Progress) and step.stage == stage and not done:
            change()
            done = True
    assert done


SETTINGS = {"optimizer.name": "adam", "optimizer.l2": 0.01, "training.epochs": 3}


@pytest.mark.parametrize("cache", ["off", "auto"])
def test_a_fit_whose_data_changes_ends(tmp_path: Path, cache: str) -> None:
    path, out = tmp_path / "a.parquet", tmp_path / "run"
    write(path)
    sets = [f"{name}={value}" for name, value in (SETTINGS | {"runtime.cache": cache}).items()]
    given = [f"train={path}", "labels=label_a", "valid_fraction=0.2", f"out={out}"]
    steps = fit_steps(load_run_file(None, [*given, *sets]))
    with pytest.raises(ChangedDataError, match=message(path, r"it was written at [\d:.]+ UTC, now at [\d:.]+ UTC")):
        stopped_between(steps, lambda: write(path, flip=True), "training")
    assert not (out / "manifest.json").exists()


def test_validation_data_that_changes_ends_a_fit(tmp_path: Path) -> None:
    path, valid, out = tmp_path / "a.parquet", tmp_path / "v.parquet", tmp_path / "run"
    write(path)
    write(valid)
    given = [f"train={path}", "labels=label_a", f"valid={valid}", f"out={out}", "optimizer.l2=0.1"]
    steps = fit_steps(load_run_file(None, given))
    with pytest.raises(ChangedDataError, match=message(valid, "it had .*")):
        stopped_between(steps, lambda: valid.open("ab").write(b"PAR1"), "statistics")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mlclf.Run:
    folder = tmp_path_factory.mktemp("run")
    write(folder / "a.parquet")
    settings = {"optimizer.l2": 0.1}
    return mlclf.fit(str(folder / "a.parquet"), "label_a", folder / "run", valid_fraction=0.2, settings=settings)


@pytest.mark.parametrize("job", ["evaluate", "predict", "calibrate", "shuffle", "split"])
def test_other_jobs_notice_it_too(tmp_path: Path, run: mlclf.Run, job: str) -> None:
    """A file changes once the plan is made: at the first look at what the file is."""
    path = tmp_path / "a.parquet"
    write(path)
    jobs: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: run.evaluate_steps(str(path), None, EvaluateOptions(exact=True)),
        "predict": lambda: run.predict_steps(str(path), tmp_path / "scores"),
        "calibrate": lambda: run.calibrate_steps(str(path), tmp_path / "thresholds.json", CalibrateOptions()),
        "shuffle": lambda: shuffle_steps([str(path)], tmp_path / "shuffled"),
        "split": lambda: split_steps([str(path)], tmp_path / "parts", [0.5, 0.5], "hash"),
    }
    planned = make_plan(str(path))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("mlclf.jobs.run_data", "mlclf.data.convert.shuffling", "mlclf.data.convert.splitting"):
            patch.setattr(f"{module}.make_plan", lambda *_, **__: planned)
        os.utime(path, (1, 1))
        with pytest.raises(ChangedDataError, match=message(path, ".* now at 00:00:01.000000 UTC")):
            list(jobs[job]())
    for name in ("scores/a.parquet", "scores/_SUCCESS", "thresholds.json", "shuffled", "parts"):
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("gone", [False, True])
def test_a_text_file_that_changes_ends_its_conversion(tmp_path: Path, gone: bool) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "out"
    path.write_text("x,label_a\n" + "1.5,1\n" * 1000)

    def change() -> None:
        if gone:
            path.unlink()
        else:
            os.utime(path, (1, 1))

    what = (
        rf"^{path}: is gone, it was there before; {STEADY}$" if gone else message(path, ".* now at 00:00:01.000000 UTC")
    )
    with pytest.raises(ChangedDataError, match=what):
        stopped_between(convert_steps([path], out), change, "convert")
    assert not out.exists()
