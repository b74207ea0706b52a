"""Thresholds for rows in which labels occur more or less often than in those that were tuned on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlclf
from mlclf.errors import ConfigError


def drawn(path: Path, prevalence: float, rows: int, seed: int, labelled: bool = True) -> str:
    """Logits of two classes two deviations apart, calibrated at a prevalence of 0.3."""
    random = np.random.default_rng(seed)
    truth = random.random(rows) < prevalence
    logits = 2 * (random.normal(2.0 * truth - 1.0, 1.0)) + np.log(0.3 / 0.7)
    columns: dict[str, Any] = {"score_a": logits.astype(np.float32)}
    if labelled:
        columns["a"] = truth
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_thresholds_follow_a_prevalence_that_is_estimated(tmp_path: Path, mlclf_command: Any) -> None:
    old, new = drawn(tmp_path / "o.parquet", 0.3, 20_000, 0), drawn(tmp_path / "n.parquet", 0.05, 20_000, 1, False)
    called = mlclf_command(
        *("calibrate", old, "--score-kind", "logit", "--objective", "cost:1,1", "--out", tmp_path / "t.json"),
        *("--unlabelled", new),
    )
    assert called.code == 0, called.err
    entry = json.loads((tmp_path / "t.json").read_text())["labels"]["a"]
    share = entry["prevalence"]
    assert share["identifiable"]
    assert abs(share["new"] - 0.05) < 4 * share["standard_error"]
    plain = mlclf.calibrate_scores(old, "cost:1,1", tmp_path / "p.json", score_kind="logit")["labels"]["a"]
    wanted = np.log(0.95 / 0.05) - np.log(0.7 / 0.3)  # where p(1|z) is ½ at the new prevalence
    assert plain["threshold"] == pytest.approx(0.0, abs=0.4)
    assert entry["threshold"] == pytest.approx(wanted, abs=0.5)


def test_thresholds_follow_a_prevalence_that_is_known(tmp_path: Path) -> None:
    old = drawn(tmp_path / "o.parquet", 0.3, 20_000, 0)
    (tmp_path / "shares.json").write_text('{"a": 0.05}')
    options = {"score_kind": "logit", "prevalence": tmp_path / "shares.json"}
    for objective in ("cost:1,1", "f1", "precision:0.9"):
        document = mlclf.calibrate_scores(old, objective, tmp_path / "t.json", **options)
        plain = mlclf.calibrate_scores(old, objective, tmp_path / "p.json", score_kind="logit", confidence=None)
        entry = document["labels"]["a"]
        assert entry["prevalence"]["new"] == 0.05
        assert entry["threshold"] > plain["labels"]["a"]["threshold"]
        assert document["confidence"] is None


@pytest.mark.slow
def test_a_run_follows_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = {}
    for name, share in (("train", 0.3), ("new", 0.1)):
        truth = random.random(4000) < share
        table = pa.table({"x": random.normal(2.0 * truth - 1, 1.0), "label": truth})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        files[name] = str(tmp_path / f"{name}.parquet")
    run = mlclf.fit(files["train"], "label", tmp_path / "run")
    entry = run.calibrate([], "cost:1,1", tmp_path / "t.json", unlabelled=files["new"])["labels"]["label"]
    assert entry["prevalence"]["new"] == pytest.approx(0.1, abs=0.03)
    assert entry["threshold"] > 0.6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"b": 0.1}', "names 'b', which is not a label here"),
        ('{"a": 1}', "the share of 'a' must be above 0 and below 1, got 1"),
        ("[]", "must be a JSON file {label: share}, got []"),
        ("nonsense", "must be a JSON file {label: share}: "),
    ],
)
def test_prevalences_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    old = drawn(tmp_path / "o.parquet", 0.3, 100, 0)
    (tmp_path / "shares.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        mlclf.calibrate_scores(old, "f1", tmp_path / "t.json", score_kind="logit", prevalence=tmp_path / "shares.json")
    assert message in str(caught.value)
