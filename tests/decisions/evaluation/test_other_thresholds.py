"""Metrics at other thresholds, from histograms, are those of counting the rows again; or None, where bins hide them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_cells import count_rows
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.evaluation.other_thresholds import confusion_at, rejudged
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.thresholds.thresholds import Thresholds, fallback_thresholds

NAMES = ["a", "b", "c"]
PREVALENCES = torch.tensor([0.4, 0.3, 0.5], dtype=torch.float64)
ACROSS = {"subset_accuracy"}


def made(seed: int = 0, rows: int = 300, weighted: bool = True) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(-1, 2, (rows, 3)).round(1), dtype=torch.float32)
    weights = torch.tensor(rng.integers(1, 4, rows) / 4) if weighted else torch.ones(rows, dtype=torch.float64)
    return {
        "logits": logits,
        "scores": scores_of(logits),
        "labels": torch.tensor(rng.random((rows, 3)) < 0.4),
        "mask": torch.tensor(rng.random((rows, 3)) < 0.8),
        "weights": weights,
    }


def at(cuts: list[float]) -> Thresholds:
    return replace(fallback_thresholds(3, torch.zeros(3, dtype=torch.int64)), thresholds=torch.tensor(cuts))


def report(data: dict[str, Tensor], thresholds: Thresholds) -> tuple[dict[str, Any], LabelHistogram]:
    evaluation = Evaluation(thresholds.thresholds, decide=thresholds.decide)
    count_rows(evaluation, **data)
    return evaluation.report(NAMES, PREVALENCES), evaluation.histogram


def assert_close(found: Any, wanted: Any, where: str = "") -> None:
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), where
        for name in wanted:
            assert_close(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12), where
    else:
        assert found == wanted, where


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cuts", [[0.5, 0.2, 0.9], [0.0, 1.0, 0.3], [torch.nan, 0.4, 0.01]])
def test_other_thresholds_give_what_counting_the_rows_gives(weighted: bool, cuts: list[float]) -> None:
    data = made(weighted=weighted)
    before, histogram = report(data, at([0.3, 0.6, 0.7]))
    wanted, _ = report(data, at(cuts))
    found = rejudged(before, histogram, at(cuts))
    assert found["subset_accuracy"] is None
    for name in ACROSS:
        found[name] = wanted[name]
    assert_close(found, wanted)


def test_thresholds_that_are_scores_decide_as_their_rows_do() -> None:
    data = made(seed=1)
    cuts = [float(data["scores"][7, label]) for label in range(3)]
    before, histogram = report(data, at([0.3, 0.6, 0.7]))
    wanted, _ = report(data, at(cuts))
    assert rejudged(before, histogram, at(cuts))["micro"] == pytest.approx(wanted["micro"], rel=1e-12)


def test_a_threshold_inside_a_bin_is_not_known() -> None:
    histogram = LabelHistogram(2, num_bins=256)
    logits = torch.tensor([[0.01, -3.0], [0.05, 2.0], [-1.0, 1.0]])
    histogram.update(logits, torch.tensor([[1, 0], [0, 1], [0, 1]], dtype=torch.uint8))
    inside = float(scores_of(torch.tensor([0.03]))[0])
    counts = confusion_at(histogram, torch.tensor([inside, 0.5]))
    assert counts[:, 0].isnan().all()
    assert counts[:, 1].tolist() == [2, 0, 0, 1]


def test_what_nobody_knows_is_none() -> None:
    data = made()
    before, histogram = report(data, at([0.3, 0.6, 0.7]))
    found = rejudged(before, histogram, replace(at([0.3, 0.6, 0.7]), per_row=1))
    assert {found["micro"]["f1"], found["macro"]["f1"], found["labels"]["a"]["f1"], found["hamming_loss"]} == {None}
    assert found["micro"]["f1_at_half"] == before["micro"]["f1_at_half"]
    assert found["labels"]["a"]["auroc"] == before["labels"]["a"]["auroc"]
