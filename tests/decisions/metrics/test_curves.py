"""Curves have the points of scikit-learn's where a bin holds one value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.curves import precision_recall_curve, roc_curve
from mlclf.decisions.metrics.refinement import refined


def drawn(weighted: bool) -> tuple[LabelHistogram, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.random((300, 2)) < 0.3)
    logits = torch.tensor((rng.normal(-2, 2, (300, 2)) + labels.numpy()).round(1), dtype=torch.float32)
    weights = torch.tensor(rng.integers(1, 4, 300) if weighted else np.ones(300), dtype=torch.float64)
    histogram = LabelHistogram(2, 4096)
    histogram.update(logits, labels, None, weights)
    return histogram, logits, labels, weights


@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_those_of_scikit_learn(weighted: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    histogram, logits, labels, weights = drawn(weighted)
    for label in range(2):
        scores = scores_of(logits[:, label])
        want = metrics.roc_curve(labels[:, label], scores, sample_weight=weights, drop_intermediate=False)
        for found, points in zip(roc_curve(histogram, label), want, strict=True):
            np.testing.assert_allclose(found, points, rtol=1e-12, atol=1e-12)
        want = metrics.precision_recall_curve(labels[:, label], scores, sample_weight=weights)
        for found, points in zip(precision_recall_curve(histogram, label), want, strict=True):
            np.testing.assert_allclose(found, points, rtol=1e-12, atol=1e-12)


def test_the_area_under_the_curve_is_the_auroc() -> None:
    histogram, *_ = drawn(False)
    curve = roc_curve(histogram, 1)
    area = torch.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert float(area) == pytest.approx(float(auroc(histogram)[0][1]), abs=1e-12)


def test_a_class_without_rows_has_no_rates() -> None:
    histogram = LabelHistogram(1, 256)
    histogram.update(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, dtype=torch.bool))
    assert bool(roc_curve(histogram, 0).true_positive_rate.isnan().all())
    curve = precision_recall_curve(histogram, 0)
    assert curve.precision.tolist() == [0, 0, 1]
    assert bool(curve.recall[:-1].isnan().all())


def test_bins_that_no_float32_score_tells_apart_make_one_point() -> None:
    logits = torch.tensor([[20.0], [25.0], [0.0], [-1.0]])  # the scores of 20 and 25 are both 1
    histogram = LabelHistogram(1, 256)
    histogram.update(logits, torch.tensor([[1], [0], [1], [0]]))
    curve = roc_curve(histogram, 0)
    assert curve.thresholds.tolist() == [torch.inf, 1.0, 0.5, pytest.approx(0.26894143)]
    assert curve.false_positive_rate.tolist() == [0, 0.5, 0.5, 1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 1, 1]


def test_a_curve_of_nothing_has_its_ends() -> None:
    histogram = LabelHistogram(1, 256)
    assert [len(column) for column in roc_curve(histogram, 0)] == [1, 1, 1]
    assert [len(column) for column in precision_recall_curve(histogram, 0)] == [1, 1, 0]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_not_there_is_refused(label: int) -> None:
    for curve in (roc_curve, precision_recall_curve):
        with pytest.raises(ValueError, match=rf"^label must be from 0 to 1, got {label}$"):
            curve(LabelHistogram(2, 256), label)


def test_a_refined_histogram_has_points_between_those_of_its_bins() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.random((200, 1)) < 0.3)
    logits = torch.tensor(rng.normal(-2, 0.1, (200, 1)) + 0.1 * labels.numpy(), dtype=torch.float32)
    histogram = LabelHistogram(1, 256)
    histogram.update(logits, labels)
    cells = Cells(logits, labels.byte(), torch.zeros(200, dtype=torch.int64))
    fine = refined(histogram, lambda: [cells], 1e-9)
    want = metrics.roc_curve(labels[:, 0], scores_of(logits[:, 0]), drop_intermediate=False)
    for found, points in zip(roc_curve(fine, 0), want, strict=True):
        np.testing.assert_allclose(found, points, rtol=1e-12, atol=1e-12)
    assert len(roc_curve(histogram, 0).thresholds) < len(want[2])
