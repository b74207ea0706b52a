"""Rows that repeat others are counted exactly, or by a sample in which copies stay together; and they are said."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.config.loading import load_run_file
from mlclf.data.passes.repeats import RepeatedRows
from mlclf.jobs.fit import fit_steps


def counted(table: pa.Table, cuts: int = 1, **options: Any) -> RepeatedRows:
    found = RepeatedRows(table.column_names, **options)
    edges = np.linspace(0, table.num_rows, cuts + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        found.add(table.slice(start, end - start))
    return found


def mixed_table(rows: int, seed: int = 0) -> pa.Table:
    """Inputs of many types, some of them missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return pa.table(
        {
            "x": pa.array(x, mask=rng.random(rows) < 0.1),
            "count": rng.integers(0, 3, rows),
            "flag": rng.random(rows) < 0.5,
            "text": [f"row {index}" if index % 3 else None for index in rng.integers(0, rows, rows)],
            "level": pa.array(rng.choice(["a", "b"], rows)).dictionary_encode(),
            "list": [[float(value)] * int(value * 3) for value in rng.random(rows)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * rows), pa.float32()), 4),
            "day": pa.array(rng.integers(0, 9, rows).astype(np.int32), pa.date32()),
        }
    )


@pytest.mark.parametrize("cuts", [1, 7])
def test_copies_are_counted_whatever_their_types(cuts: int) -> None:
    table = mixed_table(1000)
    places = np.random.default_rng(1).permutation(np.r_[np.arange(1000), np.arange(40), np.arange(20)])
    assert counted(table, cuts).share == 0
    # 20 rows are there three times, 20 twice.
    assert counted(table.take(pa.array(places)), cuts).share == pytest.approx(100 / 1060)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0.0, 1.0], [-0.0, 1.0]),
        ([None, 1.0], [np.nan, 1.0]),
        ([[1.0], [1.0, 2.0]], [[1.0], [1.0, 2.0]]),
    ],
)
def test_values_that_are_one_input_are_one(one: list[Any], other: list[Any]) -> None:
    table = pa.table({"x": [*one, *other]})
    assert counted(table).share == 1


def test_lists_differ_by_their_order_and_where_they_end() -> None:
    table = pa.table({"x": [[1.0, 2.0], [2.0, 1.0], [1.0], [2.0], [], [0.0], None]})
    assert counted(table).share == 0
    assert counted(pa.table({"x": ["a", "b"], "y": ["b", "a"]})).share == 0


def test_a_sample_keeps_copies_together_in_memory_of_one_size() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 2))
    x[20_000:24_000] = x[:4000]
    table = pa.table({"same": np.zeros(40_000), "x": x[:, 0], "y": x[:, 1]})
    found = counted(table.take(pa.array(rng.permutation(40_000))), 20, most=2000)
    assert found._num_kept <= 2000
    assert found.share == pytest.approx(0.2, abs=5 * np.sqrt(2 * 0.2 * 0.8 / 1000))
    assert found.warnings()[0].startswith("about ")


def test_data_of_one_row_again_and_again_ends() -> None:
    found = counted(pa.table({"x": np.zeros(1000)}), 10, most=100)
    assert found._num_kept <= 100


def notes_of(table: pa.Table, folder: Path, **arguments: object) -> list[str]:
    data = folder / "data.parquet"
    pq.write_table(table, data)
    given = {"train": data, "labels": "label_*", "out": folder / "run", "optimizer.l2": 1.0} | arguments
    steps = fit_steps(load_run_file(None, [f"{name}={value}" for name, value in given.items()]))
    return [step.note for step in steps if step.warns]


@pytest.mark.slow
def test_a_fit_says_how_many_rows_repeat_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(80), 5)
    x, y = rng.normal(size=(80, 2)), rng.random(80) < 0.4
    table = pa.table({"x": x[rows, 0], "y": x[rows, 1], "label_a": y[rows], "id": rows})
    said = (
        "400 of 400 rows (100.0%) repeat another row in all inputs, so held-out rows may be copies of rows trained on, "
        "and metrics then too good: if they belong together, name what they share with --group COLUMN"
    )
    for name, arguments, expected in (
        ("folds", {"exclude": "id"}, 1),
        ("fraction", {"exclude": "id", "valid_fraction": 0.2}, 1),
        ("none", {"exclude": "id", "valid_fraction": 0}, 0),
        ("group", {"group": "id"}, 0),
    ):
        (tmp_path / name).mkdir()
        assert notes_of(table, tmp_path / name, **arguments).count(said) == expected, name


def test_one_in_a_hundred_is_not_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    x[:2] = x[2:4]
    table = pa.table({"x": x, "label_a": rng.random(400) < 0.4})
    assert not [note for note in notes_of(table, tmp_path) if "repeat another" in note]


def clustered(rows: int, sites: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    site, own = rng.integers(0, sites, rows), rng.normal(size=(sites, 2))
    return pa.table({"own": own[site, 0], "a": rng.normal(size=rows), "too": own[site, 1], "level": site % 7})


def test_clusters_that_nobody_declared_are_said() -> None:
    found = counted(clustered(1000, 40), 3)
    assert found.shared_columns() == ["own", "too"]
    said = (
        "rows come in clusters of equal values of 'own', 'too', so held-out rows may be recognised by them, and "
        "metrics then too good: if they belong together, name what they share with --group COLUMN"
    )
    assert found.warnings() == [said]


def test_rounded_or_whole_numbers_are_no_clusters() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3))
    whole = rng.integers(0, 50, 2000).astype(float)
    table = pa.table({"a": x[:, 0].round(1), "b": x[:, 1].round(1), "c": x[:, 2], "whole": whole, "twice": 2 * whole})
    assert counted(table).warnings() == []


def test_one_column_that_repeats_is_no_cluster() -> None:
    assert counted(clustered(1000, 40).drop_columns(["too"])).shared_columns() == []
