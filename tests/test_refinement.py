"""Refined AUROC and average precision have intervals within the tolerance that hold the exact values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from mlclf.decisions import refinement as module
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.ranking import auroc, average_precision, exact_ranking
from mlclf.decisions.refinement import Refinement, keys

ROUNDING = 1e-12


def drawn(kind: str, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
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
    elif kind == "all below 0.001":
        logits = -7 - np.abs(logits)
    elif kind == "beyond the bins":
        logits = logits * 1000 - 40_000
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def exact(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    found = []
    for label in range(logits.shape[1]):
        seen = slice(None) if mask is None else mask[:, label]
        weight = None if weights is None else (weights if weights.dim() == 1 else weights[:, label])[seen]
        found.append(exact_ranking(logits[seen, label], labels[seen, label], weight))
    areas, precisions = zip(*found, strict=True)
    return torch.stack(areas), torch.stack(precisions)


def refined(histogram: LabelHistogram, tolerance: float, **rows: Tensor | None) -> tuple[Refinement | None, int]:
    last, passes = None, 0
    while (refinement := Refinement.needed(last or histogram, tolerance)) is not None:
        passes += 1
        assert passes < 300
        half = len(rows["logits"]) // 2  # type: ignore[arg-type]  # always given
        for part in (slice(0, half), slice(half, None)):
            refinement.update(**{name: None if value is None else value[part] for name, value in rows.items()})  # type: ignore[arg-type]  # None only where allowed
        last = refinement
    return last, passes


@pytest.mark.parametrize("kind", ["normal", "ties", "one tied mass", "tight", "all below 0.001", "beyond the bins"])
def test_the_interval_ends_within_the_tolerance_and_holds_the_exact_value(kind: str) -> None:
    logits, labels = drawn(kind, 4000)
    histogram = LabelHistogram(2, 256)
    histogram.update(logits, labels)
    last, passes = refined(histogram, 1e-4, logits=logits, labels=labels)
    assert (passes == 0) == (kind == "ties")
    found = (auroc(histogram), average_precision(histogram))
    if last is not None:
        found = (last.auroc(), last.average_precision())
    for (values, bounds), want in zip(found, exact(logits, labels), strict=True):
        assert (2 * bounds <= 1e-4).all()
        assert ((values - want).abs() <= bounds + ROUNDING).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(2, 150),
    kind=st.sampled_from(["normal", "ties", "one tied mass", "tight"]),
    masked=st.booleans(),
    weighted=st.sampled_from(["no", "rows", "cells"]),
    most=st.sampled_from([8, 64, 65_536]),
)
def test_without_tolerance_it_becomes_exact(
    seed: int, rows: int, kind: str, masked: bool, weighted: str, most: int
) -> None:
    logits, labels = drawn(kind, rows, seed)
    rng = np.random.default_rng(seed)
    mask = torch.tensor(rng.random((rows, 2)) < 0.8) if masked else None
    shape = {"no": None, "rows": (rows,), "cells": (rows, 2)}[weighted]
    weights = None if shape is None else torch.tensor(rng.integers(0, 4, shape) / 2)
    histogram = LabelHistogram(2, 16)
    histogram.update(logits, labels, mask, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_STEPS", most)
        last, _ = refined(histogram, 1e-9, logits=logits, labels=labels, mask=mask, weights=weights)
    found = (auroc(histogram), average_precision(histogram))
    if last is not None:
        found = (last.auroc(), last.average_precision())
    for (values, _), want in zip(found, exact(logits, labels, mask, weights), strict=True):
        torch.testing.assert_close(values, want, rtol=0, atol=2e-9, equal_nan=True)


def test_nothing_is_refined_without_need_or_both_classes() -> None:
    histogram = LabelHistogram(2, 256)
    histogram.update(torch.randn(50, 2), torch.tensor([[True, False]]).expand(50, 2))
    assert Refinement.needed(histogram) is None


def test_exact_values_are_those_of_torchmetrics() -> None:
    logits, labels = drawn("ties", 500)
    for label in range(2):
        area, precision = exact_ranking(logits[:, label], labels[:, label].to(torch.uint8))
        scores, truth = torch.sigmoid(logits[:, label].double()), labels[:, label].long()
        assert float(area) == pytest.approx(float(binary_auroc(scores, truth)), abs=1e-6)  # float32 inside
        assert float(precision) == pytest.approx(float(binary_average_precision(scores, truth)), abs=1e-6)


def test_keys_follow_the_order_of_floats() -> None:
    logits = torch.tensor([-3e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38])
    found = keys(logits).tolist()
    assert found == sorted(found)
    assert found[2:6] == [-1, 0, 0, 1]
