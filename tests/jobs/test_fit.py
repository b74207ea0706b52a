"""`fit` on small data: every way to hold out rows, every kind of input and label, and the run folder it leaves."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_tables import document, lines_of, names_below, plain_table, with_column, write
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

import mlclf
from mlclf.errors import ConfigError, DataError, FullDiskError
from mlclf.run_folder import RunFolder

FILES = {
    "config.yaml",
    "schema.json",
    "features.json",
    "features.safetensors",
    "model.safetensors",
    "histograms.parquet",
    "folds.parquet",
    "manifest.json",
    "_written.jsonl",
    "thresholds.json",
    "metrics.json",
    "log.jsonl",
    "run.json",
}
ODD_NAMES = [
    "label_../../../etc/passwd",
    "label_line\nbreak",
    "label_quote\"and'",
    "label_" + "x" * 194,
    "label_</script><b>",
    "label_\x1b[31mred",
    "label_\u00e9",
    "label_e\u0301",
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "data" / "a.parquet", plain_table())


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# ── the run folder ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_folder_holds_what_the_contract_lists(fitted: Any) -> None:
    assert {path.name for path in fitted.run.iterdir()} == FILES
    for name in FILES:
        if name.endswith(".json"):
            assert document(fitted.run / name)["format_version"] == (3 if name == "features.json" else 1)


def test_the_manifest_lists_the_hash_of_every_fitted_file(fitted: Any) -> None:
    files = document(fitted.run / "manifest.json")["files"]
    assert set(files) == FILES - {"manifest.json", "_written.jsonl", "thresholds.json", "metrics.json", "log.jsonl"}
    for name, expected in files.items():
        assert hashlib.sha256((fitted.run / name).read_bytes()).hexdigest() == expected


def test_model_tensors_have_the_order_of_features_and_schema(fitted: Any) -> None:
    tensors = load_file(fitted.run / "model.safetensors")
    features, schema = document(fitted.run / "features.json"), document(fitted.run / "schema.json")
    assert features["dense"] == ["a", "b", "c"]
    assert schema["labels"] == ["label_a", "label_b"]
    assert tensors["linear.weight"].shape == (2, len(features["dense"]))
    assert tensors["embedding.weight"].shape == (len(features["vocabulary"]), 2)
    assert tensors["linear.bias"].shape == (2,)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_the_log_has_one_line_an_epoch(fitted: Any) -> None:
    records = lines_of(fitted.run / "log.jsonl")
    assert [record["epoch"] for record in records] == list(range(len(records)))
    for record in records:
        assert set(record) == {"epoch", "step", "rows", "seconds", "train_loss", "valid_loss"}


def test_thresholds_are_written_as_the_contract_says_and_read_back_exactly(fitted: Any) -> None:
    written = document(fitted.run / "thresholds.json")
    assert set(written) == {"format_version", "objective", "method", "confidence", "labels", "model"}
    assert list(written["labels"]) == ["label_a", "label_b"]
    for entry in written["labels"].values():
        assert set(entry) == {"threshold", "status", "support", "precision", "recall", "f1", "interval"}
        assert entry["status"] in ("tuned", "shrunk")
        assert float(np.float32(entry["threshold"])) == entry["threshold"]


def test_the_metrics_are_of_held_out_rows(fitted: Any) -> None:
    metrics = document(fitted.run / "metrics.json")
    assert metrics["data"] == "validation"
    assert metrics["rows"] == 400  # five folds: every row is held out once
    assert metrics["scored_labels"] == 2
    assert metrics["macro"]["auroc"] > 0.75
    assert metrics["gain"] > 0.1


def test_the_configuration_is_resolved_and_reads_back(fitted: Any) -> None:
    from mlclf.config.loading import load_run_file

    arguments, settings = load_run_file(fitted.run / "config.yaml")
    assert arguments.train == (fitted.data,)
    assert arguments.labels == ("label_*",)
    assert settings.optimizer.l2 == "auto"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(data: str, tmp_path: Path) -> None:
    for settings in ({}, {"training.epochs": 2, "optimizer.name": "adam"}):
        for name in ("one", "two"):
            mlclf.fit(data, "label_*", tmp_path / name, exclude="id", settings=settings, overwrite=True)
        for file in (
            "model.safetensors",
            "thresholds.json",
            "metrics.json",
            "histograms.parquet",
            "folds.parquet",
            "features.json",
        ):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


# ── held-out rows ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_valid_fraction_holds_out_about_that_share(data: str, tmp_path: Path) -> None:
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", valid_fraction=0.5)
    assert run.metrics is not None
    assert 70 <= run.metrics["rows"] <= 130  # half of the half decides
    assert run.metrics["labels"]["label_a"]["rows"] == run.metrics["rows"]


def test_valid_data_decides_on_all_of_its_rows(data: str, tmp_path: Path) -> None:
    valid = write(tmp_path / "valid.parquet", plain_table(150, seed=5))
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", valid=valid)
    assert run.metrics is not None
    assert run.metrics["rows"] == 150
    assert run.metrics["macro"]["auroc"] > 0.7


def test_valid_by_time_holds_out_the_latest_rows(tmp_path: Path) -> None:
    table = with_column(plain_table(600), "day", np.arange(600) // 3)
    data = write(tmp_path / "a.parquet", table)
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude=["id", "day"], valid_by="time:day")
    assert run.metrics is not None
    late = run.evaluate(write(tmp_path / "late.parquet", table.slice(540)))
    assert 15 <= run.metrics["rows"] <= 45  # half of the last tenth
    assert late["rows"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"valid_by": "group:user"}, {"group": "user", "folds": 3}])
def test_a_group_is_split_as_one_and_is_no_input(tmp_path: Path, arguments: dict[str, Any]) -> None:
    table = with_column(plain_table(600), "user", [f"u{index % 60}" for index in range(600)])
    run = mlclf.fit(write(tmp_path / "a.parquet", table), "label_*", tmp_path / "run", exclude="id", **arguments)
    assert run.metrics is not None
    assert run.metrics["rows"] % 10 == 0
    assert not any("user" in column.name for column in run.schema.features)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_rows_of_a_group_are_in_one_fold_of_the_thresholds(tmp_path: Path, apart: bool) -> None:
    """Also where the held-out rows are given; and the group is asked for there."""
    table = with_column(plain_table(600), "user", [f"u{index % 20}" for index in range(600)])
    data, valid = write(tmp_path / "a.parquet", table), write(tmp_path / "b.parquet", table)
    arguments: dict[str, Any] = {"valid": valid} if apart else {"folds": 3}
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", group="user", **arguments)
    rows = [int(histogram.rows[0]) for histogram in RunFolder(run.path).read_folds().histograms]
    assert sum(rows) == 600
    assert all(count % 30 == 0 for count in rows)
    if apart:
        write(tmp_path / "b.parquet", table.drop_columns(["user"]))
        with pytest.raises(DataError, match=r"b\.parquet: column 'user' is missing"):
            mlclf.fit(data, "label_*", tmp_path / "again", exclude="id", group="user", **arguments)


def test_folds_hold_out_every_row_once(data: str, tmp_path: Path) -> None:
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", folds=2)
    assert run.metrics is not None
    assert run.metrics["rows"] == 400


def test_without_held_out_rows_thresholds_fall_back_and_there_are_no_metrics(data: str, tmp_path: Path) -> None:
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", valid_fraction=0)
    assert run.metrics is None
    assert not (tmp_path / "run" / "metrics.json").exists()
    labels = document(tmp_path / "run" / "thresholds.json")["labels"]
    assert [(entry["threshold"], entry["status"]) for entry in labels.values()] == [(0.5, "fallback")] * 2
    assert labels["label_a"]["support"] == int(np.sum(plain_table()["label_a"].to_numpy()))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 3, 7])
def test_a_handful_of_rows_is_enough(tmp_path: Path, rows: int) -> None:
    table = pa.table({"x": np.arange(rows) * 1.0, "label": np.arange(rows) % 2})
    run = mlclf.fit(write(tmp_path / "a.parquet", table), "label", tmp_path / "run")
    assert np.isfinite(run.evaluate(str(tmp_path / "a.parquet"))["log_loss"])


# ── the objective ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimizer", ["auto", "lbfgs", "newton"])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_explicit_l2_gives_the_coefficients_of_scikit_learn(tmp_path: Path, optimizer: str, weighted: bool) -> None:
    table = plain_table(500)
    weights = np.random.default_rng(3).integers(0, 4, 500).astype(float) if weighted else np.ones(500)
    data = write(tmp_path / "a.parquet", with_column(table, "w", weights))
    l2 = 0.02
    settings = {"optimizer.l2": l2, "features.standardize": False, "optimizer.name": optimizer}
    mlclf.fit(
        data,
        "label_*",
        tmp_path / "run",
        exclude="id",
        weight="w",
        valid_fraction=0,
        settings=settings,
    )
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    vocabulary = document(tmp_path / "run" / "features.json")["vocabulary"]
    city = table["city"].to_numpy(zero_copy_only=False)
    levels = [name.partition("=")[2] for name in vocabulary]
    hot = np.stack([city == level for level in levels], 1).astype(float)
    inputs = np.concatenate([np.stack([table[name].to_numpy() for name in "abc"], 1), hot], 1)
    for index, name in enumerate(("label_a", "label_b")):
        model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-10, max_iter=5000)
        model.fit(inputs, table[name].to_numpy(), sample_weight=weights)
        ours = torch.cat([tensors["linear.weight"][index], tensors["embedding.weight"][:, index]]).numpy()
        np.testing.assert_allclose(ours, model.coef_[0], atol=1e-4)
        np.testing.assert_allclose(float(tensors["linear.bias"][index]), model.intercept_[0], atol=1e-4)


def test_l2_without_held_out_rows_is_one_over_the_weights(data: str, tmp_path: Path) -> None:
    automatic = mlclf.fit(data, "label_*", tmp_path / "auto", exclude="id", valid_fraction=0)
    given = mlclf.fit(
        data, "label_*", tmp_path / "given", exclude="id", valid_fraction=0, settings={"optimizer.l2": 1 / 400}
    )
    one, two = (load_file(run.path / "model.safetensors") for run in (automatic, given))
    torch.testing.assert_close(one["linear.weight"], two["linear.weight"], rtol=0, atol=1e-6)


def test_streaming_from_disk_gives_the_model_of_memory(data: str, tmp_path: Path) -> None:
    settings = {"training.batch_rows": "all", "optimizer.l2": 0.01}
    held = mlclf.fit(data, "label_*", tmp_path / "held", exclude="id", settings=settings)
    streamed = mlclf.fit(
        data, "label_*", tmp_path / "streamed", exclude="id", settings=settings | {"runtime.memory_budget": 60_000}
    )
    one, two = (load_file(run.path / "model.safetensors") for run in (held, streamed))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_pos_weight_ends_in_probabilities_that_stay_probabilities(tmp_path: Path) -> None:
    table = plain_table(1500)
    rare = np.random.default_rng(1).random(1500) < 1 / (1 + np.exp(4 - 1.5 * table["a"].to_numpy()))
    data = write(tmp_path / "a.parquet", with_column(table, "label_a", rare))
    runs = {
        rule: mlclf.fit(data, "label_*", tmp_path / str(rule), exclude="id", settings={"loss.pos_weight": rule})
        for rule in ("none", "balanced")
    }
    plain, balanced = (runs[rule].metrics for rule in ("none", "balanced"))
    assert plain is not None
    assert balanced is not None
    assert abs(balanced["calibration"]["observed_expected"] - 1) < 0.05
    assert balanced["log_loss"] < plain["log_loss"] + 0.01
    given = {"loss.pos_weight": {"label_a": 3}, "training.epochs": 3}
    weighted = mlclf.fit(data, "label_*", tmp_path / "given", exclude="id", settings=given)
    assert weighted.metrics is not None
    assert abs(weighted.metrics["calibration"]["observed_expected"] - 1) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_every_stepwise_optimizer_learns(data: str, tmp_path: Path, name: str) -> None:
    run = mlclf.fit(
        data, "label_*", tmp_path / "run", exclude="id", valid_fraction=0.3, settings={"optimizer.name": name}
    )
    assert run.metrics is not None
    assert run.metrics["macro"]["auroc"] > 0.7
    assert list((tmp_path / "run" / "checkpoints").rglob("*.safetensors"))


def test_hidden_layers_train(data: str, tmp_path: Path) -> None:
    settings = {"model.hidden": [8, 4], "training.epochs": 5}
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=settings)
    assert run.metrics is not None
    assert run.metrics["macro"]["auroc"] > 0.7
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    assert tensors["linear.weight"].shape == (8, 3)
    assert tensors["layers.1.weight"].shape == (2, 4)


@pytest.mark.slow
def test_explicit_epochs_are_exactly_that_many(data: str, tmp_path: Path) -> None:
    settings = {"training.epochs": 4, "optimizer.lr": 3.0, "optimizer.name": "sgd"}
    mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", valid_fraction=0.3, settings=settings)
    assert len(lines_of(tmp_path / "run" / "log.jsonl")) == 4
    mlclf.fit(data, "label_*", tmp_path / "folds", exclude="id", folds=2, settings=settings)
    assert len(lines_of(tmp_path / "folds" / "log.jsonl")) == 8  # the folds, then the refit


def test_batch_rows_all_is_gradient_descent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200).astype(float)
    data = write(tmp_path / "a.parquet", pa.table({"u": x[:, 0], "v": x[:, 1], "label": y}), row_group_size=50)
    settings = {
        "training.batch_rows": "all",
        "training.epochs": 5,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.7,
        "optimizer.l2": 0.1,
        "features.standardize": False,
    }
    mlclf.fit(data, "label", tmp_path / "run", valid_fraction=0, settings=settings)
    weights, bias, losses = np.zeros(2), 0.0, []
    for _ in range(5):
        logits = x @ weights + bias
        losses.append(float(np.mean(np.logaddexp(0, logits) - y * logits)))
        slope = (1 / (1 + np.exp(-logits)) - y) / 200
        weights, bias = weights - 0.7 * (x.T @ slope + 0.1 * weights), bias - 0.7 * slope.sum()
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    np.testing.assert_allclose(tensors["linear.weight"][0].numpy(), weights, atol=1e-6)
    np.testing.assert_allclose(tensors["linear.bias"][0].numpy(), bias, atol=1e-6)
    records = lines_of(tmp_path / "run" / "log.jsonl")
    np.testing.assert_allclose([record["train_loss"] for record in records], losses, atol=1e-6)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def mixed_table(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    table = plain_table(rows)
    words = ["red", "green", "blue", "heavy", "light"]
    lists = [list(rng.choice(words, rng.integers(0, 4))) for _ in range(rows)]
    indices = [sorted(rng.choice(20, rng.integers(0, 5), replace=False).tolist()) for _ in range(rows)]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=rows * 4).astype(np.float32)), 4)
    holes = [None if index % 7 == 0 else float(index) for index in range(rows)]
    more = {
        "flag": pa.array(rng.random(rows) < 0.5),
        "holes": pa.array(holes),
        "day": pa.array(np.arange(rows), pa.int32()).cast(pa.date32()),
        "when": pa.array(np.arange(rows) * 10**6, pa.timestamp("us")),
        "price": pa.array(rng.integers(0, 1000, rows)).cast(pa.decimal128(30, 2)),
        "kind": pa.array(rng.choice(["p", "q"], rows)).dictionary_encode(),
        "words": pa.array(lists, pa.list_(pa.string())),
        "numbers": pa.array(indices, pa.list_(pa.int64())),
        "doc_indices": pa.array(indices, pa.list_(pa.int32())),
        "doc_values": pa.array([[1.5] * len(row) for row in indices], pa.list_(pa.float32())),
        "vector": embedding,
        "body": pa.array([" ".join(row) + " Été" for row in lists]),
    }
    for name, values in more.items():
        table = table.append_column(name, values)
    return table


@pytest.mark.slow
def test_all_kinds_of_inputs_work_together(tmp_path: Path) -> None:
    table = mixed_table(300)
    data = write(tmp_path / "a.parquet", table, row_group_size=100)
    settings = {"features.roles": {"body": "text"}, "features.hash_buckets": 256}
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=settings)
    roles = {column.name: column.role for column in run.schema.features}
    assert roles == {
        **dict.fromkeys(("a", "b", "c", "flag", "holes", "day", "when", "price"), "numeric"),
        **dict.fromkeys(("city", "kind"), "categorical"),
        **dict.fromkeys(("words", "numbers"), "tokens"),
        "doc_indices": "sparse",
        "vector": "embedding",
        "body": "text",
    }
    tensors, features = load_file(run.path / "model.safetensors"), document(run.path / "features.json")
    assert tensors["linear.weight"].shape == (2, len(features["dense"]))
    assert tensors["embedding.weight"].shape == (len(features["vocabulary"]), 2)
    assert "holes:missing" in features["dense"]
    assert run.evaluate(data)["macro"]["auroc"] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("column", ["words", "doc", "vector", "body", "city", "a"])
def test_one_kind_of_input_alone_works(tmp_path: Path, column: str) -> None:
    names = ["doc_indices", "doc_values"] if column == "doc" else [column]
    data = write(tmp_path / "a.parquet", mixed_table(120).select([*names, "label_a"]))
    settings = {"features.roles": {"body": "text"}, "features.hash_buckets": 64} if column == "body" else {}
    run = mlclf.fit(data, "label_a", tmp_path / "run", settings=settings)
    assert run.evaluate(data)["rows"] == 120
    run.predict(data, tmp_path / "scores")
    assert (tmp_path / "scores" / "_SUCCESS").exists()


@pytest.mark.slow
def test_missing_values_get_the_mean_and_an_indicator(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(5, 2, 300)
    gone = np.arange(300) % 3 == 0
    table = pa.table({"x": pa.array(x, mask=gone), "y": np.where(gone, np.nan, x), "label": gone})
    data = write(tmp_path / "a.parquet", table)
    run = mlclf.fit(data, "label", tmp_path / "run")
    assert document(run.path / "features.json")["dense"] == ["x", "x:missing", "y", "y:missing"]
    assert run.evaluate(data)["labels"]["label"]["auroc"] == 1.0


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_tags_in_a_list_column_are_labels_by_falling_count(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=300)
    tags = [["all", "warm"] if value > 0 else ["all", "all"] if value > -2.5 else [] for value in x]
    tags[0] = None
    table = pa.table({"x": x, "tags": pa.array(tags, pa.list_(pa.string()))})
    data = write(tmp_path / "a.parquet", table)
    run = mlclf.fit(data, "tags", tmp_path / "run")
    assert run.label_names == ("all", "warm")
    report = run.evaluate(data)
    assert report["labels"]["warm"]["rows"] == 299
    assert report["labels"]["warm"]["auroc"] > 0.99


@pytest.mark.slow
def test_numeric_tags_are_named_by_their_text(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(60.0), "tags": pa.array([[10], [9, 10], [9, 10]] * 20, pa.list_(pa.int16()))})
    run = mlclf.fit(write(tmp_path / "a.parquet", table), "tags", tmp_path / "run")
    assert run.label_names == ("10", "9")


def test_masked_labels_do_not_count(tmp_path: Path) -> None:
    table = plain_table(500)
    truth = table["label_a"].to_numpy()
    hidden = np.arange(500) % 2 == 0
    half = write(tmp_path / "half.parquet", with_column(table, "label_a", pa.array(truth, mask=hidden)))
    settings = {"optimizer.l2": 0.01}
    run = mlclf.fit(half, "label_a", tmp_path / "run", exclude=["id", "label_b"], valid_fraction=0, settings=settings)
    kept = write(tmp_path / "kept.parquet", table.filter(pa.array(~hidden)))
    alone = mlclf.fit(
        kept,
        "label_a",
        tmp_path / "alone",
        exclude=["id", "label_b"],
        valid_fraction=0,
        settings=settings | {"features.standardize": False},
    )
    same = mlclf.fit(
        half,
        "label_a",
        tmp_path / "same",
        exclude=["id", "label_b"],
        valid_fraction=0,
        settings=settings | {"features.standardize": False},
    )
    one, two = (load_file(each.path / "model.safetensors") for each in (alone, same))
    torch.testing.assert_close(one["linear.weight"], two["linear.weight"], rtol=0, atol=1e-5)
    report = run.evaluate(half)
    assert report["labels"]["label_a"]["rows"] == 250
    assert report["labels"]["label_a"]["support"] == truth[~hidden].sum()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"optimizer.name": "adam", "training.epochs": 2}])
def test_labels_of_one_class_have_no_weights_and_the_bias_of_the_contract(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    table = plain_table(300).append_column("label_all", pa.array(np.ones(300, np.int8)))
    table = table.append_column("label_no", pa.array(np.zeros(300, bool)))
    table = table.append_column("label_null", pa.nulls(300, pa.int8()))
    data = write(tmp_path / "a.parquet", table)
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=settings)
    tensors = load_file(run.path / "model.safetensors")
    biases = tensors["linear.bias"].tolist()
    odds = 300.5 / 301
    assert biases[2] == pytest.approx(np.log(odds / (1 - odds)), abs=1e-5)
    assert biases[3] == pytest.approx(-np.log(odds / (1 - odds)), abs=1e-5)
    assert biases[4] == 0
    assert not tensors["linear.weight"][2:].any()
    assert not tensors["embedding.weight"][:, 2:].any()
    report = run.evaluate(data)
    assert report["undefined_labels"] == ["label_all", "label_no", "label_null"]
    assert report["scored_labels"] == 2
    assert report["labels"]["label_all"]["auroc"] is None
    assert report["labels"]["label_null"]["log_loss"] is None
    assert report["labels"]["label_null"]["rows"] == 0
    assert np.isfinite(report["log_loss"])
    thresholds = document(run.path / "thresholds.json")["labels"]
    assert [thresholds[name]["status"] for name in list(thresholds)[2:]] == ["fallback"] * 3


@pytest.mark.slow
def test_odd_label_names_are_safe_everywhere(tmp_path: Path, mlclf_command: Any) -> None:
    data = write(tmp_path / "a.parquet", plain_table(200, labels=tuple(ODD_NAMES)))
    called = mlclf_command("fit", data, "--labels", "label_*", "--exclude", "id", "--out", tmp_path / "run")
    assert called.code == 0, called.err
    assert "\x1b" not in called.out + called.err
    assert document(tmp_path / "run" / "schema.json")["labels"] == ODD_NAMES
    assert list(document(tmp_path / "run" / "thresholds.json")["labels"]) == ODD_NAMES
    called = mlclf_command("evaluate", tmp_path / "run", data, "--out", tmp_path / "metrics.json")
    assert called.code == 0, called.err
    assert list(document(tmp_path / "metrics.json")["labels"]) == ODD_NAMES
    called = mlclf_command("predict", tmp_path / "run", data, "--out", tmp_path / "scores")
    assert called.code == 0, called.err
    assert names_below(tmp_path) == {
        "a.parquet",
        "metrics.json",
        "run",
        *(f"run/{name}" for name in FILES),
        "scores",
        "scores/_SUCCESS",
        "scores/_written.jsonl",
        "scores/a.parquet",
    }


@pytest.mark.slow
def test_known_pairs_of_words_are_mapped_and_said(tmp_path: Path, mlclf_command: Any) -> None:
    table = plain_table(100)
    words = ["Yes" if value else "no" for value in table["label_a"].to_pylist()]
    data = write(tmp_path / "a.parquet", with_column(table, "label_a", words))
    called = mlclf_command("fit", data, "--labels", "label_*", "--exclude", "id", "--out", tmp_path / "run")
    assert called.code == 0
    assert "labels 'label_a': 'no' is read as 0, 'yes' as 1" in called.err


@pytest.mark.slow
def test_declared_label_values_are_mapped(tmp_path: Path) -> None:
    table = plain_table(100)
    words = ["good" if value else "bad" for value in table["label_a"].to_pylist()]
    words[0] = "unknown"
    data = write(tmp_path / "a.parquet", with_column(table, "label_a", words))
    settings = {"data.label_values": {"good": 1, "bad": 0, "unknown": None}}
    run = mlclf.fit(data, "label_a", tmp_path / "run", exclude=["id", "label_b"], settings=settings)
    assert run.evaluate(data)["labels"]["label_a"]["rows"] == 99


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_non_empty_folder_is_refused(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    message = f"{out}: the folder is not empty; give another --out, or --resume or --overwrite"
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", out)
    assert names_below(out) == {"mine.txt"}


@pytest.mark.slow
def test_overwrite_replaces_a_run_and_nothing_else(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    mlclf.fit(data, "label_*", out, exclude="id")
    run = mlclf.fit(data, "label_a", out, exclude=["id", "label_b"], overwrite=True)
    assert run.label_names == ("label_a",)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}


def test_overwrite_refuses_a_folder_that_is_no_run(data: str, tmp_path: Path) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    message = (
        f"{out}: --overwrite replaces only what fit wrote, and this folder has no list of that (_written.jsonl; "
        "releases before this one wrote none); it holds 'mine.txt': give another --out, or, if nothing of it is "
        f"needed, remove it first: rm -r {out}"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", out, exclude="id", overwrite=True)
    assert names_below(tmp_path) == {"data", "data/a.parquet", "precious", "precious/mine.txt"}


@pytest.mark.slow
def test_a_failing_overwrite_leaves_the_old_run(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    mlclf.fit(data, "label_*", out, exclude="id")
    before = {name: (out / name).read_bytes() for name in sorted(names_below(out))}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlclf.run_folder.RunFolder.write_model", fail)
    message = (
        rf"^{out}: the disk is full: it takes more than [\d,]+ bytes, [\d,]+ were written, and [\d,]+ are free now; "
        "what was begun is removed: make room, then run the same command again$"
    )
    with pytest.raises(FullDiskError, match=message):
        mlclf.fit(data, "label_*", out, exclude="id", overwrite=True)
    assert {name: (out / name).read_bytes() for name in sorted(names_below(out))} == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}


def test_a_failing_fit_leaves_nothing(data: str, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.parquet", with_column(plain_table(50), "label_a", np.arange(50)))
    with pytest.raises(DataError, match=r"label 'label_a' must be 0, 1 or null, found '10', '11'|'2', '3'"):
        mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", valid=bad)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "bad.parquet"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss.pos_weight": {"nope": 2}},
            ("loss.pos_weight names labels that do not exist: 'nope'; the labels are 'label_a', 'label_b' …"),
        ),
        ({"runtime.device": "cuda:99"}, None),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    data: str, tmp_path: Path, settings: dict[str, Any], message: str | None
) -> None:
    if message is None and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = message or "runtime.device=cuda:99: torch finds no CUDA device here; use 'auto' or 'cpu'"
    with pytest.raises(ConfigError, match=exactly(message)):
        mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=settings)
    assert not (tmp_path / "run").exists()


def test_python_values_reach_the_settings_as_they_are(data: str, tmp_path: Path) -> None:
    settings = {"features.roles": {"city": "ignore"}, "optimizer.l2": 1e-3, "model.hidden": ()}
    run = mlclf.fit(data, ["label_a", "label_b"], tmp_path / "run", features=["a", "city"], settings=settings)
    assert [column.name for column in run.schema.features] == ["a"]
    assert run.settings.optimizer.l2 == 1e-3
    assert json.loads((run.path / "manifest.json").read_text())["training"]["rows"] == 400
