"""A fit with hidden layers says so where it does not hold on the last rows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_tables import write
from sklearn.metrics import log_loss

import mlclf
from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.fitting.held_out_decisions import caution, log_loss_sums


def test_sums_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 2)), random.random((50, 2)) < 0.3
    weights, mask, prior = random.random(50), random.random((50, 2)) < 0.7, np.array([-1.0, 0.5])
    cells = Cells(
        torch.from_numpy(logits), torch.from_numpy(labels).byte(), row_identities(torch.arange(50)),
        torch.from_numpy(mask), torch.from_numpy(weights),
    )  # fmt: skip
    model, constant, mass = log_loss_sums([cells], lambda values: values + 1, torch.from_numpy(prior)).tolist()
    cell_weights = (mask * weights[:, None]).ravel()
    assert mass == pytest.approx(cell_weights.sum())
    for found, values in ((model, logits + 1), (constant, np.broadcast_to(prior, (50, 2)))):
        scores = 1 / (1 + np.exp(-values.ravel()))
        assert found == pytest.approx(mass * log_loss(labels.ravel(), scores, sample_weight=cell_weights))


def test_nothing_is_said_of_no_rows_or_of_a_good_model() -> None:
    assert caution(torch.zeros(3, dtype=torch.float64)) is None
    assert caution(torch.tensor([1.0, 2.0, 3.0])) is None


@pytest.mark.slow
@pytest.mark.parametrize("turns", [True, False])
def test_a_model_that_does_not_hold_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, turns: bool) -> None:
    random = np.random.default_rng(0)
    rows = 4000
    x, day = random.normal(size=rows), np.arange(rows)
    sign = np.where(turns & (day > 0.9 * rows), -1, 1)
    table = pa.table({"x": x, "day": day, "y": (random.random(rows) < 1 / (1 + np.exp(-4 * sign * x))).astype(np.int8)})
    data = write(tmp_path / "d.parquet", table)
    settings = {"model.hidden": [4], "training.epochs": 2, "optimizer.l2": 0.001}
    with caplog.at_level(logging.WARNING, logger="mlclf"):
        mlclf.fit(data, "y", tmp_path / "run", exclude="day", valid_by="time:day", settings=settings)
    said = [line for line in caplog.messages if "last tenth" in line]
    assert len(said) == turns
    assert all("--valid-by time:COLUMN" in line for line in said)
