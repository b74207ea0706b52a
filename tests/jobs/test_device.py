"""Mixed precision, and the same job on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_tables import plain_table, with_column, write

import mlclf
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.epoch import Epoch
from mlclf.fitting import mini_batch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def held_out_loss(folder: Path, name: str, **settings: object) -> float:
    data = write(folder / "data.parquet", plain_table(1000))
    steps = {"optimizer.name": "adam", "training.epochs": 5, "optimizer.l2": 1e-3}
    run = mlclf.fit(
        data, ["label_a", "label_b"], folder / name, exclude="id", valid_fraction=0.3, settings=steps | settings
    )
    assert run.metrics is not None
    return float(run.metrics["log_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_comes_near_float32(tmp_path: Path, precision: str) -> None:
    """Eight bits of mantissa: the losses agree to a hundredth."""
    whole = held_out_loss(tmp_path, "whole", **{"training.precision": "float32"})
    half = held_out_loss(tmp_path, "half", **{"training.precision": precision})
    assert half == pytest.approx(whole, abs=0.01)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["auto", "float32", "bf16", "fp16"])
def test_a_gpu_gives_the_same_model(tmp_path: Path, precision: str) -> None:
    """The same batches in the same order: losses agree to a hundredth in half precision."""
    cpu = held_out_loss(tmp_path, "cpu", **{"runtime.device": "cpu"})
    gpu = held_out_loss(tmp_path, "gpu", **{"runtime.device": "cuda", "training.precision": precision})
    assert gpu == pytest.approx(cpu, abs=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        mlclf.ConfigError, match=r"^runtime\.device=cuda: torch finds no CUDA device here; use 'auto' or"
    ):
        held_out_loss(tmp_path, "run", **{"runtime.device": "cuda"})
    assert not (tmp_path / "run").exists()


def fitted_by_command(mlclf_command: Any, folder: Path, name: str, *options: str) -> tuple[list[str], bytes]:
    """The lines that a fit shows, and the weights of its model."""
    out = folder / name
    done = mlclf_command(
        "fit", folder / "data", "--labels", "label_*", "--exclude", "id", "--out", out,
        "--set", "optimizer.name=adam", "--set", "training.epochs=3", *options,
    )  # fmt: skip
    assert done.code == 0, done.err
    return done.err.splitlines(), (out / "model.safetensors").read_bytes()


ROOMY = 1 << 30
OPTIONS = {
    "held out": ["--valid-fraction", "0.3"],
    "folds": ["--folds", "2"],
    "given": ["--valid", "valid.parquet"],
    "read from disk": ["--valid-fraction", "0.3", "--set", "runtime.memory_budget=110000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_rows_held_on_the_device_give_the_model_of_rows_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlclf_command: Any, options: list[str]
) -> None:
    """The CPU stands for the device here. Rows are read for statistics and for the pool, never for an epoch."""
    for number in range(3):
        write(tmp_path / "data" / f"{number}.parquet", plain_table(300, seed=number), row_group_size=100)
    write(tmp_path / "valid.parquet", plain_table(200, seed=9))
    monkeypatch.chdir(tmp_path)
    lines, weights = fitted_by_command(mlclf_command, tmp_path, "read", *options)
    assert not [line for line in lines if "rows are" in line]
    monkeypatch.setattr("mlclf.fitting.preparation.fit_rows.room_on", lambda device: ROOMY)
    shuffled: list[bool] = []
    monkeypatch.setattr("mlclf.data.streaming.batch_stream.Epoch", counting(shuffled))
    lines, held = fitted_by_command(mlclf_command, tmp_path, "held", *options)
    assert held == weights
    assert [line for line in lines if "rows are" in line] == ["all rows are held on cpu, in 1 MiB"]
    assert shuffled
    assert not any(shuffled)


def counting(shuffled: list[bool]) -> type:
    class Counted(Epoch):
        def __init__(self, order: BatchOrder, *others: Any) -> None:
            shuffled.append(order.shuffle)
            super().__init__(order, *others)

    return Counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "room", "budget", "taken", "host"),
    [
        (0, 1000, "1GB", "1 MiB there, of 1 MiB that", "1 MiB here, of 239 MiB"),
        (0, ROOMY, "40000", "1 MiB there, of 1,024 MiB that", "1 MiB here, of 1 MiB"),
        (1000, 4_500_000, "1GB", "7 MiB there, of 5 MiB that", "1 MiB here, of 239 MiB"),
    ],
    ids=["no room there", "no room here", "no room to put the ids together"],
)
def test_rows_that_do_not_fit_are_copied_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlclf_command: Any, tokens: int, room: int, budget: str,
    taken: str, host: str,
) -> None:  # fmt: skip
    table = plain_table(900)
    if tokens:
        words = [[f"w{(n + k) % 50}" for k in range(tokens)] for n in range(900)]
        table = with_column(table, "words", words)
    write(tmp_path / "data" / "a.parquet", table, row_group_size=100)
    memory = ("--set", f"runtime.memory_budget={budget}")
    _, weights = fitted_by_command(mlclf_command, tmp_path, "read", *memory)
    monkeypatch.setattr("mlclf.fitting.preparation.fit_rows.room_on", lambda device: room)
    lines, again = fitted_by_command(mlclf_command, tmp_path, "again", *memory)
    assert again == weights
    assert [line for line in lines if "rows are" in line] == [
        f"rows are copied to cpu batch by batch: to hold them all takes {taken} may be used, and {host}"
    ]


@pytest.mark.slow
def test_a_fit_goes_on_from_a_checkpoint_of_either_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped inside an epoch whose rows were read, it goes on with rows that are held, and ends as it would have."""
    data = write(tmp_path / "data.parquet", plain_table(1000), row_group_size=100)
    options: dict[str, Any] = {
        "exclude": "id",
        "valid_fraction": 0.3,
        "settings": {"optimizer.name": "adam", "training.epochs": 3, "training.batch_rows": 8},
    }
    whole = mlclf.fit(data, "label_*", tmp_path / "whole", **options)
    monkeypatch.setattr("mlclf.fitting.mini_batch.CHECKPOINT_SECONDS", 0.0)
    original, saved = mini_batch.save_checkpoint, []

    def stopping(folder: Path, tensors: Any, state: dict[str, Any]) -> None:
        original(folder, tensors, state)
        saved.append(state["position"])
        if state["epoch"] == 1 and state["position"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(mini_batch, "save_checkpoint", stopping)
    with pytest.raises(KeyboardInterrupt):
        mlclf.fit(data, "label_*", tmp_path / "stopped", **options)
    assert saved[-1]["batch"] == 50
    monkeypatch.setattr(mini_batch, "save_checkpoint", original)
    monkeypatch.setattr("mlclf.fitting.preparation.fit_rows.room_on", lambda device: ROOMY)
    stopped = mlclf.fit(data, "label_*", tmp_path / "stopped", resume=True)
    for name in ("model.safetensors", "thresholds.json", "metrics.json"):
        assert (stopped.path / name).read_bytes() == (whole.path / name).read_bytes()
