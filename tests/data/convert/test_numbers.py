"""Numbers that go wrong elsewhere, through whole jobs: extreme values, weights and labels end in finite results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_cells import count_rows
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torchmetrics.functional.classification import binary_auroc

import mlclf
from mlclf.data.labels.label_columns import UNOBSERVED, LabelColumns
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.errors import DataError

ROWS = 300


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """One number, and a label that depends on it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    return x, (rng.random(ROWS) < 1 / (1 + np.exp(-2 * x))).astype(np.int8)


def write(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def all_numbers(value: Any) -> list[float]:
    """Every number in a JSON document."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in all_numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in all_numbers(inner)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The report of numbers of size one, fitted once for each of the settings."""

    @cache
    def report(**settings: Any) -> dict[str, Any]:
        x, y = drawn()
        folder = tmp_path_factory.mktemp("plain")
        data = write(folder / "plain.parquet", x=x, label=y)
        run = mlclf.fit(data, "label", folder / "run", settings=settings)
        assert all(torch.isfinite(tensor).all() for tensor in load_file(run.path / "model.safetensors").values())
        return run.evaluate(data)

    return report


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"optimizer.name": "adam", "training.epochs": 2}])
@pytest.mark.parametrize(
    ("scale", "shift", "kind"),
    [
        (1e30, 0.0, np.float32),
        (1e300, 0.0, np.float64),
        (1e-300, 0.0, np.float64),
        (1e-30, 0.0, np.float32),
        (1.0, 1e8, np.float64),
        (1e300, -1e307, np.float64),
    ],
)
def test_numbers_of_any_size_train_as_numbers_of_size_one(
    tmp_path: Path, plain: Callable[..., dict[str, Any]], scale: float, shift: float, kind: type,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    x, y = drawn()
    data = write(tmp_path / "odd.parquet", x=(x * scale + shift).astype(kind), label=y)
    run = mlclf.fit(data, "label", tmp_path / "odd", settings=settings)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run.path / "model.safetensors").values())
    reports = [plain(**settings), run.evaluate(data)]
    assert all(math.isfinite(number) for number in all_numbers(reports[1]))
    assert reports[1]["macro"]["auroc"] == pytest.approx(reports[0]["macro"]["auroc"], abs=1e-3)
    assert reports[1]["log_loss"] == pytest.approx(reports[0]["log_loss"], abs=1e-3)


@pytest.mark.slow
def test_a_constant_of_1e8_is_dropped(tmp_path: Path) -> None:
    x, y = drawn()
    data = write(tmp_path / "a.parquet", x=x, big=np.full(ROWS, 1e8, np.float32), label=y)
    run = mlclf.fit(data, "label", tmp_path / "run")
    assert json.loads((run.path / "features.json").read_text())["dense"] == ["x"]


def test_values_far_beyond_training_score_finitely(tmp_path: Path) -> None:
    x, y = drawn()
    run = mlclf.fit(write(tmp_path / "a.parquet", x=x, label=y), "label", tmp_path / "run")
    far = write(tmp_path / "far.parquet", x=np.array([1e300, -1e300, 1e38, 0.0]), label=np.array([1, 0, 1, 0]))
    run.predict(far, tmp_path / "scores")
    scores = pq.read_table(tmp_path / "scores" / "far.parquet")["score_label"].to_numpy()
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[0] > 0.9
    assert scores[1] < 0.1
    assert all(math.isfinite(number) for number in all_numbers(run.evaluate(far)))


def test_two_values_far_beyond_training_do_not_make_nan(tmp_path: Path) -> None:
    """∞ − ∞, were the logits summed as they are."""
    x, y = drawn()
    run = mlclf.fit(write(tmp_path / "a.parquet", x=x, z=-x, label=y), "label", tmp_path / "run")
    far = write(tmp_path / "far.parquet", x=np.array([1e300, -1e300]), z=np.array([1e300, -1e300]))
    run.predict(far, tmp_path / "scores")
    assert np.isfinite(pq.read_table(tmp_path / "scores" / "far.parquet")["score_label"].to_numpy()).all()


@pytest.mark.slow
def test_held_out_rows_far_beyond_training_do_not_stop_a_fit(tmp_path: Path) -> None:
    x, y = drawn()
    data = write(tmp_path / "a.parquet", x=x, label=y)
    valid = write(tmp_path / "v.parquet", x=np.concatenate([x, [1e300, -1e300]]), label=np.concatenate([y, [1, 0]]))
    for name, settings in (("full", {}), ("steps", {"optimizer.name": "adam", "training.epochs": 2})):
        run = mlclf.fit(data, "label", tmp_path / name, valid=valid, settings=settings)
        assert all(math.isfinite(number) for number in all_numbers(run.metrics))


@pytest.mark.slow
def test_labels_of_minus_one_are_zero_and_the_loss_is_never_negative(tmp_path: Path) -> None:
    """BCE takes −1 as it takes 0 and falls without end."""
    x, y = drawn()
    reports = []
    for name, labels in (("zero", y), ("minus", np.where(y == 1, 1, -1).astype(np.int8))):
        data = write(tmp_path / f"{name}.parquet", x=x, label=labels)
        reports.append(mlclf.fit(data, "label", tmp_path / name, settings={"training.epochs": 3}).evaluate(data))
    assert reports[0] == reports[1]
    assert reports[0]["log_loss"] > 0
    codes = np.empty((3, 1), np.uint8)
    assert not LabelColumns(("label",)).encode(pa.table({"label": pa.array([-1, 1, None])}), "here", codes)
    assert codes[:, 0].tolist() == [0, 1, UNOBSERVED]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["balanced", "sqrt", 5.0])
