"""Fits whose numeric columns may bend: kept where held-out rows gain by it, and left out where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_tables import document, lines_of, plain_table, with_column, write

import mlclf
from mlclf.fitting import knots


def valley(rows: int, seed: int = 0) -> pa.Table:
    """Positive far from the middle of `x`, whatever the string; some of `x` is missing."""
    rng = np.random.default_rng(seed)
    x, place = rng.normal(size=rows), rng.choice(["rome", "oslo"], rows)
    chance = 1 / (1 + np.exp(-(4 * np.abs(x) - 3 + (place == "rome"))))
    label = pa.array((rng.random(rows) < chance).astype(np.int8))
    return pa.table({"x": pa.array(x, mask=rng.random(rows) < 0.1), "place": place, "label": label})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("data") / "train.parquet", valley(1_500), row_group_size=400)


@pytest.fixture(scope="module")
def bent(data: str, tmp_path_factory: pytest.TempPathFactory) -> mlclf.Run:
    return mlclf.fit(data, "label", tmp_path_factory.mktemp("runs") / "bent")


def dense_names(run: mlclf.Run) -> list[str]:
    names: list[str] = document(run.path / "features.json")["dense"]
    return names


@pytest.mark.slow
def test_a_valley_is_followed(bent: mlclf.Run, data: str, tmp_path: Path) -> None:
    names = dense_names(bent)
    assert names[:2] == ["x", "x:missing"]
    assert len(names) == 7
    assert all(name.startswith("x above ") for name in names[2:])
    test = write(tmp_path / "test.parquet", valley(1_500, seed=1))
    straight = mlclf.fit(data, "label", tmp_path / "straight", settings={"features.knots": "none"})
    assert dense_names(straight) == ["x", "x:missing"]
    found, before = (run.evaluate(test)["labels"]["label"] for run in (bent, straight))
    assert found["auroc"] > before["auroc"] + 0.2
    assert found["log_loss"] < 0.8 * before["log_loss"]


def test_the_log_is_that_of_the_model_kept(bent: mlclf.Run) -> None:
    lines = lines_of(bent.path / "log.jsonl")
    assert [line["epoch"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["valid_loss"] < 0.55
    assert lines[-1]["train_loss"] < 0.55


def test_scores_of_files_are_those_of_the_weights(bent: mlclf.Run, tmp_path: Path) -> None:
    """x of a file, standardized by hand, above knots by hand, times the weights of the run."""
    table = valley(200, seed=2)
    bent.predict(write(tmp_path / "new.parquet", table), tmp_path / "scores")
    scores = pq.read_table(tmp_path / "scores")["score_label"].to_numpy()
    features, weights = bent.features, bent.scorer.model.linear.weight[0].detach().double().numpy()
    x = table["x"].to_numpy()
    mean, deviation = features.columns[0].scaling
    z = (x - mean) / deviation
    missing = np.isnan(z)
    z = np.nan_to_num(z, nan=0.0)
    splines = features.splines
    assert splines is not None
    above = [
        (np.maximum(z - at, 0) - mean) * scale
        for at, mean, scale in zip(splines.knots, splines.mean, splines.scale, strict=True)
    ]
    logits = np.stack([z, missing, *above], 1) @ weights + bent.scorer.model.linear.bias.item()
    embedding = bent.scorer.model.embedding
    assert embedding is not None
    levels = document(bent.path / "features.json")["vocabulary"]
    by_level = {level: embedding.weight[index, 0].item() for index, level in enumerate(levels)}
    logits += [
        next(value for level, value in by_level.items() if place in level) for place in table["place"].to_pylist()
    ]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.slow
def test_validation_data_can_judge_too(data: str, tmp_path: Path) -> None:
    valid = write(tmp_path / "valid.parquet", valley(800, seed=3))
    assert len(dense_names(mlclf.fit(data, "label", tmp_path / "run", valid=valid))) == 7


@pytest.mark.slow
def test_rows_of_weight_zero_place_no_knot(data: str, bent: mlclf.Run, tmp_path: Path) -> None:
    extra = pa.table({"x": np.full(900, 5.0), "place": ["rome"] * 900, "label": pa.array(np.ones(900, np.int8))})
    tables = [pq.read_table(data), extra]
    weighted = [with_column(table, "w", np.full(len(table), 1.0 - index)) for index, table in enumerate(tables)]
    run = mlclf.fit(write(tmp_path / "w.parquet", pa.concat_tables(weighted)), "label", tmp_path / "run", weight="w")
    assert run.features.splines is not None
    assert bent.features.splines is not None
    np.testing.assert_allclose(run.features.splines.knots, bent.features.splines.knots, atol=1e-4)


@pytest.mark.slow
def test_groups_are_not_taken_for_rows(tmp_path: Path) -> None:
    """Each group has a value of its own, so splines tell groups of the training folds apart, and no others."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(40), 40)
    x = np.repeat(rng.normal(size=40), 40)
    chance = 1 / (1 + np.exp(-x - 2 * np.repeat(rng.normal(size=40), 40)))
    label = pa.array((rng.random(1_600) < chance).astype(np.int8))
    data = write(tmp_path / "groups.parquet", pa.table({"x": x, "g": group, "label": label}))
    assert dense_names(mlclf.fit(data, "label", tmp_path / "run", group="g")) == ["x"]


def test_a_loader_of_the_run_has_its_inputs(bent: mlclf.Run, data: str) -> None:
    fitted = mlclf.FittedFeatures(bent.schema, bent.features, bent.label_names)
    loader = mlclf.ParquetLoader(data, features=fitted, batch_rows=400, shuffle=False)
    assert loader.features.num_dense == 7
    rows = torch.cat([batch.dense for batch in loader])
    weights = bent.scorer.model.linear.weight.shape
    assert weights == (1, rows.shape[1])
    splines = bent.features.splines
    assert splines is not None
    again = rows.numpy().copy()
    splines.fill(again)
    assert (again == rows.numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"settings": {"optimizer.l2": 0.01}},
        {"settings": {"features.standardize": False}},
        {"settings": {"model.hidden": [4], "training.epochs": 1}},
        {"valid_fraction": 0},
    ],
)
def test_knots_are_not_tried_where_the_model_is_fixed_or_nothing_judges(
    data: str, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    assert dense_names(mlclf.fit(data, "label", tmp_path / "run", **arguments)) == ["x", "x:missing"]


def test_knots_are_not_tried_where_they_would_not_fit(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knots, "KNOTS", 1 << 20)
    assert dense_names(mlclf.fit(data, "label", tmp_path / "run")) == ["x", "x:missing"]


@pytest.mark.slow
def test_lines_stay_lines(tmp_path: Path, mlclf_command: Any) -> None:
    data = write(tmp_path / "lines.parquet", plain_table(2_000))
    done = mlclf_command("fit", data, "--labels", "label_*", "--exclude", "id", "--out", tmp_path / "run")
    assert "15 knots in numeric columns" in done.err
    assert "left out" in done.err
    assert dense_names(mlclf.Run.open(tmp_path / "run")) == ["a", "b", "c"]


def test_columns_with_nowhere_to_bend(tmp_path: Path) -> None:
    table = with_column(plain_table(300).select(["city", "label_a"]), "flag", np.arange(300) % 2)
    run = mlclf.fit(write(tmp_path / "flags.parquet", table), "label_a", tmp_path / "run")
    assert dense_names(run) == ["flag"]
