"""Thresholds of scores in memory are those of the same scores in files, whatever holds them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mlclf
from mlclf.cli.tables import thresholds_lines
from mlclf.errors import ConfigError, DataError


def made(rows: int = 400, labels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 2, (rows, labels))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return scores, (random.random(scores.shape) < scores).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["f1", "micro_f1", "cost:1,3", "recall:0.5", "top_k:2", "alert_budget:50"])
def test_arrays_are_tuned_as_files_are(tmp_path: Path, objective: str) -> None:
    scores, labels = made()
    names = ["a", "b", "c"]
    columns = {f"score_{name}": scores[:, index] for index, name in enumerate(names)}
    columns |= {name: labels[:, index] for index, name in enumerate(names)}
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    document = mlclf.calibrate_scores(
        str(tmp_path / "scores.parquet"), objective, tmp_path / "t.json", score_kind="probability", labels=names
    )
    tuned = mlclf.tune_thresholds(scores, labels, objective=objective)
    found = tuned.to_json(names)
    assert found["labels"] == document["labels"]
    assert found.get("per_row") == document.get("per_row")
    assert (tuned.decide(torch.from_numpy(scores)).sum(0) > 0).any()


@pytest.mark.slow
def test_whatever_holds_them() -> None:
    scores, labels = made()
    wanted = mlclf.tune_thresholds(scores, labels).thresholds
    frame = pl.DataFrame(scores, schema=["a", "b", "c"])
    others: list[tuple[Any, Any]] = [
        (torch.from_numpy(scores), torch.from_numpy(labels)),
        (scores.tolist(), labels.tolist()),
        (frame, pl.DataFrame(labels, schema=["a", "b", "c"])),
        (frame.to_arrow(), labels.astype(bool)),
        (scores.astype(np.float64), labels.astype(np.float64)),
    ]
    for held, truth in others:
        torch.testing.assert_close(mlclf.tune_thresholds(held, truth).thresholds, wanted, rtol=0, atol=0)
    one = mlclf.tune_thresholds(scores[:, 0], labels[:, 0], objective="mcc").thresholds
    torch.testing.assert_close(one, mlclf.tune_thresholds(scores[:, :1], labels[:, :1], objective="mcc").thresholds)


def test_logits_are_decided_as_their_probabilities_are() -> None:
    scores, labels = made()
    logits = np.log(scores.astype(np.float64) / (1 - scores.astype(np.float64))).astype(np.float32)
    by_score = mlclf.tune_thresholds(scores, labels, objective="mcc").thresholds.numpy()
    by_logit = mlclf.tune_thresholds(logits, labels, objective="mcc", score_kind="logit").thresholds.numpy()
    assert ((scores >= by_score) == (logits >= by_logit)).all()


def test_weights_count_rows_and_missing_labels_do_not() -> None:
    scores, labels = made()
    times = np.random.default_rng(1).integers(0, 3, len(scores))
    repeated = mlclf.tune_thresholds(np.repeat(scores, times, 0), np.repeat(labels, times, 0), objective="mcc")
    weighted = mlclf.tune_thresholds(scores, labels, objective="mcc", weights=times)
    torch.testing.assert_close(weighted.thresholds, repeated.thresholds, rtol=0, atol=0)
    cells = mlclf.tune_thresholds(
        scores, labels, objective="mcc", weights=np.sqrt(times), label_weights=np.sqrt(times)[:, None].repeat(3, 1)
    )
    torch.testing.assert_close(cells.thresholds, repeated.thresholds, rtol=0, atol=0)
    hidden = np.where(times[:, None] > 0, labels, np.nan)
    masked = mlclf.tune_thresholds(scores, hidden, objective="mcc")
    kept = mlclf.tune_thresholds(scores[times > 0], labels[times > 0], objective="mcc")
    torch.testing.assert_close(masked.thresholds, kept.thresholds, rtol=0, atol=0)


def test_constraints_claim_their_confidence() -> None:
    scores, labels = made(4000)
    plain = mlclf.tune_thresholds(scores, labels, objective="precision:0.8")
    assert (plain.confidence, plain.method) == (0.95, "binomial")
    assert plain.status == ["tuned"] * 3
    assert (plain.precision > 0.8).all()
    none = mlclf.tune_thresholds(scores, labels, objective="precision:0.8", confidence=None)
    assert (none.confidence, none.method) == (None, "empirical")
    assert (none.thresholds <= plain.thresholds).all()
    rows = np.random.default_rng(0).uniform(0.5, 1, 4000)
    for options in ({"weights": rows}, {"groups": [f"g{row // 2}" for row in range(4000)]}):
        bet = mlclf.tune_thresholds(scores, labels, objective="precision:0.8", **options)
        assert (bet.confidence, bet.method) == (0.95, "betting")
    tight = mlclf.tune_thresholds(scores[:50], labels[:50], objective="precision:0.99")
    assert tight.status == ["unattainable"] * 3
    assert set(tight.to_json(["a", "b", "c"])["labels"]["a"]["best"]) >= {"precision", "threshold"}


def test_claims_say_up_to_which_weight_or_cluster_they_hold() -> None:
    scores, labels = made(4000)
    groups = np.minimum(np.arange(4000) // 2, 1900)  # one of 200 rows
    rows = np.where(np.arange(4000) == 7, 12.5, 1.0)
    names = ["a", "b", "c"]
    for options, kind, most, line in (
        ({"weights": rows}, "weight", 12.5, "no row weighs more than 12.5"),
        ({"groups": groups}, "cluster", 200.0, "no cluster has more than {:g} flagged rows by weight"),
    ):
        found = mlclf.tune_thresholds(scores, labels, objective="precision:0.7", **options)
        document = found.to_json(names)
        limits = [entry["holds_up_to"] for entry in document["labels"].values() if entry["status"] == "tuned"]
        assert document["holds_up_to"] == {kind: min(limits)} == dict(found.holds_up_to)
        assert 2 <= min(limits) <= max(limits) <= most
        shown = f"the claim holds where {line.format(min(limits))}, the most that was seen"
        assert list(thresholds_lines(document))[1] == shown
        assert mlclf.Thresholds.from_json(document, names).holds_up_to == {kind: min(limits)}
    plain = mlclf.tune_thresholds(scores, labels, objective="precision:0.7").to_json(names)
    assert "holds_up_to" not in plain
    assert all("holds_up_to" not in entry for entry in plain["labels"].values())
    nothing = mlclf.tune_thresholds(scores, labels, objective="f1", weights=rows).to_json(names)
    assert "holds_up_to" not in nothing


def test_a_label_that_cannot_says_what_its_best_supposes() -> None:
    scores, labels = made(300)
    found = mlclf.tune_thresholds(scores, labels, objective="precision:0.999", weights=np.full(300, 3.0))
    assert set(found.status) == {"unattainable"}
    assert found.holds_up_to == {"weight": 3.0}


def test_earlier_thresholds_draw_new_ones() -> None:
    scores, labels = made(60, seed=5)
    prior = [0.4, math.nan, 0.3]
    tuned = mlclf.tune_thresholds(scores, labels, objective="f1", prior=prior)
    assert tuned.thresholds.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score_kind": "odds"}, ConfigError, "score_kind must be 'probability' or 'logit', got 'odds'"),
        ({"method": "best"}, ConfigError, "method must be 'auto' or 'plain', got 'best'"),
        ({"objective": "f3"}, ConfigError, "the objective must be one of"),
        ({"confidence": 2.0}, ConfigError, "--confidence must be above 0 and below 1"),
        ({"labels": np.zeros((3, 3))}, DataError, "labels must have the shape [400, 3]"),
        ({"labels": np.full((400, 3), 2)}, DataError, "labels must be 0, 1 or missing, found 2.0 in row 0, label 0"),
        ({"scores": np.full((400, 3), np.nan)}, DataError, "scores must be numbers, found NaN in row 0, label 0"),
        (
            {"scores": np.full((400, 3), 1.5)},
            DataError,
            "probabilities must be from 0 to 1, found 1.5 in row 0, label 0",
        ),
        ({"scores": [["a"] * 3] * 400}, DataError, "scores must be numbers"),
        ({"weights": [1.0]}, DataError, "weights must have the shape [400]"),
        ({"groups": ["a"]}, DataError, "groups must have the shape [400]"),
        ({"prior": [0.5]}, DataError, "prior must have the shape [3]"),
        ({"weights": np.full(400, -1.0)}, DataError, "weights must be finite and not negative"),
    ],
)
def test_what_is_not_right_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    scores, labels = made()
    arguments = {"scores": scores, "labels": labels} | options
    with pytest.raises(error) as caught:
        mlclf.tune_thresholds(arguments.pop("scores"), arguments.pop("labels"), **arguments)
    assert message in str(caught.value)


def test_what_an_unattainable_label_can_hold_is_shown() -> None:
    scores, labels = made(400)
    document = mlclf.tune_thresholds(scores, labels, objective="precision:0.99").to_json(["a", "b", "c"])
    lines = list(thresholds_lines(document))
    assert lines[0] == "objective precision:0.99, method binomial, confidence 0.95"
    best = document["labels"]["a"]["best"]
    assert lines[2].endswith(f"can hold precision {best['precision']:.4f} at {best['threshold']:.4f}")


def test_columns_of_frames_are_paired_by_name() -> None:
    scores, labels = made()
    scored, truth = pl.DataFrame(scores, schema=["a", "b", "c"]), pl.DataFrame(labels, schema=["a", "b", "c"])
    wanted = mlclf.tune_thresholds(scored, truth, objective="cost:1,3").thresholds
    turned = truth.select("c", "a", "b")
    prefixed = scored.rename({name: f"score_{name}" for name in scored.columns})
    for held in (scored, prefixed, prefixed.to_arrow()):
        for other in (turned, turned.to_arrow(), labels):
            found = mlclf.tune_thresholds(held, other, objective="cost:1,3")
            torch.testing.assert_close(found.thresholds, wanted, rtol=0, atol=0)
    weights = np.random.default_rng(2).random(labels.shape)
    by_place = mlclf.tune_thresholds(scored, truth, objective="cost:1,3", label_weights=weights).thresholds
    named = pl.DataFrame(weights, schema=["a", "b", "c"]).select("b", "c", "a")
    by_name = mlclf.tune_thresholds(scored, truth, objective="cost:1,3", label_weights=named).thresholds
    torch.testing.assert_close(by_name, by_place, rtol=0, atol=0)


def test_columns_of_other_names_are_refused() -> None:
    scores, labels = made()
    message = (
        r"labels must have the columns 'a', 'b', 'c', in any order, got 'a', 'b', 'd'; "
        r"name them alike, or give arrays, whose columns are taken as they stand"
    )
    with pytest.raises(DataError, match=message):
        mlclf.tune_thresholds(
            pl.DataFrame(scores, schema=["a", "b", "c"]), pl.DataFrame(labels, schema=["a", "b", "d"])
        )


def test_decide_takes_what_was_tuned() -> None:
    scores, labels = made()
    frame = pl.DataFrame(scores, schema=["a", "b", "c"])
    tuned = mlclf.tune_thresholds(frame, labels, objective="mcc")
    wanted = scores >= tuned.thresholds.numpy()
    assert wanted.any(0).all()
    for held in (
        scores,
        scores.tolist(),
        scores.astype(np.float64),
        frame,
        frame.select("c", "b", "a"),
        frame.to_arrow(),
    ):
        found = tuned.decide(held)
        assert found.dtype == bool
        assert (found == wanted).all()
    assert (tuned.decide(torch.from_numpy(scores)).numpy() == wanted).all()
    one = mlclf.tune_thresholds(scores[:, 0], labels[:, 0], objective="mcc")
    assert (one.decide(scores[:, 0]) == (scores[:, 0] >= one.thresholds.numpy())).all()


def test_decide_refuses_other_shapes_and_names() -> None:
    scores, labels = made()
    tuned = mlclf.tune_thresholds(pl.DataFrame(scores, schema=["a", "b", "c"]), labels)
    with pytest.raises(DataError, match=r"scores must have a column for each of 3 labels, got the shape \[400, 2\]"):
        tuned.decide(scores[:, :2])
    with pytest.raises(DataError, match="scores must have the columns 'a', 'b', 'c', in any order, got 'a', 'b', 'x'"):
        tuned.decide(pl.DataFrame(scores, schema=["a", "b", "x"]))
    with pytest.raises(DataError, match="scores must be numbers"):
        tuned.decide([["high", "low", "low"]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Int64", "boolean", "Float64", "object", "bool[pyarrow]", "int8[pyarrow]"])
def test_missing_labels_of_pandas_are_not_observed(kind: str) -> None:
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    scores = rng.random((200, 2))
    labels = (rng.random((200, 2)) < scores).astype(float)
    gaps = rng.random((200, 2)) < 0.1
    labels[gaps] = np.nan
    frame = pd.DataFrame(labels, columns=["y", "z"])
    frame = (
        frame.astype(object).mask(gaps, pd.NA).astype(kind) if kind == "object" else frame.astype("Int64").astype(kind)
    )
    expected = mlclf.tune_thresholds(scores, labels)
    found = mlclf.tune_thresholds(scores, frame)
    assert found.status == expected.status
    np.testing.assert_array_equal(found.thresholds, expected.thresholds)
    one = mlclf.tune_thresholds(scores[:, 0], frame["y"])
    np.testing.assert_array_equal(one.thresholds, mlclf.tune_thresholds(scores[:, 0], labels[:, 0]).thresholds)
    lists = [[None if np.isnan(value) else int(value) for value in row] for row in labels]
    np.testing.assert_array_equal(mlclf.tune_thresholds(scores, lists).thresholds, expected.thresholds)


def test_rows_without_a_group_are_clusters_of_their_own() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(2000)
    labels = rng.random(2000) < scores
    own = [str(row) for row in range(2000)]
    options = {"objective": "precision:0.8", "confidence": 0.9}
    expected = mlclf.tune_thresholds(scores, labels, groups=own, **options)  # type: ignore[arg-type]
    for missing in (None, float("nan")):
        found = mlclf.tune_thresholds(scores, labels, groups=[missing] * 1999 + ["a"], **options)  # type: ignore[arg-type]
        assert found.status == expected.status == ["tuned"]
        np.testing.assert_array_equal(found.thresholds, expected.thresholds)
