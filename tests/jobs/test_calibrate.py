"""`calibrate`: thresholds for a run, and for the scores of any model, labels beside them or joined by a key."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_tables import document, plain_table, with_column, write

import mlclf
from mlclf import Run
from mlclf.errors import ConfigError, DataError
from mlclf.jobs.calibrate import CalibrateOptions
from mlclf.jobs.score_files import calibrate_scores

ROWS = 2000


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def scored_table(rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(0)
    truth = rng.random((rows, 2)) < [0.4, 0.1]
    logits = rng.normal(-1, 1, (rows, 2)) + 2 * truth
    scores = 1 / (1 + np.exp(-logits))
    return pa.table(
        {
            "id": np.arange(rows),
            "score_label_a": scores[:, 0],
            "score_label_b": scores[:, 1],
            "label_a": truth[:, 0],
            "label_b": truth[:, 1].astype(np.int8),
        }
    )


def best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    cuts = np.unique(scores)
    return max(2 * truth[scores >= cut].sum() / (truth.sum() + (scores >= cut).sum()) for cut in cuts)


def f1_at(scores: np.ndarray, truth: np.ndarray, cut: float) -> float:
    flagged = scores.astype(np.float32) >= np.float32(cut)
    return 2 * (flagged & truth).sum() / (truth.sum() + flagged.sum())


def calibrated(data: Any, out: Path, objective: str = "f1", **options: Any) -> dict[str, Any]:
    return calibrate_scores(data, objective, out, **options)


# ── of a run ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(fitted: Any, tmp_path: Path) -> Run:
    shutil.copytree(fitted.run, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.mark.slow
def test_calibrate_replaces_the_thresholds_of_the_run(fitted: Any, run: Run) -> None:
    written = run.calibrate(fitted.test, "recall:0.95")
    assert document(run.path / "thresholds.json") == written
    assert written["objective"] == "recall:0.95"
    for entry in written["labels"].values():
        assert entry["recall"] >= 0.95
        assert entry["status"] == "tuned"
    again = Run.open(run.path)
    for name, entry in again.evaluate(fitted.test)["labels"].items():
        assert entry["recall"] == pytest.approx(written["labels"][name]["recall"])
        assert entry["precision"] == pytest.approx(written["labels"][name]["precision"])
        assert entry["threshold"] == written["labels"][name]["threshold"]


def test_calibrate_to_a_file_leaves_the_run_alone(fitted: Any, run: Run, tmp_path: Path) -> None:
    before = (run.path / "thresholds.json").read_bytes()
    run.calibrate(fitted.test, "precision:0.8", tmp_path / "mine.json")
    assert (run.path / "thresholds.json").read_bytes() == before
    assert document(tmp_path / "mine.json")["objective"] == "precision:0.8"


@pytest.mark.slow
def test_calibrate_says_when_rows_were_trained_on(fitted: Any, run: Run, mlclf_command: Any) -> None:
    called = mlclf_command("calibrate", run.path, fitted.data)
    assert called.code == 0
    note = "these rows were trained on: thresholds tuned on them promise too much; use rows held out"
    assert note in called.err
    called = mlclf_command("calibrate", run.path, fitted.test)
    assert called.code == 0
    assert note not in called.err


@pytest.mark.slow
def test_no_confidence_is_claimed_on_rows_that_chose_in_the_fit(tmp_path: Path) -> None:
    """Not under another name either, nor beside rows that are new."""
    names = {seed: write(tmp_path / f"{seed}.parquet", plain_table(300, seed=seed)) for seed in range(3)}
    run = mlclf.fit(names[0], "label_*", tmp_path / "run", valid=names[1], key="id")
    copied = shutil.copy(names[1], tmp_path / "copy.parquet")
    note = (
        "these rows chose model and thresholds in the fit, as --valid: no confidence is claimed; for a claim give rows "
        "used for nothing"
    )
    for data, claimed in (([names[1]], None), ([copied], None), ([names[2], names[1]], None), ([names[2]], 0.95)):
        for objective in ("precision:0.8", "recall:0.8", "fpr:0.1", "f1"):
            steps = run.calibrate_steps(data, tmp_path / "t.json", CalibrateOptions(objective))
            notes = [step.note for step in steps if step.note]
            is_constraint = objective != "f1"
            assert document(tmp_path / "t.json")["confidence"] == (claimed if is_constraint else None)
            assert (note in notes) == (is_constraint and claimed is None)


def test_an_unknown_objective_is_refused(fitted: Any, run: Run) -> None:
    with pytest.raises(ConfigError, match="f1, fbeta:BETA"):
        run.calibrate(fitted.test, "accuracy")


# ── of score files ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["probability", "logit"])
def test_scores_with_labels_beside_them(tmp_path: Path, kind: str) -> None:
    table = scored_table()
    columns = {name: table[name].to_numpy() for name in ("score_label_a", "score_label_b")}
    if kind == "logit":
        for name, scores in columns.items():
            columns[name] = np.log(scores / (1 - scores))
            table = with_column(table, name, columns[name])
    data = write(tmp_path / "s.parquet", table, row_group_size=300)
    written = calibrated(data, tmp_path / "t.json", score_kind=kind)
    assert document(tmp_path / "t.json") == written
    assert list(written["labels"]) == ["label_a", "label_b"]
    for name, entry in written["labels"].items():
        scores, truth = columns[f"score_{name}"], table[name].to_numpy().astype(bool)
        reached = f1_at(scores, truth, entry["threshold"])
        assert reached == pytest.approx(entry["f1"])
        assert reached > best_f1(scores, truth) - 0.02


def test_labels_are_joined_by_key(tmp_path: Path) -> None:
    table = scored_table()
    path = write(tmp_path / "s.parquet", table)
    beside = calibrated(path, tmp_path / "one.json", score_kind="probability", key="id")
    order = pa.array(np.random.default_rng(1).permutation(ROWS))
    truth = write(tmp_path / "truth.parquet", table.select(["id", "label_a", "label_b"]).take(order))
    bare = write(tmp_path / "bare.parquet", table.select(["id", "score_label_a", "score_label_b"]))
    joined = calibrated(bare, tmp_path / "two.json", score_kind="probability", label_data=truth, key="id")
    assert joined == beside


def test_rows_without_labels_are_counted(tmp_path: Path, mlclf_command: Any) -> None:
    table = scored_table()
    truth = write(tmp_path / "truth.parquet", table.select(["id", "label_a"]).slice(0, 1500))
    bare = write(tmp_path / "bare.parquet", table.select(["id", "score_label_a"]))
    arguments = [bare, "--score-kind", "probability", "--label-data", truth, "--key", "id"]
    called = mlclf_command("calibrate", *arguments, "--out", tmp_path / "t.json")
    assert called.code == 0, called.err
    assert "500 rows of scores have no labels by 'id'; left out" in called.err
    assert document(tmp_path / "t.json")["labels"]["label_a"]["support"] == table["label_a"].to_numpy()[:1500].sum()


def test_no_row_in_common_is_an_error(tmp_path: Path) -> None:
    table = scored_table(50)
    truth = with_column(table.select(["id", "label_a"]), "id", np.arange(50) + 1000)
    bare = write(tmp_path / "bare.parquet", table.select(["id", "score_label_a"]))
    with pytest.raises(DataError, match=exactly("no row has both scores and labels; check --key and the files")):
        calibrated(
            bare,
            tmp_path / "t.json",
            score_kind="probability",
            label_data=write(tmp_path / "truth.parquet", truth),
            key="id",
        )
    assert not (tmp_path / "t.json").exists()


def test_the_files_of_predict_say_their_kind(fitted: Any, tmp_path: Path) -> None:
    run = Run.open(fitted.run)
    run.predict(fitted.test, tmp_path / "scores")
    written = calibrated(str(tmp_path / "scores"), tmp_path / "t.json", label_data=fitted.test, key="id")
    own = run.calibrate(fitted.test, "f1", tmp_path / "own.json")
    for name, entry in written["labels"].items():
        assert entry["support"] == own["labels"][name]["support"]
        low, high = own["labels"][name]["interval"]
        assert low - 1e-6 <= entry["threshold"] <= high + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--score-kind must be 'probability' or 'logit': the files do not say it"),
        ({"score_kind": "odds"}, "--score-kind must be 'probability' or 'logit': got 'odds'"),
        (
            {"score_kind": "logit", "labels": "nope_*"},
            (
                "--labels: no column of FILE matches 'nope_*', found 'id', 'score_label_a', 'score_label_b', "
                "'label_a', 'label_b'"
            ),
        ),
        (
            {"score_kind": "logit", "weight": "w"},
            "--weight: column 'w' is not in FILE; check --key, --weight and --group",
        ),
        (
            {"score_kind": "logit", "label_data": "FILE"},
            "--label-data needs --key, the column that joins scores and labels",
        ),
    ],
)
def test_what_calibrate_refuses_of_score_files(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    data = write(tmp_path / "s.parquet", scored_table(20))
    given = {name: data if value == "FILE" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=exactly(message.replace("FILE", data))):
        calibrated(data, tmp_path / "t.json", **given)
    assert not (tmp_path / "t.json").exists()


def test_scores_outside_a_probability_are_refused(tmp_path: Path) -> None:
    table = with_column(scored_table(20), "score_label_a", np.linspace(-1, 0.9, 20))
    data = write(tmp_path / "s.parquet", table)
    message = (
        f"{data} row group 0 column 'score_label_a': probabilities must be in [0, 1], found -1.0; "
        "if these are logits, say --score-kind logit"
    )
    with pytest.raises(DataError, match=exactly(message)):
        calibrated(data, tmp_path / "t.json", score_kind="probability")


def test_missing_scores_are_refused(tmp_path: Path) -> None:
    table = with_column(scored_table(20), "score_label_a", pa.array([None, float("nan"), *[0.5] * 18]))
    data = write(tmp_path / "s.parquet", table)
    message = (
        f"{data} row group 0 column 'score_label_a': scores must be numbers, found 2 null or NaN; "
        "drop these rows or score them again"
    )
    for kind in ("probability", "logit"):
        with pytest.raises(DataError, match=exactly(message)):
            calibrated(data, tmp_path / "t.json", score_kind=kind)


def test_a_repeated_key_of_labels_is_refused(tmp_path: Path) -> None:
    table = scored_table(20)
    ids = np.arange(20)
    ids[4] = 3
    truth = write(tmp_path / "truth.parquet", with_column(table.select(["label_a"]), "id", ids))
    bare = write(tmp_path / "bare.parquet", table.select(["id", "score_label_a"]))
    message = "--label-data: key 'id' must be distinct, found 3 more than once"
    with pytest.raises(DataError, match=exactly(message)):
        calibrated(bare, tmp_path / "t.json", score_kind="probability", label_data=truth, key="id")


def test_score_files_need_a_file_for_the_thresholds(tmp_path: Path) -> None:
    data = write(tmp_path / "s.parquet", scored_table(20))
    message = "calibrating score files needs --out, the file for the thresholds"
    with pytest.raises(ConfigError, match=exactly(message)):
        calibrated(data, None)  # type: ignore[arg-type]  # what the command line gives without --out


def test_extreme_probabilities_and_infinite_logits_count(tmp_path: Path) -> None:
    truth = np.arange(100) < 30
    scores = np.where(truth, 1.0, 0.0)
    table = pa.table({"score_label": scores, "label": truth})
    written = calibrated(
        write(tmp_path / "p.parquet", table), tmp_path / "t.json", score_kind="probability", labels="label"
    )
    assert written["labels"]["label"]["f1"] == 1.0
    assert 0 < written["labels"]["label"]["threshold"] <= 1
    infinite = with_column(table, "score_label", np.where(truth, np.inf, -np.inf))
    written = calibrated(
        write(tmp_path / "l.parquet", infinite), tmp_path / "t.json", score_kind="logit", labels="label"
    )
    assert written["labels"]["label"]["f1"] == 1.0


def test_masked_labels_and_weights_of_score_files(tmp_path: Path) -> None:
    table = scored_table()
    hidden = np.arange(ROWS) % 2 == 0
    masked = with_column(table, "label_a", pa.array(table["label_a"].to_numpy(), mask=hidden))
    weighted = with_column(masked, "w", np.where(np.arange(ROWS) < 1000, 0.0, 2.0))
    data = write(tmp_path / "s.parquet", weighted)
    written = calibrated(data, tmp_path / "t.json", score_kind="probability", weight="w")
    kept = ~hidden & (np.arange(ROWS) >= 1000)
    assert written["labels"]["label_a"]["support"] == table["label_a"].to_numpy()[kept].sum()


def test_plain_table_is_no_score_file(tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", plain_table(20))
    with pytest.raises(ConfigError, match=r"no column of .* matches 'score_"):
        calibrated(data, tmp_path / "t.json", score_kind="logit")


def test_the_metrics_of_a_run_follow_its_thresholds(fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted.run, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    before = run.metrics
    assert before is not None
    tuned = run.calibrate([], "cost:1,20")
    metrics = document(tmp_path / "run" / "metrics.json")
    assert metrics == run.metrics == Run.open(tmp_path / "run").metrics
    for name, entry in tuned["labels"].items():
        now = metrics["labels"][name]
        assert now["threshold"] == entry["threshold"] != before["labels"][name]["threshold"]
        assert [now[metric] for metric in ("precision", "recall", "f1")] == pytest.approx(
            [entry[metric] for metric in ("precision", "recall", "f1")]
        )
        assert now["auroc"] == before["labels"][name]["auroc"]
    assert (before["decisions"], metrics["decisions"]) == ("nested", "in_sample")
    run.calibrate([], "f1")
    back = document(tmp_path / "run" / "metrics.json")
    assert back["decisions"] == "in_sample"
    for name, entry in before["labels"].items():
        kept = [
            metric for metric in entry if metric.endswith("_at_half") or metric in ("threshold", "auroc", "support")
        ]
        assert {metric: back["labels"][name][metric] for metric in kept} == {metric: entry[metric] for metric in kept}
    run.calibrate(fitted.test, "f1")
    assert "decisions" not in document(tmp_path / "run" / "metrics.json")
