"""Curves have the points of scikit-learn's where a bin holds one value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlclf.decisions.curves import precision_recall_curve, roc_curve
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.ranking import auroc
from mlclf.decisions.scores import scores_of


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
        for found, points in zip(roc_curve(histogram, label, scores_of), want, strict=True):
            np.testing.assert_allclose(found, points, rtol=1e-12, atol=1e-12)
        want = metrics.precision_recall_curve(labels[:, label], scores, sample_weight=weights)
        for found, points in zip(precision_recall_curve(histogram, label, scores_of), want, strict=True):
            np.testing.assert_allclose(found, points, rtol=1e-12, atol=1e-12)


def test_the_area_under_the_curve_is_the_auroc() -> None:
    histogram, *_ = drawn(False)
    curve = roc_curve(histogram, 1, scores_of)
    area = torch.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert float(area) == pytest.approx(float(auroc(histogram)[0][1]), abs=1e-12)


def test_a_class_without_rows_has_no_rates() -> None:
    histogram = LabelHistogram(1, 256)
    histogram.update(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, dtype=torch.bool))
    assert bool(roc_curve(histogram, 0, scores_of).true_positive_rate.isnan().all())
    curve = precision_recall_curve(histogram, 0, scores_of)
    assert curve.precision.tolist() == [0, 0, 1]
    assert bool(curve.recall[:-1].isnan().all())
