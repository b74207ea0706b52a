"""Evaluate by a column, with intervals, exactly, and refined where bins are too coarse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

import mlclf
from mlclf.errors import ConfigError


def made(path: Path, rows: int = 600, spread: float = 2.0) -> tuple[str, np.ndarray, np.ndarray, list[str | None]]:
    """A file of probabilities of two labels, with a group and a value that some rows lack."""
    random = np.random.default_rng(0)
    logits = random.normal(-1, spread, (rows, 2))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    labels = random.random(scores.shape) < scores
    places = [None if row % 10 == 0 else ("north", "south")[row % 2] for row in range(rows)]
    columns: dict[str, Any] = {"score_a": scores[:, 0], "score_b": scores[:, 1], "a": labels[:, 0], "b": labels[:, 1]}
    pq.write_table(pa.table(columns | {"place": places, "g": np.arange(rows) // 3}), path)
    return str(path), scores, labels, places


def test_every_value_of_a_column_is_a_data_set_of_its_own(tmp_path: Path, mlclf_command: Any) -> None:
    path, scores, labels, places = made(tmp_path / "s.parquet")
    called = mlclf_command(
        "evaluate", path, "--score-kind", "probability", "--by", "place", "--out", tmp_path / "m.json"
    )
    assert called.code == 0, called.err
    by = json.loads((tmp_path / "m.json").read_text())["by"]
    assert (by["column"], set(by["values"]), by["other"]) == ("place", {"north", "south"}, None)
    for name, document in [*by["values"].items(), (None, by["missing"])]:
        chosen = np.array([place == name for place in places])
        assert document["rows"] == chosen.sum()
        area = sk.roc_auc_score(labels[chosen, 0], scores[chosen, 0])
        bound = document["labels"]["a"]["error_bound"]["auroc"]
        assert abs(document["labels"]["a"]["auroc"] - area) <= bound + 1e-9
    assert "by place" in called.out
    assert "(missing)" in called.out


def test_exact_is_scikit_learns(tmp_path: Path) -> None:
    path, scores, labels, _ = made(tmp_path / "s.parquet", spread=0.01)
    report = mlclf.evaluate_scores(path, score_kind="probability", exact=True)
    for index, name in enumerate(("a", "b")):
        entry = report["labels"][name]
        assert entry["auroc"] == pytest.approx(sk.roc_auc_score(labels[:, index], scores[:, index]), abs=1e-12)
        wanted = sk.average_precision_score(labels[:, index], scores[:, index])
        assert entry["average_precision"] == pytest.approx(wanted, abs=1e-12)
        assert entry["error_bound"] == {"auroc": 0, "average_precision": 0}
    areas = [report["labels"][name]["auroc"] for name in ("a", "b")]
    assert report["macro"]["auroc"] == pytest.approx(np.mean(areas))


def test_exact_in_blocks_of_labels_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, *_ = made(tmp_path / "s.parquet")
    whole = mlclf.evaluate_scores(path, score_kind="probability", exact=True)
    monkeypatch.setattr("mlclf.jobs.evaluations.EXACT_BYTES", 1)
    assert mlclf.evaluate_scores(path, score_kind="probability", exact=True) == whole


@pytest.mark.parametrize("exact", [False, True])
def test_bins_that_are_too_coarse_are_refined(tmp_path: Path, exact: bool) -> None:
    """All logits within a few bins: the first pass alone would say next to nothing."""
    path, scores, labels, _ = made(tmp_path / "s.parquet", rows=5000, spread=0.002)
    report = mlclf.evaluate_scores(path, score_kind="probability", exact=exact)
    of_all = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}
    for name, score in of_all.items():
        bound = report["micro_error_bound"][name]
        assert bound <= 5e-5
        assert abs(report["micro"][name] - score(labels.ravel(), scores.ravel())) <= bound + 1e-9
    for index, name in enumerate(("a", "b")):
        entry = report["labels"][name]
        area = sk.roc_auc_score(labels[:, index], scores[:, index])
        assert entry["error_bound"]["auroc"] <= 5e-5
        assert abs(entry["auroc"] - area) <= entry["error_bound"]["auroc"] + 1e-9


def test_the_micro_average_of_weighted_and_hidden_cells_is_refined(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    scores = (1 / (1 + np.exp(-random.normal(-1, 0.002, (3000, 2))))).astype(np.float32)
    labels, weights = random.random(scores.shape) < scores, random.integers(0, 3, 3000).astype(float)
    hidden = random.random(scores.shape) < 0.2
    columns: dict[str, Any] = {"w": weights}
    for index, name in enumerate("ab"):
        columns |= {f"score_{name}": scores[:, index], name: pa.array(labels[:, index], mask=hidden[:, index])}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    report = mlclf.evaluate_scores(str(tmp_path / "s.parquet"), score_kind="probability", weight="w")
    mass = np.where(hidden, 0, weights[:, None]).ravel()
    area = sk.roc_auc_score(labels.ravel()[mass > 0], scores.ravel()[mass > 0], sample_weight=mass[mass > 0])
    assert report["micro_error_bound"]["auroc"] <= 5e-5
    assert abs(report["micro"]["auroc"] - area) <= report["micro_error_bound"]["auroc"] + 1e-9


def test_intervals_hold_the_values_and_are_wider_for_clusters(tmp_path: Path, mlclf_command: Any) -> None:
    path, *_ = made(tmp_path / "s.parquet")
    called = mlclf_command("evaluate", path, "--score-kind", "probability", "--bootstrap", 100)
    assert called.code == 0, called.err
    assert "95% of replicates, macro: auroc" in called.out
    report = mlclf.evaluate_scores(path, score_kind="probability", bootstrap=100)
    for average in ("macro", "micro"):
        low, high = report["intervals"][average]["f1"]
        assert low < report[average]["f1"] < high


def test_a_run_is_evaluated_in_the_same_ways(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=400)
    table = pa.table({"x": x, "label_a": random.random(400) < 1 / (1 + np.exp(-x)), "place": ["n", "s"] * 200})
    pq.write_table(table, tmp_path / "d.parquet")
    run = mlclf.fit(str(tmp_path / "d.parquet"), "label_*", tmp_path / "run", exclude="place")
    report = run.evaluate(str(tmp_path / "d.parquet"), by="place", bootstrap=50, exact=True)
    assert {name: document["rows"] for name, document in report["by"]["values"].items()} == {"n": 200, "s": 200}
    assert report["intervals"]["micro"]["f1"][0] < report["micro"]["f1"]
    assert report["labels"]["label_a"]["error_bound"]["auroc"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "nope"}, "--by: column 'nope' is not in"),
        ({"bootstrap": -1}, "--bootstrap must be 0, or 40 replicates and more (200 is usual), got -1"),
        ({"bootstrap": 39}, "--bootstrap must be 0, or 40 replicates and more (200 is usual), got 39"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path, *_ = made(tmp_path / "s.parquet")
    with pytest.raises(ConfigError) as caught:
        mlclf.evaluate_scores(path, score_kind="probability", **options)
    assert message in str(caught.value)
