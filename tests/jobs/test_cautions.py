"""What a fit says of settings that change nothing, and of a memory budget that changes the model."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_tables import lines_of, plain_table, write

import mlclf


def said_by(caplog: pytest.LogCaptureFixture, data: str, out: Path, **settings: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="mlclf"):
        mlclf.fit(data, "label_*", out, settings={name.replace("__", "."): value for name, value in settings.items()})
    return [record.getMessage() for record in caplog.records]


def wide_table(rows: int = 6000) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 20)).astype(np.float32)
    y = random.random(rows) < 1 / (1 + np.exp(-x[:, 0]))
    return pa.table({f"x{index}": x[:, index] for index in range(20)} | {"label_y": y.astype(np.int8)})


@pytest.mark.slow
def test_settings_that_a_solver_does_not_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d.parquet", plain_table())
    said = said_by(
        caplog, data, tmp_path / "exact", training__precision="bf16", optimizer__name="lbfgs", training__epochs=3,
        training__shuffle=False, optimizer__l2=0.1, search__c_low=0.001,
    )  # fmt: skip
    why = "lbfgs solves on all rows at once, in float64, until nothing is left to gain"
    hint = "choose adam, adamw, adagrad or sgd to use it"
    for setting in ("training.precision=bf16", "training.epochs=3", "training.shuffle=false"):
        assert f"{setting} is not used: {why}; {hint}" in said
    assert "search.c_low=0.001 is not used: optimizer.l2 is given, so no l2 is searched" in said
    plain = said_by(caplog, data, tmp_path / "plain")
    stepwise = said_by(caplog, data, tmp_path / "stepwise", training__precision="bf16", training__epochs=1)
    assert not [line for line in (*plain, *stepwise) if "not used" in line]


@pytest.mark.slow
def test_a_budget_that_changes_the_model_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d.parquet", wide_table(), row_group_size=500)
    hint = "--set runtime.memory_budget=12MiB would lead to another model"
    streamed = "rows are streamed, by adam in place of lbfgs and without knots in numeric columns, because of"
    said = said_by(caplog, data, tmp_path / "a", runtime__memory_budget="1MiB")
    assert [line for line in said if "rows are" in line] == [f"{streamed} runtime.memory_budget (1 MiB); {hint}"]
    held = "rows are held in memory, without knots in numeric columns, because of"
    said = said_by(caplog, data, tmp_path / "b", runtime__memory_budget="6MiB")
    assert [line for line in said if "rows are" in line] == [f"{held} runtime.memory_budget (6 MiB); {hint}"]
    for name, settings in (("c", {"runtime__memory_budget": "12MiB"}), ("d", {"runtime__memory_budget": "1MiB"})):
        more: dict[str, Any] = {} if name == "c" else {"training__epochs": 1}
        assert not [line for line in said_by(caplog, data, tmp_path / name, **settings, **more) if "rows are" in line]


@pytest.mark.slow
def test_the_search_says_a_line_a_decade_and_logs_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d.parquet", plain_table())
    said = [line for line in said_by(caplog, data, tmp_path / "run", features__knots="none") if line.startswith("l2 ")]
    tried = [line for line in lines_of(tmp_path / "run" / "log.jsonl") if line["train_loss"] is None]
    decades = [math.floor(math.log10(float(line.split(",")[0].split()[1]))) for line in said[:-1]]
    assert len(set(decades)) == len(decades)
    assert len(tried) > len(said) - 1
