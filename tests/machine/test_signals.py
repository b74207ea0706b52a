"""Signals are flags: they end a command where it looks, with the code of the contract, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlclf
import mlclf.fitting.mini_batch
from mlclf.machine.signals import SIGNALS, Stopped, first_asked, look, looked, pause, result_of, signals_are_flags

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_nothing_until_it_is_looked_at(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with signals_are_flags():
        os.kill(os.getpid(), number)
        reached = sum(range(1000))
        assert (reached, first_asked()) == (499500, number)
        with pytest.raises(Stopped, match=f"^stopped by {signal.Signals(number).name}$") as stop:
            look()
        assert stop.value.exit_code == CODES[signal.Signals(number)]
        with pytest.raises(Stopped):
            next(looked([1]))
    assert [signal.getsignal(one) for one in SIGNALS] == before
    look()
    assert list(looked([1, 2])) == [1, 2]


def test_waits_look(monkeypatch: pytest.MonkeyPatch) -> None:
    never: Future[int] = Future()
    for wait in (lambda: pause(60), lambda: result_of(never, 60)):
        with signals_are_flags():
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
            started = time.monotonic()
            with pytest.raises(Stopped):
                wait()
            assert time.monotonic() - started < 30
    with pytest.raises(TimeoutError):
        result_of(never, 0.01)
    done: Future[int] = Future()
    done.set_result(3)
    assert result_of(done, 0) == 3


def test_an_ignored_signal_stays_ignored() -> None:
    """As a shell has it that starts a command in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_are_flags():
            os.kill(os.getpid(), signal.SIGINT)
            look()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigint_ends_at_once() -> None:
    code = (
        "import os, signal, time\nfrom mlclf.machine.signals import signals_are_flags\nwith signals_are_flags():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (130, "error: stopped at once by a second SIGINT\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    table = pa.table({"x": random.normal(size=3000), "label_a": random.random(3000) < 0.3})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=500)
    return tmp_path / "data.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_ends_with_the_code_of_its_signal(
    data: Path, tmp_path: Path, mlclf_command: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It arrives while the checkpoint is written, which goes on to its end."""
    original = mlclf.fitting.mini_batch.save_checkpoint
    ended = []

    def interrupted(*given: Any) -> None:
        os.kill(os.getpid(), number)
        original(*given)
        ended.append(given)

    monkeypatch.setattr("mlclf.fitting.mini_batch.save_checkpoint", interrupted)
    options = ["--set", "optimizer.name=adam", "training.epochs=9", "optimizer.l2=0.1", "--valid-fraction", "0.2"]
    out = tmp_path / "run"
    called = mlclf_command("fit", data, "--labels", "label_a", *options, "--out", out)
    assert called.code == CODES[signal.Signals(number)]
    assert called.err.endswith(f"error: stopped by {signal.Signals(number).name}\n")
    assert len(ended) == 1
    assert (out / "checkpoints" / "final" / "last.safetensors").exists()
    monkeypatch.undo()
    assert mlclf.fit(resume=True, out=out).metrics is not None


def test_in_python_ctrl_c_raises_as_ever(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = mlclf.fitting.mini_batch.save_checkpoint

    def interrupted(*given: Any) -> None:
        original(*given)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("mlclf.fitting.mini_batch.save_checkpoint", interrupted)
    settings = {"optimizer.name": "adam", "training.epochs": 9, "optimizer.l2": 0.1}
    with pytest.raises(KeyboardInterrupt):
        mlclf.fit(str(data), "label_a", tmp_path / "run", settings=settings, valid_fraction=0.2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
