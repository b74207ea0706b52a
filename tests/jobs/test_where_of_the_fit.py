"""The condition of a fit keeps the same rows of labelled data later on; predict scores every row and says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from made_tables import plain_table, write

import mlclf
from mlclf.errors import ConfigError, DataError

CONDITION = "a > 0 AND city <> 'lima'"


class Made(NamedTuple):
    run: mlclf.Run
    all_rows: str
    kept_rows: str
    num_kept: int


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("where")
    train = write(folder / "train.parquet", plain_table(600))
    settings = {"data.where": CONDITION, "optimizer.l2": 0.01}
    run = mlclf.fit(train, "label_*", folder / "run", key="id", settings=settings)
    table = plain_table(500, seed=1)
    kept = table.filter(pc.and_(pc.greater(table["a"], 0), pc.not_equal(table["city"], "lima")))
    rows, some = (
        write(folder / f"{name}.parquet", part, row_group_size=70) for name, part in (("a", table), ("k", kept))
    )
    return Made(run, rows, some, kept.num_rows)


def said_by(caplog: pytest.LogCaptureFixture, job: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="mlclf"):
        job()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.slow
def test_evaluate_and_calibrate_take_the_rows_of_the_fit(made: Made, tmp_path: Path, caplog: Any) -> None:
    assert 0 < made.num_kept < 500
    of_all, of_kept = made.run.evaluate(made.all_rows), made.run.evaluate(made.kept_rows)
    assert of_all["rows"] == made.num_kept
    assert of_all == of_kept
    boot = [made.run.evaluate(data, bootstrap=40, by="city") for data in (made.all_rows, made.kept_rows)]
    assert boot[0] == boot[1]
    tuned = [made.run.calibrate(data, "recall:0.5", tmp_path / "t.json") for data in (made.all_rows, made.kept_rows)]
    assert tuned[0] == tuned[1]
    said = said_by(caplog, lambda: made.run.evaluate(made.all_rows))
    assert f"data.where of the fit keeps {made.num_kept} of 500 rows: {CONDITION}" in said


def test_predict_scores_every_row_and_says_so(made: Made, tmp_path: Path, caplog: Any) -> None:
    said = said_by(caplog, lambda: made.run.predict(made.all_rows, tmp_path / "out"))
    assert pq.read_metadata(tmp_path / "out" / "a.parquet").num_rows == 500
    assert f"every row is scored: data.where of the fit is not applied ({CONDITION})" in said


def test_data_in_which_nothing_is_kept(made: Made, tmp_path: Path) -> None:
    table = pq.read_table(made.all_rows)
    none = write(tmp_path / "n.parquet", table.filter(pc.less(table["a"], 0)))
    message = (
        rf"data\.where of the fit must keep some rows, and keeps none of \d+ here: {CONDITION}; give data of the kind"
    )
    with pytest.raises(DataError, match=message):
        made.run.evaluate(none)
    with pytest.raises(ConfigError, match="'city'"):
        made.run.evaluate(write(tmp_path / "c.parquet", table.set_column(4, "city", pa.array(range(500)))))
