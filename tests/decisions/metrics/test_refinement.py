"""Refined AUROC and average precision have intervals within the tolerance that hold the exact values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.average_precision import average_precision
from mlclf.decisions.metrics.exact_ranking import exact_ranking, exact_rankings
from mlclf.decisions.metrics.refinement import Refinement, refined
from mlclf.errors import DataError

ROUNDING = 1e-12  # sums of at most a few thousand float64 numbers near 1
KINDS = ["normal", "ties", "one tied mass", "tight", "near zero", "all below 0.001", "beyond the bins"]
Values = tuple[Tensor, Tensor]


def drawn(kind: str, rows: int, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 2)) < 0.2
    labels[0], labels[1] = True, False
    logits = rng.normal(-2, 1.5, (rows, 2)) + labels
    if kind == "ties":
        logits = logits.round()
    elif kind == "one tied mass":
        logits[rng.random((rows, 2)) < 0.5] = -2.0
    elif kind == "tight":
        logits = -8 + 1e-4 * logits
    elif kind == "near zero":
        logits = 1e-6 * logits
    elif kind == "all below 0.001":
        logits = -7 - np.abs(logits)
    elif kind == "beyond the bins":
        logits = logits * 1000 - 40_000
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def exact(logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> Values:
    def rows_of(label: int) -> tuple[Tensor, Tensor, Tensor | None]:
        seen = slice(None) if mask is None else mask[:, label]
        weight = None if weights is None else (weights if weights.dim() == 1 else weights[:, label])[seen]
        return logits[seen, label], labels[seen, label], weight

    return exact_rankings(logits.shape[1], rows_of)


def measured(counted: LabelHistogram | Refinement) -> tuple[Values, Values]:
    if isinstance(counted, Refinement):
        return counted.auroc(), counted.average_precision()
    return auroc(counted), average_precision(counted)


def halves(logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> list[Cells]:
    middle = len(logits) // 2
    whole = Cells(logits, labels.byte(), torch.zeros(len(logits), dtype=torch.int64), mask)
    if weights is not None and weights.dim() == 1:
        whole.weights = weights
    else:
        whole.label_weights = weights
    places = torch.arange(len(logits))
    return [whole.where(places < middle), whole.where(places >= middle)]


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_ends_within_the_tolerance_and_holds_the_exact_value(kind: str, transposed: bool) -> None:
    logits, labels = drawn(kind, 4000)
    if transposed:
        logits, labels = logits.t().contiguous().t(), labels.t().contiguous().t()
    histogram = LabelHistogram(2, 256)
    histogram.update(logits, labels)
    found = refined(histogram, lambda: halves(logits, labels), 1e-4)
    assert (found is histogram) == (kind == "ties")
    for (values, bounds), want in zip(measured(found), exact(logits, labels), strict=True):
        assert (2 * bounds <= 1e-4).all()
        assert ((values - want).abs() <= bounds + ROUNDING).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(2, 150),
    kind=st.sampled_from(KINDS),
    masked=st.booleans(),
    weighted=st.sampled_from(["no", "rows", "cells"]),
    tolerance=st.sampled_from([0.1, 1e-3, 1e-9]),
    most_parts=st.sampled_from([2, 8, 64, 65_536]),
)
def test_any_interval_holds_the_exact_value_and_the_last_is_within_the_tolerance(
    seed: int, rows: int, kind: str, masked: bool, weighted: str, tolerance: float, most_parts: int
) -> None:
    logits, labels = drawn(kind, rows, seed)
    rng = np.random.default_rng(seed)
    mask = torch.tensor(rng.random((rows, 2)) < 0.8) if masked else None
    shape = {"no": None, "rows": (rows,), "cells": (rows, 2)}[weighted]
    weights = None if shape is None else torch.tensor(rng.integers(0, 4, shape) / 2)
    histogram = LabelHistogram(2, 16)
    histogram.update(logits, labels, mask, weights)
    want = exact(logits, labels, mask, weights)
    counted: LabelHistogram | Refinement = histogram
    for _ in range(500):
        for (values, bounds), truth in zip(measured(counted), want, strict=True):
            assert values.isnan().tolist() == truth.isnan().tolist()
            assert ((values - truth).abs() <= bounds + ROUNDING).logical_or(truth.isnan()).all()
        step = Refinement.needed(counted, tolerance, budget_bytes=24 * 2 * most_parts)
        if step is None:
            break
        assert step.num_parts <= 2 * max(2, 2 * most_parts)
        for cells in halves(logits, labels, mask, weights):
            step.update(cells.logits, cells.labels, cells.mask, cells.cell_weights())
        counted = step
    assert Refinement.needed(counted, tolerance) is None


def test_parts_take_the_memory_that_they_are_given() -> None:
    logits, labels = drawn("normal", 4000)
    histogram = LabelHistogram(2, 4096)
    histogram.update(logits, labels)
    for budget in (24 * 100, 24 * 10_000):
        step = Refinement.needed(histogram, 1e-6, budget)
        assert step is not None
        states = (step.counts, step.least, step.greatest)
        assert budget / 2 < sum(state.numel() * state.element_size() for state in states) <= budget


def test_only_what_matters_is_split() -> None:
    logits, labels = drawn("normal", 4000)
    logits[:, 1] = logits[:, 1].round()
    histogram = LabelHistogram(2, 4096)
    histogram.update(logits, labels)
    step = Refinement.needed(histogram)
    assert step is not None
    assert step.split_labels() == [0]
    assert step.num_parts < int(histogram.nonempty()[0].sum()) * 40


def test_a_single_label_keeps_its_axis() -> None:
    logits, labels = (column[:, :1] for column in drawn("tight", 500))
    histogram = LabelHistogram(1, 256)
    histogram.update(logits, labels)
    found = refined(histogram, lambda: halves(logits, labels), 1e-6)
    assert isinstance(found, Refinement)
    assert [part.shape for pair in measured(found) for part in pair] == [(1,)] * 4
    torch.testing.assert_close(found.auroc()[0], exact(logits, labels)[0], rtol=0, atol=1e-6)


def test_other_rows_are_refused() -> None:
    logits = torch.tensor([[0.0], [0.01], [0.02], [0.03]])
    labels = torch.tensor([[0], [1], [0], [1]])
    histogram = LabelHistogram(1, 256)
    histogram.update(logits, labels)
    step = Refinement.needed(histogram)
    assert step is not None
    step.update(logits[1:], labels[1:])
    message = (
        "the second pass must see the rows of the first: the weights of the negative rows of label 0 with logits from "
        "0.0 to 0.029999999329447746 must sum to 2.0, got 1.0; score the same data with the same model"
    )
    for answer in (step.auroc, step.average_precision, lambda: Refinement.needed(step)):
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            answer()
    step.reset()
    step.update(logits, labels)
    assert float(step.auroc()[0]) == 0.75


def test_rows_of_the_same_bins_but_other_logits_are_refused() -> None:
    logits = torch.tensor([[0.01], [0.02], [0.03], [0.04]])
    labels = torch.tensor([[0], [1], [0], [1]])
    histogram = LabelHistogram(1, 256)
    histogram.update(logits, labels)
    for strange in (0.001, 0.05):
        step = Refinement.needed(histogram)
        assert step is not None
        step.update(torch.tensor([[0.01], [0.02], [0.03], [strange]]), labels)
        with pytest.raises(DataError, match=r"must see the rows of the first, where label 0 had no logit of 0\.0"):
            step.ranking()


def test_ranks_sync_to_the_whole() -> None:
    logits, labels = drawn("one tied mass", 300)
    histogram = LabelHistogram(2, 64)
    histogram.update(logits, labels)
    whole, here, there = (Refinement.needed(histogram) for _ in range(3))
    assert whole is not None
    assert here is not None
    assert there is not None
    whole.update(logits, labels)
    here.update(logits[:100], labels[:100])
    there.update(logits[100:], labels[100:])
    others = iter([getattr(there, name) for name in here.metric_state])
    here.sync(dist_sync_fn=lambda state, group: [state, next(others)], distributed_available=lambda: True)
    torch.testing.assert_close(here.ranking(), whole.ranking(), rtol=0, atol=0)


def test_hidden_cells_and_padding_may_hold_anything() -> None:
    logits, labels = drawn("tight", 200)
    mask = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) < 0.7
    logits[~mask] = torch.nan
    weights = torch.ones(200)
    weights[50:60] = 0
    logits[50:60] = torch.inf
    histogram = LabelHistogram(2, 256)
    histogram.update(logits, labels, mask, weights)
    found = refined(histogram, lambda: halves(logits, labels, mask, weights))
    for (values, bounds), want in zip(measured(found), exact(logits, labels, mask, weights), strict=True):
        assert ((values - want).abs() <= bounds + ROUNDING).all()


def test_nothing_is_refined_without_need_or_both_classes() -> None:
    histogram = LabelHistogram(2, 256)
    assert Refinement.needed(histogram) is None
    histogram.update(torch.randn(50, 2), torch.tensor([[True, False]]).expand(50, 2))
    assert Refinement.needed(histogram) is None


def test_a_tolerance_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^tolerance must be above 0, got 0$"):
        Refinement.needed(LabelHistogram(1, 256), 0)


def test_passes_are_limited() -> None:
    logits, labels = drawn("normal", 2000)
    histogram = LabelHistogram(2, 16)
    histogram.update(logits, labels)
    passes = 0

    def again() -> Iterator[Cells]:
        nonlocal passes
        passes += 1
        return iter(halves(logits, labels))

    found = refined(histogram, again, 1e-9, budget_bytes=24 * 2 * 4, most_passes=3)
    assert passes == 3
    assert Refinement.needed(found, 1e-9) is not None


def test_exact_values_are_those_of_torchmetrics() -> None:
    logits, labels = drawn("ties", 500)
    for label in range(2):
        area, precision = exact_ranking(logits[:, label], labels[:, label].to(torch.uint8))
        scores, truth = torch.sigmoid(logits[:, label].double()), labels[:, label].long()
        assert float(area) == pytest.approx(float(binary_auroc(scores, truth)), abs=1e-6)  # float32 inside
        assert float(precision) == pytest.approx(float(binary_average_precision(scores, truth)), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(2, 80), decimals=st.sampled_from([0, 1, 6]), weighted=st.booleans())
def test_exact_values_are_those_of_scikit_learn(seed: int, rows: int, decimals: int, weighted: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.3
    labels[:2] = True, False
    logits = rng.normal(-2, 2, rows).round(decimals).astype(np.float32)
    weights = rng.integers(1, 4, rows) / 2 if weighted else None
    found = exact_ranking(*(torch.tensor(column) for column in (logits, labels)), *_given(weights))
    for value, function in zip(found, (metrics.roc_auc_score, metrics.average_precision_score), strict=True):
        assert float(value) == pytest.approx(function(labels, logits, sample_weight=weights), abs=ROUNDING)


def _given(weights: Any) -> tuple[Tensor, ...]:
    return () if weights is None else (torch.tensor(weights),)


def test_exact_values_without_both_classes_are_undefined() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    for labels, weights in (([1, 1, 1], None), ([0, 0, 0], None), ([1, 0, 0], [0.0, 1.0, 1.0])):
        found = exact_ranking(logits, torch.tensor(labels), *_given(weights))
        assert [bool(value.isnan()) for value in found] == [True, True]
    found = exact_ranking(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert [bool(value.isnan()) for value in found] == [True, True]


def test_both_zeros_are_one_value() -> None:
    area, precision = exact_ranking(torch.tensor([-0.0, 0.0]), torch.tensor([0, 1]))
    assert [float(area), float(precision)] == [0.5, 0.5]


def test_exact_values_are_asked_for_label_by_label() -> None:
    asked = []

    def rows_of(label: int) -> tuple[Tensor, Tensor, None]:
        asked.append(label)
        return torch.arange(4.0), torch.tensor([0, 1, 0, label]), None

    areas, _ = exact_rankings(2, rows_of)
    assert asked == [0, 1]
    assert areas.tolist() == [pytest.approx(1 / 3), 0.75]


def test_exact_values_of_bad_rows_are_refused() -> None:
    labels = torch.tensor([0, 1, 1])
    message = (
        "label 1: logits must be finite where a label is observed, got nan in row 2 (1 such cells in a batch); "
        "look for infinite inputs or weights"
    )
    bad = torch.tensor([0.0, 1.0, torch.nan])
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        exact_rankings(2, lambda label: (bad if label else torch.arange(3.0), labels, None))
    message = "weights must be finite and not negative, got -1.0 in row 1 of a batch"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        exact_ranking(torch.arange(3.0), labels, torch.tensor([1.0, -1.0, 1.0]))
    message = r"^logits, labels and weights must have the same length, got \[3, 2\]$"
    with pytest.raises(ValueError, match=message):
        exact_ranking(torch.arange(3.0), labels[:2])
