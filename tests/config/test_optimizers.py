"""The table of optimizers: a new one is a class and a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from made_tables import document, plain_table, write

import mlclf
from mlclf.config.optimizers import OPTIMIZERS, Stepper


class RMSprop(Stepper):
    """One that the library has not."""

    def make(self, parameters: Sequence[torch.nn.Parameter], lr: float | None) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=self.rate if lr is None else lr)


@pytest.mark.slow
def test_a_new_optimizer_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data.parquet", plain_table(400))
    settings = {"optimizer.name": "rmsprop", "training.epochs": 3}
    with pytest.raises(mlclf.ConfigError, match=r"'adagrad' or 'sgd', got 'rmsprop'$"):
        mlclf.fit(data, "label_*", tmp_path / "run", settings=settings)
    monkeypatch.setitem(OPTIMIZERS, "rmsprop", RMSprop("rmsprop", 0.01))
    run = mlclf.fit(data, "label_*", tmp_path / "run", settings=settings)
    assert document(run.path / "manifest.json")["training"]["algorithm"] == "rmsprop"
    assert run.metrics is not None
    assert run.metrics["gain"] > 0
