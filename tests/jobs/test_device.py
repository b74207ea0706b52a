"""Mixed precision, and the same job on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_tables import plain_table, write

import mlclf

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def held_out_loss(folder: Path, name: str, **settings: object) -> float:
    data = write(folder / "data.parquet", plain_table(1000))
    steps = {"optimizer.name": "adam", "training.epochs": 5, "optimizer.l2": 1e-3}
    run = mlclf.fit(
        data, ["label_a", "label_b"], folder / name, exclude="id", valid_fraction=0.3, settings=steps | settings
    )
    assert run.metrics is not None
    return float(run.metrics["log_loss"])


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