@pytest.mark.parametrize("settings", [{}, {"optimizer.name": "adam", "training.epochs": 2}])
def test_pos_weight_without_positives_trains(tmp_path: Path, rule: Any, settings: dict[str, Any]) -> None:
    x, y = drawn()
    data = write(tmp_path / "a.parquet", x=x, label_none=np.zeros(ROWS, np.int8), label_some=y)
    run = mlclf.fit(data, "label_*", tmp_path / "run", settings={"loss.pos_weight": rule} | settings)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run.path / "model.safetensors").values())
    bias = float(load_file(run.path / "model.safetensors")["linear.bias"][0])
    assert bias == pytest.approx(math.log(0.5 / 300.5), abs=1e-4)
    assert all(math.isfinite(number) for number in all_numbers(run.metrics))


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_only_the_ratio_of_weights_counts(tmp_path: Path, factor: float) -> None:
    x, y = drawn()
    weights = np.random.default_rng(1).integers(1, 4, ROWS).astype(np.float64)
    models = []
    for name, scale in (("one", 1.0), ("scaled", factor)):
        data = write(tmp_path / f"{name}.parquet", x=x, w=weights * scale, label=y)
        settings = {"optimizer.l2": 0.01}
        run = mlclf.fit(data, "label", tmp_path / name, weight="w", settings=settings, valid_fraction=0)
        models.append(load_file(run.path / "model.safetensors"))
    torch.testing.assert_close(models[0]["linear.weight"], models[1]["linear.weight"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(models[0]["linear.bias"], models[1]["linear.bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_that_are_no_weights_are_refused(tmp_path: Path, value: float) -> None:
    x, y = drawn()
    data = write(tmp_path / "a.parquet", x=x, w=np.where(np.arange(ROWS) == 7, value, 1.0), label=y)
    with pytest.raises(DataError, match=r"a\.parquet row group 0 column 'w': "):
        mlclf.fit(data, "label", tmp_path / "run", weight="w")
    assert not (tmp_path / "run").exists()


def test_a_nan_score_is_refused_where_torchmetrics_gives_an_auroc_of_one() -> None:
    labels = torch.tensor([[1], [0], [0], [1]], dtype=torch.uint8)
    logits = torch.tensor([[math.nan], [0.1], [0.2], [0.3]])
    evaluation = Evaluation(torch.tensor([0.5]))
    with pytest.raises(DataError, match="finite"):
        count_rows(evaluation, logits, scores_of(logits), labels)


def test_logits_inside_zero_and_one_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    """torchmetrics applies the sigmoid when a batch leaves [0, 1], so weak models change their meaning."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.random((200, 1)).astype(np.float32))
    labels = torch.from_numpy((rng.random((200, 1)) < 0.6).astype(np.uint8))
    evaluation = Evaluation(torch.tensor([0.5]))
    count_rows(evaluation, logits, scores_of(logits), labels)
    report = evaluation.report(["label"], torch.tensor([0.5], dtype=torch.float64))
    truth, score = labels[:, 0].numpy(), scores_of(logits)[:, 0].numpy()
    entry = report["labels"]["label"]
    assert entry["log_loss"] == pytest.approx(log_loss(truth, score.astype(np.float64)), rel=1e-5)
    assert abs(entry["auroc"] - roc_auc_score(truth, score)) <= entry["error_bound"]["auroc"] + 1e-9
    area = average_precision_score(truth, score)
    assert abs(entry["average_precision"] - area) <= entry["error_bound"]["average_precision"] + 1e-9
    assert entry["recall_at_half"] == 1.0  # every score is above one half


def test_one_class_is_undefined_where_torchmetrics_gives_zero() -> None:
    scores, ones = torch.rand(20), torch.ones(20, dtype=torch.int64)
    with pytest.warns(UserWarning, match="No negative samples"):
        assert float(binary_auroc(scores, ones)) == 0.0
    evaluation = Evaluation(torch.tensor([0.5]))
    count_rows(evaluation, torch.logit(scores)[:, None], scores[:, None], ones[:, None].to(torch.uint8))
    entry = evaluation.report(["label"], torch.tensor([0.5], dtype=torch.float64))["labels"]["label"]
    assert entry["auroc"] is None
    assert entry["average_precision"] is None


@pytest.mark.slow
def test_separated_classes_end_in_finite_numbers(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, ROWS)
    data = write(tmp_path / "a.parquet", x=x, label=(x > 0).astype(np.int8))
    for name, settings in (("auto", {}), ("none", {"optimizer.l2": 0})):
        run = mlclf.fit(data, "label", tmp_path / name, settings=settings)
        report = run.evaluate(data)
        assert report["macro"]["auroc"] == 1.0
        assert all(math.isfinite(number) for number in all_numbers(report))


def test_scores_do_not_depend_on_the_batch_they_are_in() -> None:
    """A float32 sigmoid rounds differently inside a vector than alone."""
    logits = torch.randn(1000) * 5
    together = scores_of(logits)
    alone = torch.stack([scores_of(value) for value in logits])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_a_rate_that_explodes_is_an_error_and_leaves_nothing(tmp_path: Path, mlclf_command: Any) -> None:
    x, y = drawn()
    data = write(tmp_path / "a.parquet", x=x, label=y)
    arguments = ["fit", data, "--labels", "label", "--out", tmp_path / "run", "--valid-fraction", 0]
    for setting in ("optimizer.name=sgd", "optimizer.lr=1e9", "optimizer.l2=1", "training.epochs=3"):
        arguments += ["--set", setting]
    called = mlclf_command(*arguments)
    assert called.code == 1
    assert "is not finite; the rows of its batch begin in" in called.err
    assert "a.parquet row group 0. Lower optimizer.lr, or set training.precision=float32" in called.err
    assert not (tmp_path / "run").exists()
