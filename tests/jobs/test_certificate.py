"""The certificate in a run: as near the optimum as scikit-learn's coefficients are, and named where there is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_tables import document, write
from sklearn.linear_model import LogisticRegression

import mlclf

ROWS = 400


def table(seed: int = 0) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, 4)).astype(np.float32)
    y = random.random((ROWS, 2)) < 1 / (1 + np.exp(-x[:, :2]))
    columns = {f"x{j}": x[:, j] for j in range(4)} | {"label_a": y[:, 0], "label_b": y[:, 1]}
    return pa.table(columns), x, y


def fitted(path: str, out: Path, caplog: Any, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """The certificate of a fit on all rows without knots, and its lines."""
    dotted = {"features.knots": "none"} | {name.replace("__", "."): value for name, value in settings.items()}
    with caplog.at_level(logging.INFO, "mlclf"):
        mlclf.fit(path, "label_*", out, valid_fraction=0, settings=dotted)
    return document(out / "manifest.json")["training"]["certificate"], caplog.messages


@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_a_fixed_l2_is_certified(tmp_path: Path, caplog: Any, solver: str) -> None:
    data, x, y = table()
    path = write(tmp_path / "t.parquet", data)
    found, lines = fitted(path, tmp_path / "run", caplog, optimizer__l2=0.01, optimizer__name=solver)
    assert set(found["labels"]) == {"label_a", "label_b"}
    assert found["separated"] == found["stopped"] == []
    assert 0 <= found["duality_gap"] < 1e-10
    assert 0 <= found["gradient_norm"] < 1e-5
    assert found["gradient_norm"] == max(entry["gradient_norm"] for entry in found["labels"].values())
    line = (
        f"optimum: norm of the gradient at most {found['gradient_norm']:.1e}, loss at most {found['duality_gap']:.1e} "
        "nats a row above its least (duality gap)"
    )
    assert line in lines
    standard = (x - x.mean(0)) / x.std(0)
    scores = mlclf.Run.open(tmp_path / "run")
    oracle = LogisticRegression(C=1 / (0.01 * ROWS), tol=1e-10).fit(standard, y[:, 0])
    weights = scores.scorer.model.linear.weight[0].detach().numpy()
    np.testing.assert_allclose(weights, oracle.coef_[0], rtol=1e-3)


def test_steps_without_early_stopping_are_certified_too(tmp_path: Path, caplog: Any) -> None:
    """Longer training comes nearer; the gap bounds the loss that is left."""
    data, x, y = table()
    path = write(tmp_path / "t.parquet", data)
    gaps = []
    for epochs in (1, 60):
        settings = {"optimizer__l2": 0.01, "optimizer__name": "adam", "training__epochs": epochs}
        found, _ = fitted(path, tmp_path / f"run{epochs}", caplog, **settings)
        gaps.append(found["duality_gap"])
        head = mlclf.Run.open(tmp_path / f"run{epochs}").scorer.model.linear
        standard = (x - x.mean(0)) / x.std(0)
        for label in range(2):
            oracle = LogisticRegression(C=1 / (0.01 * ROWS), tol=1e-10).fit(standard, y[:, label])
            weights, bias = head.weight[label].detach().double().numpy(), float(head.bias[label].detach())

            def objective(w: np.ndarray, b: float, label: int = label, z: np.ndarray = standard) -> float:
                logits = z @ w + b
                return float(np.logaddexp(0, np.where(y[:, label], -logits, logits)).mean() + 0.005 * w @ w)

            above = objective(weights, bias) - objective(oracle.coef_[0], float(oracle.intercept_[0]))
            assert above <= found["labels"][f"label_{'ab'[label]}"]["duality_gap"] + 1e-6  # the head is in float32
    assert gaps[1] < gaps[0] / 10


@pytest.mark.slow
def test_early_stopping_has_no_certificate(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", table()[0])
    mlclf.fit(path, "label_*", tmp_path / "run", settings={"optimizer.l2": 0.01, "optimizer.name": "adam"})
    assert "certificate" not in document(tmp_path / "run" / "manifest.json")["training"]


@pytest.mark.parametrize("kind", ["all", "a part"])
def test_separated_labels_without_a_penalty_are_named(tmp_path: Path, caplog: Any, kind: str) -> None:
    data, x, y = table()
    flag = np.arange(ROWS) < 30
    separated = x[:, 0] + x[:, 1] > 0 if kind == "all" else y[:, 0] | flag
    data = data.append_column("flag", pa.array(flag.astype(np.float32))).append_column("label_c", pa.array(separated))
    path = write(tmp_path / "t.parquet", data)
    warning = (
        "the inputs separate the classes of label 'label_c': without a penalty there is no optimum, weights only grow; "
        "an optimizer.l2 above 0 has one"
    )
    found, lines = fitted(path, tmp_path / "run", caplog, optimizer__l2=0)
    assert found["separated"] == ["label_c"]
    assert found["labels"]["label_a"]["duality_gap"] is None
    assert warning in lines
    caplog.clear()
    found, lines = fitted(path, tmp_path / "penalised", caplog, optimizer__l2=1e-4)
    assert found["separated"] == []
    assert warning not in lines
