"""Runs that earlier releases wrote open, and score as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.jobs.run import Run

FORMAT_1 = Path(__file__).parents[1] / "format_1"
"""A run with levels of every type and of folders, its data, and the scores that the release of that day gave."""


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.rglob("*.parquet")))


def test_a_run_of_the_first_format_scores_as_it_did(tmp_path: Path) -> None:
    run = Run.open(FORMAT_1 / "run")
    names = run.features.vocabulary_names()
    assert {"flag=true", "day=2024-01-02", "size=0.1", "long=1", "store=7"} <= set(names)
    run.predict(FORMAT_1 / "data", tmp_path / "all")
    assert rows_of(tmp_path / "all").equals(rows_of(FORMAT_1 / "scores"))


@pytest.mark.parametrize("store", ["007", "12"])
def test_a_folder_alone_has_the_scores_that_it_had(tmp_path: Path, store: str) -> None:
    Run.open(FORMAT_1 / "run").predict(FORMAT_1 / "data" / f"store={store}", tmp_path / "one")
    expected = pq.ParquetFile(FORMAT_1 / "scores" / f"store={store}" / "rows.parquet").read()
    assert rows_of(tmp_path / "one").equals(expected)


def test_features_of_the_first_format_stay_of_it(tmp_path: Path) -> None:
    before = json.loads((FORMAT_1 / "run" / "features.json").read_text())
    run = Run.open(FORMAT_1 / "run")
    document = run.features.to_json()
    assert {name: document[name] for name in ("dense", "vocabulary")} == {
        name: before[name] for name in ("dense", "vocabulary")
    }
    run.features = FeatureEncoder.from_json(json.loads(json.dumps(document)), run.features.arrays())
    assert run.features.to_json() == document
    run.predict(FORMAT_1 / "data", tmp_path / "again")
    assert rows_of(tmp_path / "again").equals(rows_of(FORMAT_1 / "scores"))
