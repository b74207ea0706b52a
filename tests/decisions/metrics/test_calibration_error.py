"""Calibration errors are those of a loop and less biased than plain ones; recalibration is logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_cells import made_cells, scores_of
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.calibration_error import calibration_errors, recalibration

ROUNDING = 1e-12


def slow_errors(scores: Tensor, labels: Tensor, weights: Tensor, groups: int) -> tuple[float, float, float, float]:
    """Sort, keep equal scores together, group by the middle of their mass; the bias of |d| by simulation."""
    below, total = 0.0, float(weights.sum())
    member = torch.zeros(len(scores), dtype=torch.int64)
    for value in sorted(set(scores.tolist())):
        tied = scores == value
        mass = float(weights[tied].sum())
        member[tied] = min(int((below + mass / 2) / total * groups), groups - 1)
        below += mass
    plain = debiased = square = largest = 0.0
    rng = np.random.default_rng(0)
    for group in member.unique().tolist():
        w, y, s = (values[member == group] for values in (weights, labels.double(), scores))
        share, rate, score = float(w.sum()) / total, float(w @ y / w.sum()), float(w @ s / w.sum())
        rows = share * total**2 / float(weights @ weights)
        again = rng.normal(rate, np.sqrt(rate * (1 - rate) / rows), 400_000)
        plain += share * abs(rate - score)
        debiased += share * (2 * abs(rate - score) - float(np.abs(again - score).mean()))
        square += share * ((rate - score) ** 2 - rate * (1 - rate) / (rows - 1))
        largest = max(largest, abs(rate - score))
    return plain, max(debiased, 0.0), max(square, 0.0) ** 0.5, largest


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_errors_are_those_of_a_loop(shift: float, weighted: bool) -> None:
    cells = made_cells(7, 600, masked=False, weighted=weighted)
    weights = torch.ones(600, dtype=torch.float64) if cells.weights is None else cells.weights
    logits = cells.logits + shift
    mask = torch.tensor([True, True, True, False]).expand(600, 4)
    histogram = LabelHistogram(4, 4096)
    histogram.update(logits, cells.labels, mask, weights)
    effective = (weights.sum() ** 2 / (weights @ weights)).expand(4) if weighted else None
    errors = calibration_errors(histogram, effective)
    kept = weights > 0
    for k in range(3):
        scores = scores_of(logits[kept, k]).double()
        want = slow_errors(scores, cells.labels[kept, k], weights[kept], groups=15)
        got = [float(values[k]) for values in errors]
        assert got[0] == pytest.approx(want[0], abs=ROUNDING)
        assert got[1] == pytest.approx(want[1], abs=5e-4)  # simulated
        assert got[2:] == pytest.approx(want[2:], abs=ROUNDING)
    assert all(values[3].isnan() for values in errors)


def test_weights_that_round_give_errors_too() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = 6 * torch.randn(2000, 1, generator=generator)
        labels = torch.rand(2000, 1, generator=generator) < scores_of(1.5 * logits)
        for weights in (rng.random(2000) + 0.05, 10.0 ** rng.integers(-12, 5, 2000)):
            histogram = LabelHistogram(1, 4096)
            histogram.update(logits, labels, None, torch.from_numpy(weights))
            effective = torch.tensor([weights.sum() ** 2 / (weights @ weights)])
            for values in calibration_errors(histogram, effective):
                assert 0 <= float(values) <= 1


def test_debiased_errors_of_calibrated_scores_are_nearer_to_0() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 200, generator=generator) * 2 - 2  # 200 data sets
    histogram = LabelHistogram(200, 4096)
    histogram.update(logits, torch.rand(500, 200, generator=generator) < scores_of(logits))
    errors = calibration_errors(histogram)
    assert float(errors.debiased.mean()) < 0.7 * float(errors.expected.mean())
    assert float(errors.root_mean_square.square().mean()) < 0.3 * float(errors.expected.square().mean())


def test_errors_are_small_when_calibrated_and_large_when_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100_000, 1, generator=generator) * 2 - 2
    labels = torch.rand(100_000, 1, generator=generator) < scores_of(logits)
    for shift, least, most in ((0.0, 0.0, 0.01), (1.0, 0.05, 0.2)):
        histogram = LabelHistogram(1, 4096)
        histogram.update(logits + shift, labels)
        errors = calibration_errors(histogram)
        for values in (errors.expected, errors.debiased, errors.root_mean_square):
            assert least <= float(values) < most


def logistic(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[float, float]:
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(logits.double()[:, None], labels, sample_weight=weights)
    return float(model.intercept_[0]), float(model.coef_[0, 0])


@pytest.mark.parametrize(("num_bins", "tolerance"), [(4096, 1e-4), (65_536, 1e-4)])
@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (3.0, 1.0), (0.3, -2.0), (-1.0, 20.0)])
def test_recalibration_is_logistic_regression(num_bins: int, tolerance: float, factor: float, shift: float) -> None:
    cells = made_cells(3, 800, 2, decimals=6, masked=False)
    assert cells.weights is not None
    logits = (cells.logits * factor + shift).clamp(-29, 29)
    histogram = LabelHistogram(2, num_bins)
    histogram.update(logits, cells.labels, None, cells.weights)
    found = recalibration(histogram)
    for k in range(2):
        want = logistic(logits[:, k], cells.labels[:, k], cells.weights)
        # bins are 0.015 wide at most; sklearn stops at 1e-4 or so
        assert (float(found.intercept[k]), float(found.slope[k])) == pytest.approx(want, abs=2e-3, rel=2e-3)


def test_recalibration_is_undefined_where_classes_are_missing_or_separated() -> None:
    logits = torch.tensor([[-2.0, -2.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 2.0], [2.0, 2.0, 1.0, 0.0]])
    labels = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]])
    histogram = LabelHistogram(4, 4096)
    histogram.update(logits, labels)
    found = recalibration(histogram)
    assert found.slope.isnan().tolist() == found.intercept.isnan().tolist() == [True, True, True, False]
    assert recalibration(LabelHistogram(2, 256)).slope.isnan().all()
    assert calibration_errors(LabelHistogram(2, 256)).expected.isnan().all()
