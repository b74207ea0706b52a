"""What the command line says on stderr is logged in Python: what warns as a warning, the rest as information."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest
from made_tables import plain_table, with_column, write

import mlclf


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
