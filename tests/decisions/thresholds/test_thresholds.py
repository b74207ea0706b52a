"""Thresholds say what they decide, and their file reads back exactly; damaged files are refused."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.thresholds.thresholds import Thresholds, fallback_thresholds
from mlclf.decisions.tuning.best_cut import best_thresholds
from mlclf.errors import ConfigError, RunError


def tuned_document() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    histogram = LabelHistogram(3, 4096)
    logits = torch.randn(200, 3, generator=generator)
    histogram.update(logits, torch.rand(200, 3, generator=generator) < scores_of(logits))
    tuned = best_thresholds(histogram, parse_objective("cost:1,0.2"))
    document: dict[str, Any] = json.loads(json.dumps(tuned.to_json(["a", "b", "c"]), allow_nan=False))
    return document


def test_the_document_has_the_keys_of_the_contract() -> None:
    document = tuned_document()
    assert set(document) == {"format_version", "objective", "method", "confidence", "labels"}
    assert list(document["labels"]) == ["a", "b", "c"]
    for entry in document["labels"].values():
        assert set(entry) == {"threshold", "status", "support", "precision", "recall", "f1", "interval"}


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.one_of(st.floats(0, 1, width=32), st.just(math.nan)), min_size=2, max_size=2))
def test_thresholds_read_back_exactly(values: list[float]) -> None:
    wrote = fallback_thresholds(2, torch.tensor([3, 4]), "recall:0.9")
    wrote.thresholds[:] = torch.tensor(values)
    wrote.intervals[0] = torch.tensor(values)
    document = json.loads(json.dumps(wrote.to_json(["a", "b"]), allow_nan=False))
    read = Thresholds.from_json(document, ["b", "a"])
    assert read.thresholds.numpy().tobytes() == wrote.thresholds.flip(0).numpy().tobytes()
    torch.testing.assert_close(read.intervals, wrote.intervals.flip(0), rtol=0, atol=0, equal_nan=True)
    assert read.support.tolist() == [4, 3]
    assert (read.objective, read.method, read.confidence) == ("recall:0.9", "empirical", None)
    assert read.to_json(["b", "a"])["labels"] == document["labels"]


def test_another_format_version_is_refused() -> None:
    message = "thresholds must have format_version 1, got 7; read them with the version of mlclf that wrote them"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        Thresholds.from_json(tuned_document() | {"format_version": 7}, ["a", "b", "c"])


def test_missing_parts_are_refused() -> None:
    with pytest.raises(RunError, match=r"^thresholds must have 'method', 'labels'; run calibrate again$"):
        Thresholds.from_json({"format_version": 1, "objective": "f1", "confidence": None}, ["a"])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a", "b", "c", "d"], "missing: 'd'"),
        (["a", "b"], "unknown: 'c'"),
        (["b", "x\n"], "missing: 'x\\n'; unknown: 'a', 'c'"),
        (
            [f"x{i}" for i in range(12)] + ["a", "b", "c"],
            f"missing: {str([f'x{i}' for i in range(10)])[1:-1]} and 2 more",
        ),
    ],
)
def test_other_labels_are_refused(names: list[str], found: str) -> None:
    message = f"thresholds must be of the labels that are scored, got {found}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Thresholds.from_json(tuned_document(), names)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"threshold": 1.5}, "threshold must be a number from 0 to 1 or null, got 1.5"),
        ({"threshold": "0.5"}, "threshold must be a number from 0 to 1 or null, got '0.5'"),
        ({"recall": True}, "recall must be a number from 0 to 1 or null, got True"),
        ({"f1": math.nan}, "f1 must be a number from 0 to 1 or null, got nan"),
        ({"interval": [0.1]}, "interval must be two numbers or nulls, got [0.1]"),
        ({"interval": [0.1, 2]}, "interval end must be a number from 0 to 1 or null, got 2"),
        ({"status": "good"}, "status must be one of tuned, shrunk, fallback, unattainable, got 'good'"),
        ({"support": -1}, "support must be a count of rows, got -1"),
        ({"support": 1.5}, "support must be a count of rows, got 1.5"),
    ],
)
def test_damaged_entries_are_refused_together(changes: dict[str, Any], problem: str) -> None:
    document = copy.deepcopy(tuned_document())
    document["labels"]["a"] |= changes
    document["labels"]["c"] = {"threshold": 0.5}
    message = (
        f"thresholds must be as calibrate writes them, got\nlabel 'a': {problem}\n"
        "label 'c': no status, support, precision, recall, f1, interval"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        Thresholds.from_json(document, ["a", "b", "c"])


def test_a_limit_of_labels_a_row_is_kept_in_the_file_and_in_decisions() -> None:
    limited = replace(fallback_thresholds(3, torch.tensor([1, 1, 1]), "top_k:2"), per_row=2)
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.6, 0.6], [0.1, 0.9, 0.2]])
    decided = [[True, True, False], [True, True, False], [False, True, False]]
    assert limited.decide(scores).tolist() == decided
    document = json.loads(json.dumps(limited.to_json(["a", "b", "c"])))
    assert document["per_row"] == 2
    assert Thresholds.from_json(document, ["a", "b", "c"]).decide(scores).tolist() == decided


@pytest.mark.parametrize("count", [0, 1.5, "2", True])
def test_a_damaged_limit_is_refused(count: Any) -> None:
    message = f"thresholds must have a count of 1 or more as 'per_row', got {count!r}; run calibrate again"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        Thresholds.from_json(tuned_document() | {"per_row": count}, ["a", "b", "c"])


@pytest.mark.parametrize("limits", [{"weight": "5"}, {"cluster": True}, [5.0], None])
def test_a_damaged_limit_of_the_claim_is_refused(limits: Any) -> None:
    message = f"thresholds must have numbers by name as 'holds_up_to', got {limits!r}; run calibrate again"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        Thresholds.from_json(tuned_document() | {"holds_up_to": limits}, ["a", "b", "c"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_of_a_model_that_is_being_trained_are_decided_too(dtype: torch.dtype) -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    scores = torch.sigmoid(logits)
    limits = torch.tensor([0.5, math.nan, 0.25])
    thresholds = replace(fallback_thresholds(3, torch.ones(3, dtype=torch.int64)), thresholds=limits)
    wanted = torch.stack([scores[:, 0] >= 0.5, torch.zeros(50, dtype=torch.bool), scores[:, 2] >= 0.25], 1)
    assert thresholds.decide(scores).equal(wanted)
