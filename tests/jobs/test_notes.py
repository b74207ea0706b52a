"""What the command line says on stderr is logged in Python: what warns as a warning, the rest as information."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_tables import plain_table, with_column, write

import mlclf


@pytest.mark.slow
def test_python_says_what_the_command_line_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "data.parquet", plain_table())
    other = write(tmp_path / "other.parquet", with_column(plain_table(), "city", pa.array(["paris"] * 400)))
    with caplog.at_level(logging.INFO, logger="mlclf"):
        run = mlclf.fit(data, "label_*", tmp_path / "run", key="id", settings={"optimizer.l2": 0.1})
        run.evaluate(other)
        run.calibrate(data, "precision:0.9", out=tmp_path / "t.json")
    said = {record.getMessage(): record.levelno for record in caplog.records if record.name == "mlclf"}
    assert said["column 'city': 400 values are not in the vocabulary ('other')"] == logging.WARNING
    trained = "these rows were trained on: thresholds tuned on them promise too much; use rows held out"
    assert said[f"{trained}; no confidence is claimed"] == logging.WARNING
    assert said[f"run written to {tmp_path / 'run'}"] == logging.INFO


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("split", [{"folds": 2}, {"valid_fraction": 0.3}, {"valid": "valid"}])
def test_a_fit_counts_rows_and_not_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: str, split: dict[str, Any]
) -> None:
    table = plain_table(2000)
    city = [f"city{row % 50}" if row < 1900 else f"rare{row}" for row in range(2000)]
    data = write(tmp_path / "data.parquet", with_column(table, "city", city), row_group_size=100)
    unseen = 100
    if "valid" in split:
        split = {"valid": write(tmp_path / "valid.parquet", with_column(plain_table(300), "city", ["new"] * 300))}
        unseen += 300
    settings = {
        "features.vocabulary_levels": 50, "runtime.memory_budget": "128KiB", "runtime.cache": cache,
        "training.epochs": 3, "training.batch_rows": 256, "optimizer.l2": 0.1,
    }  # fmt: skip
    with caplog.at_level(logging.INFO, logger="mlclf"):
        mlclf.fit(data, "label_*", tmp_path / "run", key="id", settings=settings, **split)
    said = [record.getMessage() for record in caplog.records]
    assert any("streamed" in line for line in said)
    assert f"column 'city': {unseen} values are not in the vocabulary ('other')" in said
