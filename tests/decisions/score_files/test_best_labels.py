"""Decisions on lists of the best labels are those on all scores, or nobody knows them."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.decisions.score_files.best_labels import decide_on_best, decided_lists
from mlclf.decisions.score_files.columns import Place
from mlclf.errors import DataError

PLACE = Place("f.parquet row group 0", 10, "f.parquet")
NAMES = tuple("abcdef")


def best(scores: np.ndarray, top: int) -> pa.Table:
    order = (-scores).argsort(axis=1, kind="stable")[:, :top]
    labels = [[NAMES[index] for index in row] for row in order]
    listed = np.take_along_axis(scores, order, 1).tolist()
    return pa.table(
        {"top_labels": pa.array(labels, pa.list_(pa.string())), "top_scores": pa.array(listed, pa.list_(pa.float32()))}
    )


def slow_lists(scores: np.ndarray, decisions: np.ndarray) -> list[list[str]]:
    """Row by row."""
    found = []
    for row, decided in zip(scores, decisions, strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        found.append([NAMES[index] for index in order if decided[index]])
    return found


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([None, 1, 2]))
def test_what_is_decided_is_what_all_scores_decide(seed: int, top: int, per_row: int | None) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 5, (8, 6)).astype(np.float32) / 4
    cuts = (random.integers(0, 5, 6) / 4).astype(np.float32)
    cuts[random.random(6) < 0.2] = np.nan
    decisions = scores >= cuts
    if per_row is not None:
        places = (-scores).argsort(axis=1, kind="stable").argsort(axis=1)
        decisions &= places < per_row
    wanted = slow_lists(scores, decisions)
    assert decided_lists(scores, decisions, NAMES).to_pylist() == wanted
    try:
        found = decide_on_best(best(scores, top), cuts, NAMES, per_row, PLACE).to_pylist()
    except DataError:
        order = (-scores).argsort(axis=1, kind="stable")
        last = np.take_along_axis(scores, order, 1)[:, top - 1]
        unlisted = [(cuts[order[row, top:]] <= last[row]).any() for row in range(8)]
        assert any(unlisted)
        assert per_row is None or top < per_row
    else:
        assert found == wanted


def test_a_label_that_may_reach_its_threshold_is_named() -> None:
    scores = np.array([[0.9, 0.1, 0.2, 0, 0, 0], [0.5, 0.4, 0.3, 0.2, 0.1, 0]], np.float32)
    cuts = np.array([0.5, 0.45, 0.3, 0.6, 0.5, 0.5], np.float32)
    message = (
        "f.parquet row 11: 'top_scores' lists 2 of 6 labels, the last with 0.4, and label 'c', which is not listed, "
        "may reach its threshold of 0.3; predict again with --top 6, which lists all"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        decide_on_best(best(scores, 2), cuts, NAMES, None, PLACE)
    assert decide_on_best(best(scores, 6), cuts, NAMES, None, PLACE).to_pylist() == [["a"], ["a", "c"]]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([["a", "b"]], [[0.5]], "f.parquet row 10: 'top_labels' and 'top_scores' must have lists of one length"),
        ([["z"]], [[0.5]], "label 'z' has no threshold; give the thresholds of these labels"),
        (
            [["a", "b"]],
            [[0.1, 0.5]],
            "row 10: 'top_scores' must hold falling numbers, as predict writes them",
        ),
        ([["a"]], [[None]], "row 10: 'top_scores' must hold falling numbers, as predict writes them"),
    ],
)
def test_lists_that_are_no_best_labels(labels: list[list[str]], scores: list[list[float]], message: str) -> None:
    table = pa.table(
        {"top_labels": pa.array(labels, pa.list_(pa.string())), "top_scores": pa.array(scores, pa.list_(pa.float32()))}
    )
    with pytest.raises(DataError, match=f"{re.escape(message)}$"):
        decide_on_best(table, np.full(6, 0.9, np.float32), NAMES, None, PLACE)
