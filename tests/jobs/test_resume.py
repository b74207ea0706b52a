"""A fit that was stopped goes on where it was, and ends as if it had never been stopped."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from made_tables import lines_of, plain_table, with_column, write

import mlclf
from mlclf.errors import CheckpointError, ConfigError

SAME_FILES = (
    "model.safetensors",
    "thresholds.json",
    "metrics.json",
    "histograms.parquet",
    "folds.parquet",
    "features.json",
)
PLACES = {
    "checkpoint": "mlclf.fitting.mini_batch.save_checkpoint",
    "log line": "mlclf.fitting.trained.append_line",
}
SLOW: dict[str, Any] = {"training.epochs": 4, "optimizer.name": "adam", "optimizer.l2": 0.001}


class Killed(BaseException):
    """What a signal raises in the loop."""


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "data.parquet", plain_table(300), row_group_size=100)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def killed_after(monkeypatch: pytest.MonkeyPatch, target: str, calls: int) -> Callable[[], None]:
    """Make the given call of a function raise `Killed` once its work is done; returns the undoing."""
    module_name, _, name = PLACES[target].rpartition(".")
    module = import_module(module_name)
    original, count = getattr(module, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        result = original(*arguments, **options)
        count += 1
        if count == calls:
            raise Killed
        return result

    monkeypatch.setattr(module, name, counted)
    return lambda: monkeypatch.setattr(module, name, original)


def logged(run: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines_of(run / "log.jsonl")]


@pytest.mark.parametrize("arguments", [{"valid_fraction": 0.3}, {"folds": 2}])
@pytest.mark.parametrize("target", ["checkpoint", "log line"])
@pytest.mark.parametrize("calls", [1, 3, 4, 5])
def test_a_run_killed_at_an_epoch_ends_like_one_that_was_not(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, calls: int, arguments: dict[str, Any]
) -> None:
    """With two folds the fifth call is in the refit, after the folds have ended."""
    if calls == 5 and "folds" not in arguments:
        calls = 2
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    mlclf.fit(data, "label_*", whole, exclude="id", settings=SLOW, **arguments)
    undo = killed_after(monkeypatch, target, calls)
    with pytest.raises(Killed):
        mlclf.fit(data, "label_*", stopped, exclude="id", settings=SLOW, **arguments)
    undo()
    mlclf.fit(data, "label_*", stopped, resume=True)
    for name in SAME_FILES:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert logged(whole) == logged(stopped)


def test_early_stopping_resumes_where_it_was(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"optimizer.name": "sgd", "optimizer.lr": 2.0, "training.patience": 1}
    mlclf.fit(data, "label_*", whole, exclude="id", settings=settings, valid_fraction=0.3)
    epochs = len(logged(whole))
    undo = killed_after(monkeypatch, "checkpoint", epochs)
    with pytest.raises(Killed):
        mlclf.fit(data, "label_*", stopped, exclude="id", settings=settings, valid_fraction=0.3)
    undo()
    mlclf.fit(data, "label_*", stopped, resume=True)
    assert logged(whole) == logged(stopped)
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()


def test_a_full_batch_run_that_was_cut_off_starts_its_log_anew(data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    mlclf.fit(data, "label_*", run, exclude="id")
    before, model = logged(run), (run / "model.safetensors").read_bytes()
    for path in run.iterdir():  # what a power cut in the third line of the log leaves
        if path.name not in ("config.yaml", "log.jsonl"):
            path.unlink()
    (run / "log.jsonl").write_bytes((run / "log.jsonl").read_bytes()[:200])
    mlclf.fit(data, "label_*", run, resume=True)
    assert logged(run) == before
    assert (run / "model.safetensors").read_bytes() == model


def test_a_finished_run_has_nothing_left_to_do(fitted: Any, mlclf_command: Any) -> None:
    before = (fitted.run / "manifest.json").stat().st_mtime_ns
    called = mlclf_command("fit", "--resume", "--out", fitted.run)
    assert called.code == 0, called.err
    assert f"{fitted.run}: this run has finished; nothing is left to do" in called.err
    assert (fitted.run / "manifest.json").stat().st_mtime_ns == before


def test_settings_that_differ_are_refused_by_name(fitted: Any) -> None:
    message = (
        "--folds: the run has None, given is 7\n"
        "optimizer.l2: the run has 'auto', given is 0.5\n"
        "training.epochs: the run has None, given is 3\n"
        "a resumed run keeps its data and settings; leave these out"
    )
    settings = {"optimizer.l2": 0.5, "training.epochs": 3}
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(fitted.data, "label_*", fitted.run, folds=7, settings=settings, resume=True)


def test_settings_that_are_the_same_are_accepted(fitted: Any) -> None:
    run = mlclf.fit(fitted.data, "label_*", fitted.run, key="id", settings={"optimizer.l2": "auto"}, resume=True)
    assert run.path == fitted.run


def test_there_must_be_a_run_to_resume(data: str, tmp_path: Path) -> None:
    message = f"{tmp_path / 'none'}: there is no run to resume here; fit without --resume"
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def stopped(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed after its second epoch."""
    undo = killed_after(monkeypatch, "checkpoint", 2)
    with pytest.raises(Killed):
        mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=SLOW, valid_fraction=0.3)
    undo()
    return tmp_path / "run"


def test_data_that_changed_since_is_refused(stopped: Path, data: str) -> None:
    write(Path(data), plain_table(310), row_group_size=100)
    message = (
        "the data has changed since the checkpoint was written: 'data.parquet' had 300 rows, has 310; "
        "put it back, or start again with --overwrite"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", stopped, resume=True)


def test_a_damaged_checkpoint_is_refused(stopped: Path, data: str) -> None:
    path = next((stopped / "checkpoints").rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        CheckpointError, match=rf"^{re.escape(str(path))}: the checkpoint cannot be read \(.*\); start again with"
    ):
        mlclf.fit(data, "label_*", stopped, resume=True)


def test_a_stopped_run_is_not_overwritten_by_chance_but_may_be_on_purpose(stopped: Path, data: str) -> None:
    message = f"{stopped}: the folder is not empty; give another --out, or --resume or --overwrite"
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", stopped, exclude="id")
    run = mlclf.fit(data, "label_*", stopped, exclude="id", overwrite=True)
    assert run.metrics is not None
    assert not (stopped / "checkpoints").exists()


def test_a_torn_log_is_mended(stopped: Path, data: str) -> None:
    with (stopped / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    mlclf.fit(data, "label_*", stopped, resume=True)
    assert [record["epoch"] for record in logged(stopped)] == [0, 1, 2, 3]


def test_the_data_may_be_left_out_and_a_column_may_not_change(stopped: Path, data: str) -> None:
    write(Path(data), with_column(plain_table(300), "extra", [1.0] * 300), row_group_size=100)
    with pytest.raises(ConfigError, match=r"'data\.parquet' has other contents; put it back"):
        mlclf.fit(data, "label_*", stopped, resume=True)
