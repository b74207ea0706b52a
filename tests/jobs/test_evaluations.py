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
    monkeypatch.setattr("mlclf.jobs.evaluate.EXACT_BYTES", 1)
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


def hard_scores(kind: str, random: np.random.Generator, rows: int) -> tuple[np.ndarray, str]:
    """Scores that float32, clipping or bins of the logit would tie, and what they are."""
    z, mixed = random.normal(size=rows), 10.0 ** random.uniform(0, 300, rows) * random.choice([-1, 1], rows)
    made = {
        "probabilities of 1e-12 to 1e-8": (10.0 ** (z - 10), "probability"),
        "the same in float32": (np.float32(10.0 ** (z - 10)), "probability"),
        "probabilities near 1": (1 - 10.0 ** (z - 11), "probability"),
        "subnormal probabilities": (np.float32(2.0 ** (4 * z - 140)), "probability"),
        "neighbours in float32": (0.25 + np.float32(2**-24) * np.round(3 * z), "probability"),
        "probabilities of 0 and 1": (np.where(np.abs(z) > 1, z > 0, 10.0 ** (5 * z - 20)), "probability"),
        "a saturated network": (np.float32(1 / (1 + np.exp(-30 * z))), "probability"),
        "few values in float64": (np.round(1 / (1 + np.exp(-z)), 1), "probability"),
        "logits that differ in the 12th digit": (3 + 1e-11 * np.round(4 * z), "logit"),
        "logits that differ in the last digit": (1 + 2.0**-52 * np.round(4 * z), "logit"),
        "logits of 1e3": (1e3 * z, "logit"),
        "float32 logits beyond 1e4": (np.float32(2e4 * z), "logit"),
        "logits of many scales": (mixed, "logit"),
        "infinite logits": (np.where(np.abs(z) > 1.5, np.sign(z) * np.inf, z), "logit"),
        "whole numbers": (np.int64(2**40 + np.round(5 * z)), "logit"),
    }
    return made[kind]


HARD = [
    "probabilities of 1e-12 to 1e-8",
    "the same in float32",
    "probabilities near 1",
    "subnormal probabilities",
    "neighbours in float32",
    "probabilities of 0 and 1",
    "a saturated network",
    "few values in float64",
    "logits that differ in the 12th digit",
    "logits that differ in the last digit",
    "logits of 1e3",
    "float32 logits beyond 1e4",
    "logits of many scales",
    "infinite logits",
    "whole numbers",
]


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("rate", [0.3, 0.005])
@pytest.mark.parametrize("kind", HARD)
def test_scores_are_ranked_as_they_are(tmp_path: Path, kind: str, rate: float, exact: bool) -> None:
    """The values of scikit-learn lie within the stated error, for frequent and rare labels, and of all cells too."""
    random = np.random.default_rng(3)
    rows, table, columns = 3000, {}, []
    for name in "ab":
        scores, score_kind = hard_scores(kind, random, rows)
        order = np.argsort(np.argsort(scores, kind="stable")) / rows
        truth = random.random(rows) < rate * 2 * order
        columns.append((scores, truth))
        table |= {f"score_{name}": scores, name: truth}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    report = mlclf.evaluate_scores(str(tmp_path / "s.parquet"), score_kind=score_kind, exact=exact)
    cells = [np.concatenate(part) for part in zip(*columns, strict=True)]
    judged = [(report["labels"][name], report["labels"][name]["error_bound"]) for name in "ab"]
    judged.append((report["micro"], report["micro_error_bound"]))
    for (scores, truth), (found, bound) in zip([*columns, cells], judged, strict=True):
        ranks = np.unique(scores, return_inverse=True)[1]  # scikit-learn refuses infinite scores
        for name, oracle in (("auroc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
            assert bound[name] <= 5e-5
            assert abs(found[name] - oracle(truth, ranks)) <= bound[name] + 1e-12


def test_values_of_a_column_are_ranked_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    scores, places = 10.0 ** random.normal(-10, 1, 2000), np.arange(2000) % 2
    truth = random.random(2000) < 0.3
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"score_a": scores, "a": truth, "place": places}), path)
    by = mlclf.evaluate_scores(str(path), score_kind="probability", by="place")["by"]["values"]
    for value in (0, 1):
        entry, chosen = by[str(value)]["labels"]["a"], places == value
        wanted = sk.roc_auc_score(truth[chosen], scores[chosen])
        assert abs(entry["auroc"] - wanted) <= entry["error_bound"]["auroc"] + 1e-12
        assert entry["error_bound"]["auroc"] < 0.01


def test_the_log_loss_of_logits_is_not_clipped(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    logits = np.float32(random.normal(0, 20_000, 2000))
    truth = random.random(2000) < 0.5
    pq.write_table(pa.table({"score_a": logits, "a": truth}), tmp_path / "s.parquet")
    found = mlclf.evaluate_scores(str(tmp_path / "s.parquet"), score_kind="logit")["labels"]["a"]["log_loss"]
    assert found == pytest.approx(np.logaddexp(0, np.where(truth, -logits, logits).astype(float)).mean(), rel=1e-6)


def test_losses_and_recalibration_of_probabilities_are_clipped_as_before(tmp_path: Path) -> None:
    """A probability of 0 has no logit: at 1e-7 it counts for losses, slope and intercept alike."""
    random = np.random.default_rng(3)
    scores = np.where(random.random(2000) < 0.1, 0.0, random.random(2000))
    truth = random.random(2000) < np.clip(scores, 0.02, 1)
    files = [tmp_path / "whole.parquet", tmp_path / "clipped.parquet"]
    for path, column in zip(files, (scores, np.clip(scores, 1e-7, 1 - 1e-7)), strict=True):
        pq.write_table(pa.table({"score_a": column, "a": truth}), path)
    found, wanted = (mlclf.evaluate_scores(str(path), score_kind="probability")["labels"]["a"] for path in files)
    assert found["log_loss"] == pytest.approx(wanted["log_loss"], rel=1e-6)
    for name in ("slope", "intercept"):
        assert found["calibration"][name] == pytest.approx(wanted["calibration"][name], rel=1e-3)


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


@pytest.mark.slow
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
        ({"bootstrap": -1}, "--bootstrap must be 0, or 40 to 10,000 replicates (200 is usual), got -1"),
        ({"bootstrap": 39}, "--bootstrap must be 0, or 40 to 10,000 replicates (200 is usual), got 39"),
        ({"bootstrap": 10**30}, "--bootstrap must be 0, or 40 to 10,000 replicates (200 is usual), got 10000000000"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path, *_ = made(tmp_path / "s.parquet")
    with pytest.raises(ConfigError) as caught:
        mlclf.evaluate_scores(path, score_kind="probability", **options)
    assert message in str(caught.value)
