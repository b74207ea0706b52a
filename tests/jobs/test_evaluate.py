"""`evaluate`: the document of the contract, its numbers beside those of scikit-learn."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import document, plain_table, with_column, write
from sklearn import metrics as sk

import mlclf
from mlclf import Run
from mlclf.errors import DataError, RunError

M = {
    "auroc",
    "average_precision",
    "f1",
    "precision",
    "recall",
    "f1_at_half",
    "precision_at_half",
    "recall_at_half",
}


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.fixture(scope="module")
def evaluated(fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report, and scores [n, K] and labels [n, K] of the same rows."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = Run.open(fitted.run)
    report = run.evaluate(fitted.test, folder / "metrics.json")
    assert document(folder / "metrics.json") == report
    run.predict(fitted.test, folder / "scores")
    scores, test = pq.read_table(folder / "scores" / "b.parquet"), pq.read_table(fitted.test)
    return {
        "report": report,
        "scores": np.stack([scores[f"score_{name}"].to_numpy() for name in run.label_names], 1).astype(np.float64),
        "labels": np.stack([test[name].to_numpy() for name in run.label_names], 1),
        "cuts": np.array([document(fitted.run / "thresholds.json")["labels"][n]["threshold"] for n in run.label_names]),
        "prevalences": (np.sum([pq.read_table(fitted.data)[n].to_numpy() for n in run.label_names], 1) + 0.5) / 401,
    }


def test_the_document_has_the_fields_of_the_contract(evaluated: dict[str, Any]) -> None:
    report = evaluated["report"]
    assert set(report) >= {
        "format_version",
        "rows",
        "log_loss",
        "gain",
        "brier",
        "hamming_loss",
        "subset_accuracy",
        "scored_labels",
        "undefined_labels",
        "macro",
        "micro",
        "macro_all",
        "ranking",
        "calibration",
        "labels",
    }
    assert set(report["macro"]) == set(report["micro"]) >= M
    assert set(report["macro_all"]) == {"f1", "f1_at_half"}
    assert set(report["ranking"]) >= {"p_at_1", "p_at_3", "p_at_5"}
    assert set(report["calibration"]) >= {"ece", "observed_expected"}
    for entry in report["labels"].values():
        assert set(entry) >= M | {"log_loss", "brier", "threshold", "support", "rows", "error_bound"}
        assert set(entry["error_bound"]) == {"auroc", "average_precision"}


def test_numbers_are_those_of_scikit_learn(evaluated: dict[str, Any]) -> None:
    report, scores, labels, cuts = (evaluated[name] for name in ("report", "scores", "labels", "cuts"))
    assert report["rows"] == 300
    assert report["undefined_labels"] == []
    losses = []
    for index, entry in enumerate(report["labels"].values()):
        truth, score = labels[:, index], scores[:, index]
        bound = entry["error_bound"]
        assert abs(entry["auroc"] - sk.roc_auc_score(truth, score)) <= bound["auroc"] + 1e-9
        area = sk.average_precision_score(truth, score)
        assert abs(entry["average_precision"] - area) <= bound["average_precision"] + 1e-9
        assert bound["auroc"] < 1e-3
        for suffix, cut in (("", cuts[index]), ("_at_half", 0.5)):
            flagged = score.astype(np.float32) >= np.float32(cut)
            assert entry["f1" + suffix] == pytest.approx(sk.f1_score(truth, flagged))
            assert entry["precision" + suffix] == pytest.approx(sk.precision_score(truth, flagged))
            assert entry["recall" + suffix] == pytest.approx(sk.recall_score(truth, flagged))
        assert entry["threshold"] == cuts[index]
        assert entry["support"] == truth.sum()
        assert entry["rows"] == 300
        losses.append(sk.log_loss(truth, score))
        assert entry["log_loss"] == pytest.approx(losses[-1], rel=1e-5)
        assert entry["brier"] == pytest.approx(sk.brier_score_loss(truth, score), rel=1e-5)
    assert report["log_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    constant = [sk.log_loss(labels[:, k], np.full(300, evaluated["prevalences"][k])) for k in range(2)]
    assert report["gain"] == pytest.approx(1 - np.mean(losses) / np.mean(constant), rel=1e-4)


def test_numbers_across_labels_are_those_of_scikit_learn(evaluated: dict[str, Any]) -> None:
    report, scores, labels, cuts = (evaluated[name] for name in ("report", "scores", "labels", "cuts"))
    flagged = scores.astype(np.float32) >= cuts.astype(np.float32)
    assert report["hamming_loss"] == pytest.approx(sk.hamming_loss(labels, flagged))
    assert report["subset_accuracy"] == pytest.approx(sk.accuracy_score(labels, flagged))
    assert report["micro"]["f1"] == pytest.approx(sk.f1_score(labels, flagged, average="micro"))
    assert report["macro"]["f1"] == pytest.approx(sk.f1_score(labels, flagged, average="macro"))
    assert report["macro_all"]["f1"] == pytest.approx(sk.f1_score(labels, flagged, average="macro"))
    assert report["micro"]["auroc"] == pytest.approx(sk.roc_auc_score(labels.ravel(), scores.ravel()), abs=1e-3)
    assert report["macro"]["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-3)
    best = labels[np.arange(300), scores.argmax(1)]
    assert report["ranking"]["p_at_1"] == pytest.approx(best.mean())
    expected = scores.sum() if (scores >= 0).all() else 0.0
    assert report["calibration"]["observed_expected"] == pytest.approx(labels.sum() / expected, rel=1e-5)


def test_torchmetrics_agrees_within_the_error_bound(evaluated: dict[str, Any]) -> None:
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    for index, entry in enumerate(evaluated["report"]["labels"].values()):
        score = torch.from_numpy(evaluated["scores"][:, index].astype(np.float32))
        truth = torch.from_numpy(evaluated["labels"][:, index].astype(np.int64))
        assert abs(entry["auroc"] - float(binary_auroc(score, truth))) <= entry["error_bound"]["auroc"] + 1e-6
        area = float(binary_average_precision(score, truth))
        assert abs(entry["average_precision"] - area) <= entry["error_bound"]["average_precision"] + 1e-6


def test_weights_count_and_support_does_not(tmp_path: Path) -> None:
    table = with_column(plain_table(300), "w", np.random.default_rng(0).integers(0, 3, 300).astype(np.float32))
    data = write(tmp_path / "a.parquet", table)
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", weight="w")
    report = run.evaluate(data)
    run.predict(data, tmp_path / "scores")
    score = pq.read_table(tmp_path / "scores" / "a.parquet")["score_label_a"].to_numpy()
    weights, truth = table["w"].to_numpy(), table["label_a"].to_numpy()
    entry = report["labels"]["label_a"]
    assert entry["auroc"] == pytest.approx(sk.roc_auc_score(truth, score, sample_weight=weights), abs=1e-3)
    assert entry["log_loss"] == pytest.approx(sk.log_loss(truth, score, sample_weight=weights), rel=1e-5)
    assert entry["rows"] == (weights > 0).sum()
    assert entry["support"] == truth[weights > 0].sum()


def test_masked_cells_are_left_out_of_every_metric(fitted: Any, tmp_path: Path) -> None:
    test = pq.read_table(fitted.test)
    hidden = np.arange(300) % 3 == 0
    masked = write(
        tmp_path / "m.parquet", with_column(test, "label_a", pa.array(test["label_a"].to_numpy(), mask=hidden))
    )
    seen = write(tmp_path / "s.parquet", test.filter(pa.array(~hidden)))
    run = Run.open(fitted.run)
    one, two = run.evaluate(masked)["labels"]["label_a"], run.evaluate(seen)["labels"]["label_a"]
    for name in ("error_bound", "calibration"):
        assert one.pop(name) == pytest.approx(two.pop(name))
    assert one == pytest.approx(two)


def test_tags_that_training_did_not_have_are_counted(tmp_path: Path, mlclf_command: Any) -> None:
    x = np.random.default_rng(0).normal(size=100)
    tags = pa.array([["up"] if value > 0 else ["down"] for value in x], pa.list_(pa.string()))
    data = write(tmp_path / "a.parquet", pa.table({"x": x, "tags": tags}))
    mlclf.fit(data, "tags", tmp_path / "run")
    new = pa.array([["up", "new"]] * 7 + [["down"]] * 93, pa.list_(pa.string()))
    other = write(tmp_path / "b.parquet", pa.table({"x": x, "tags": new}))
    called = mlclf_command("evaluate", tmp_path / "run", other)
    assert called.code == 0
    assert "7 tags were not in training; they are ignored (unseen_tags)" in called.err


def test_data_without_a_label_column_is_refused(fitted: Any, tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", plain_table(20).drop_columns(["label_b"]))
    with pytest.raises(DataError, match=re.escape(f"{data}: column 'label_b' is missing\n")):
        Run.open(fitted.run).evaluate(data)


# ── opening a run ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def copy(fitted: Any, tmp_path: Path) -> Path:
    shutil.copytree(fitted.run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "schema.json",
        "features.json",
        "features.safetensors",
        "model.safetensors",
        "histograms.parquet",
        "folds.parquet",
    ],
)
def test_one_flipped_byte_in_a_fitted_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    message = f"{copy / name}: has changed since fit wrote it (its SHA-256 differs); copy the run again"
    with pytest.raises(RunError, match=exactly(message)):
        Run.open(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    message = f"{copy / 'model.safetensors'}: is missing though the manifest lists it; copy the run again, whole"
    with pytest.raises(RunError, match=exactly(message)):
        Run.open(copy)


@pytest.mark.parametrize("name", ["manifest.json", "thresholds.json"])
def test_another_format_version_is_refused(copy: Path, name: str) -> None:
    text = (copy / name).read_text(encoding="utf-8").replace('"format_version": 1', '"format_version": 99')
    (copy / name).write_text(text, encoding="utf-8")
    what = name.removesuffix(".json")
    message = (
        f"{str(copy / name)!r} holds {what} of format_version 99, this release of mlclf reads 1; "
        "use the release that wrote it or write it again"
    )
    with pytest.raises(RunError, match=exactly(message)):
        Run.open(copy)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    message = f"{tmp_path}: is not a run folder (it has no config.yaml); give the --out of a fit"
    with pytest.raises(RunError, match=exactly(message)):
        Run.open(tmp_path)


def test_an_unfinished_run_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    message = f"{copy}: the fit of this run has not finished; go on with: mlclf fit --resume --out {copy}"
    with pytest.raises(RunError, match=exactly(message)):
        Run.open(copy)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text(encoding="utf-8").replace('"schema.json"', '"../schema.json"')
    (copy / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json: must list config\.yaml, schema\.json, .*; fit the run again$"):
        Run.open(copy)
