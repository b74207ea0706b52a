"""A fit that was stopped goes on where it was, and ends as if it had never been stopped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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
    "log line": "mlclf.fitting.training_log.append_line",
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [["last"], ["last", "previous"]])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped: Path, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: list[str]
) -> None:
    for name in damaged:
        path = stopped / "checkpoints" / "final" / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    mlclf.fit(data, "label_*", stopped, resume=True)
    goes_on = "the one before is taken" if len(damaged) == 1 else "this stage starts again"
    for name in damaged:
        path = stopped / "checkpoints" / "final" / f"{name}.safetensors"
        assert f"{path}: the checkpoint is damaged (its SHA-256 differs); {goes_on}" in caplog.text
    whole = tmp_path / "whole"
    mlclf.fit(data, "label_*", whole, exclude="id", settings=SLOW, valid_fraction=0.3)
    for name in SAME_FILES:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert logged(whole) == logged(stopped)


@pytest.mark.parametrize("change", ["settings", "arguments", "config", "stage"])
def test_a_checkpoint_of_another_fit_is_refused(
    stopped: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    other = tmp_path / "other"
    options: dict[str, Any] = {"valid_fraction": 0.3, "exclude": "id", "settings": SLOW}
    options |= {
        "settings": {"settings": SLOW | {"optimizer.l2": 0.1}},
        "arguments": {"exclude": ["id", "a"]},
        "stage": {"valid_fraction": None, "folds": 2},
    }.get(change, {})
    found = "other arguments or settings"
    if change == "config":  # the settings of the run, and not its checkpoint, become others
        config = stopped / "config.yaml"
        config.write_text(config.read_text().replace("l2: '0.001'", "l2: 0.5").replace("l2: 0.001", "l2: 0.5"))
    else:
        undo = killed_after(monkeypatch, "checkpoint", 1)
        with pytest.raises(Killed):
            mlclf.fit(data, "label_*", other, **options)
        undo()
        source = next((other / "checkpoints").iterdir())
        (source / "last.safetensors").replace(stopped / "checkpoints" / "final" / "last.safetensors")
    message = (
        f"{stopped / 'checkpoints' / 'final'}: the checkpoint must be of this fit, found one of {found}; "
        "put config.yaml and checkpoints/ back as the fit wrote them, or start again with --overwrite"
    )
    with pytest.raises(CheckpointError, match=exactly(message)):
        mlclf.fit(data, "label_*", stopped, resume=True)


@pytest.mark.parametrize("validation", [False, True])
def test_data_of_other_contents_and_the_same_footer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: bool
) -> None:
    """Labels of two rows change places: as many positives, the same size, footer and time of writing."""

    def written(name: str, swap: bool) -> str:
        labels = [row % 3 == 0 for row in range(300)]
        if swap:
            labels[0], labels[1] = labels[1], labels[0]
        table = pa.table({"x": [float(row % 7) for row in range(300)], "label_a": labels})
        pq.write_table(table, tmp_path / name, use_dictionary=False, write_statistics=False, compression="none")
        return str(tmp_path / name)

    train, valid, run = written("train.parquet", False), written("valid.parquet", False), tmp_path / "run"
    undo = killed_after(monkeypatch, "checkpoint", 2)
    with pytest.raises(Killed):
        mlclf.fit(train, "label_a", run, valid=valid, settings=SLOW)
    undo()
    path = Path(valid if validation else train)
    status = path.stat()
    written(path.name, True)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    message = (
        f"the data has changed since the checkpoint was written: {path.name!r} has other contents; "
        "put it back, or start again with --overwrite"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(train, "label_a", run, resume=True)
    written(path.name, False)
    assert mlclf.fit(train, "label_a", run, resume=True).metrics is not None


LINES = [
    b"", b"\0" * 50, b"\xff\xfe", b"null", b"[1]", b"{}", b'{"epoch": "a", "step": 1}', b'{"epoch": 1',
    b'{"epoch": NaN}', b"[" * 100_000,
    b'{"epoch": 0, "step": 1, "rows": 1, "seconds": 0, "train_loss": 0, "valid_loss": 0}',
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "between", "after", "instead", "gone"])
def test_damaged_logs_cost_nothing(stopped: Path, data: str, tmp_path: Path, place: str) -> None:
    """One line an epoch, whatever became of the log meanwhile; steps that can be read are kept, each once."""
    whole = tmp_path / "whole"
    mlclf.fit(data, "label_*", whole, exclude="id", settings=SLOW, valid_fraction=0.3)
    step = b'{"epoch": 0, "step": 7, "rows": 9, "loss": 0.5}'
    for name, kept in (("log.jsonl", (stopped / "log.jsonl").read_bytes().splitlines()), ("steps.jsonl", [step] * 2)):
        lines = {
            "before": [*LINES, *kept], "between": [kept[0], *LINES, *kept[1:]], "after": [*kept, *LINES, b'{"torn'],
            "instead": LINES, "gone": [],
        }[place]  # fmt: skip
        (stopped / name).write_bytes(b"\n".join(lines))
    mlclf.fit(data, "label_*", stopped, resume=True)
    assert logged(stopped) == logged(whole)
    steps = (stopped / "steps.jsonl").read_bytes().splitlines()
    assert steps.count(step) == (place in ("before", "between", "after"))
    assert all(line.startswith(b'{"epoch"') for line in steps)


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [("optimizer.l2", "auto", "0.001"), ("training.epochs", None, "4"), ("training.shuffle", True, None)],
)
def test_a_default_that_is_given_must_match_too(stopped: Path, data: str, name: str, value: object, was: str) -> None:
    if was is None:  # it is what the run has
        assert mlclf.fit(data, "label_*", stopped, resume=True, settings={name: value}).metrics is not None
        return
    message = (
        f"{name}: the run has {was}, given is {value!r}\na resumed run keeps its data and settings; leave these out"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", stopped, resume=True, settings={name: value})


@pytest.mark.slow
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
