"""Columns that folders give mean the same in one folder alone, with its neighbours, and in the files of others."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf import ParquetLoader
from mlclf.data.convert.shuffling import shuffle
from mlclf.data.convert.splitting import split
from mlclf.errors import DataError
from mlclf.jobs.fit import fit
from mlclf.jobs.run import Run

SETTINGS = {"optimizer.l2": 0.001, "training.seed": 1}
SHARES = (0.9, 0.1, 0.5)


def written(root: Path, folders: list[str], rows: int = 150) -> Path:
    random = np.random.default_rng(0)
    for folder, share in zip(folders, SHARES, strict=False):
        (root / folder).mkdir(parents=True)
        y = random.random(rows) < share
        pq.write_table(pa.table({"x": random.normal(size=rows), "y": y}), root / folder / "a.parquet")
    return root


def fitted(data: Path, out: Path, **roles: str) -> Run:
    return fit(data, "y", out, valid_fraction=0.2, settings=SETTINGS | {"features.roles": roles})


def scores_of(run: Run, data: Path, out: Path) -> np.ndarray:
    run.predict(data, out)
    files = sorted(out.rglob("*.parquet"))
    return np.concatenate([pq.ParquetFile(file).read()["score_y"].to_numpy() for file in files])


@pytest.mark.slow
@pytest.mark.parametrize(
    "folders",
    [
        ["store=007", "store=012", "store=A12"],
        ["store=7", "store=12", "store=A12"],
        ["store=7", "store=12", "store=13"],
        ["store=2024-01-31", "store=2024-02-01", "store=2024-02-02"],
        ["store=2024-01-31", "store=2024-02-01", "store=unknown"],
        ["store=7", "store=__HIVE_DEFAULT_PARTITION__", "store=8"],
    ],
)
@pytest.mark.parametrize("role", ["categorical", None])
def test_a_folder_alone_scores_as_with_its_neighbours(tmp_path: Path, folders: list[str], role: str | None) -> None:
    data = written(tmp_path / "data", folders)
    run = fitted(data, tmp_path / "run", **({} if role is None else {"store": role}))
    whole = scores_of(run, data, tmp_path / "all")
    names = sorted(folders)
    for index, name in enumerate(names):
        alone = scores_of(Run.open(tmp_path / "run"), data / name, tmp_path / f"one{index}")
        np.testing.assert_array_equal(alone, whole[index * 150 : (index + 1) * 150])
    gaps = [whole[i * 150 : (i + 1) * 150].mean() for i in range(3)]
    assert max(gaps) - min(gaps) > 0.1  # the folders say something


def test_a_folder_is_as_the_column_of_a_file(tmp_path: Path) -> None:
    data = written(tmp_path / "data", ["day=2024-01-31", "day=2024-02-01", "day=2024-02-02"])
    run = fitted(data, tmp_path / "run", day="categorical")
    one = pq.ParquetFile(data / "day=2024-02-01" / "a.parquet").read()
    moments = pa.array(["2024-02-01"] * len(one)).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    pq.write_table(one.append_column("day", moments), tmp_path / "flat.parquet")
    folder = scores_of(run, data / "day=2024-02-01", tmp_path / "folder")
    np.testing.assert_array_equal(scores_of(run, tmp_path / "flat.parquet", tmp_path / "flat"), folder)


def test_the_latest_folders_are_held_out(tmp_path: Path) -> None:
    data = written(tmp_path / "data", ["day=2024-01-31", "day=2024-02-01", "day=2024-02-02"])
    run = fit(data, "y", tmp_path / "run", valid_by="time:day", settings=SETTINGS)
    assert run.metrics is not None
    assert 50 < run.metrics["rows"] < 100  # about half of the 150, the others chose the stopping point


@pytest.mark.slow
def test_a_new_folder_is_another_level_or_refused_as_a_number(tmp_path: Path) -> None:
    data = written(tmp_path / "data", ["store=7", "store=12", "store=13"])
    new = written(tmp_path / "new", ["store=007", "store=7"])
    run = fitted(data, tmp_path / "levels", store="categorical")
    both = scores_of(run, new, tmp_path / "both")
    alone = scores_of(run, new / "store=007", tmp_path / "alone")
    np.testing.assert_array_equal(alone, both[:150])
    np.testing.assert_array_equal(scores_of(run, new / "store=7", tmp_path / "seven"), both[150:])
    message = f"{new}/store=007/a.parquet: column 'store' must be numeric, got string"
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        scores_of(fitted(data, tmp_path / "numbers"), new / "store=007", tmp_path / "refused")


def test_validation_and_loaders_read_folders_as_training_did(tmp_path: Path) -> None:
    data = written(tmp_path / "data", ["store=007", "store=12", "store=A12"])
    fit(data, "y", tmp_path / "run", valid=data / "store=12", settings=SETTINGS)
    train = ParquetLoader(data, "y", shuffle=False)
    alone = ParquetLoader(data / "store=12", features=train.features, shuffle=False)
    known = {
        int(i) for batch in ParquetLoader(data, features=train.features, shuffle=False) for i in batch.ids[150:300]
    }
    assert {int(i) for batch in alone for i in batch.ids} == known


@pytest.mark.parametrize("codes", [["01001", "02013"], ["2024-01-31", "2024-02-01"], ["7", "12"]])
def test_values_of_folders_are_written_as_they_are(tmp_path: Path, codes: list[str]) -> None:
    data = written(tmp_path / "data", [f"county={code}" for code in codes])
    shuffle(str(data), tmp_path / "shuffled")
    split(str(data), tmp_path / "split", [0.5, 0.5])
    for out in ("shuffled", "split"):
        found = [pq.ParquetFile(file).read()["county"] for file in (tmp_path / out).rglob("*.parquet")]
        assert {str(value) for column in found for value in column.to_pylist()} == set(codes)
