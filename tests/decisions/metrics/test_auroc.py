"""AUROC and average precision agree with scikit-learn and torchmetrics, exactly or within the bound they report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from mlclf.decisions.histograms import label_histogram as histograms
from mlclf.decisions.histograms.derived import pooled_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.average_precision import average_precision
from mlclf.decisions.metrics.binned_metric import has_both_classes
from mlclf.decisions.metrics.exact_ranking import exact_ranking

ROUNDING = 1e-12  # sums of at most a few thousand float64 numbers near 1


def counted(logits: Tensor, labels: Tensor, num_bins: int = 256, **rest: Tensor | None) -> LabelHistogram:
    histogram = LabelHistogram(logits.shape[1], num_bins)
    histogram.update(logits, labels, **rest)
    return histogram


def draw(seed: int, rows: int, labels: int, decimals: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, labels)) < 0.25
    truth[0], truth[1] = True, False
    logits = (rng.normal(-2, 2, (rows, labels)) + truth * 1.5).round(decimals)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(truth)


def sklearn_values(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[list[float], list[float]]:
    columns = range(logits.shape[1])
    areas = [roc_auc_score(labels[:, k], logits[:, k], sample_weight=weights) for k in columns]
    return areas, [average_precision_score(labels[:, k], logits[:, k], sample_weight=weights) for k in columns]


def slow_auroc(logits: Tensor, labels: Tensor) -> float:
    """Compare every positive row with every negative row."""
    positives, negatives = logits[labels], logits[~labels]
    wins = [float(p > n) + 0.5 * float(p == n) for p in positives for n in negatives]
    return sum(wins) / len(wins)


def slow_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Add up precision times the step of recall over every distinct cut-off."""
    total, reached = 0.0, 0.0
    for cut in sorted(set(logits.tolist()), reverse=True):
        flagged = logits >= cut
        recall = float((flagged & labels).sum() / labels.sum())
        total += (recall - reached) * float(labels[flagged].double().mean())
        reached = recall
    return total


def test_distinct_bins_and_ties_are_exact() -> None:
    logits, labels = draw(0, 200, 3, decimals=0)  # one value a bin
    areas, area_bounds = auroc(counted(logits, labels))
    precisions, precision_bounds = average_precision(counted(logits, labels))
    assert area_bounds.tolist() == precision_bounds.tolist() == [0.0, 0.0, 0.0]
    for k in range(3):
        assert float(areas[k]) == pytest.approx(slow_auroc(logits[:, k], labels[:, k]), abs=ROUNDING)
        # float32 shares inside the oracle
        assert float(precisions[k]) == pytest.approx(slow_average_precision(logits[:, k], labels[:, k]), abs=1e-6)
    scores = torch.sigmoid(logits.double())
    want = multilabel_auroc(scores, labels.long(), 3, average="none")
    torch.testing.assert_close(areas, want.double(), rtol=0, atol=1e-6)  # torchmetrics answers in float32
    want = multilabel_average_precision(scores, labels.long(), 3, average="none")
    torch.testing.assert_close(precisions, want.double(), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    rows=st.integers(2, 120),
    decimals=st.sampled_from([0, 1, 6]),
    weighted=st.booleans(),
    num_bins=st.sampled_from([4, 32, 256]),
)
def test_the_bound_holds_the_exact_value(seed: int, rows: int, decimals: int, weighted: bool, num_bins: int) -> None:
    logits, labels = draw(seed, rows, 2, decimals)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(rows, dtype=torch.float64, generator=generator).add(0.1) if weighted else None
    histogram = counted(logits, labels, num_bins, weights=weights)
    for (values, bounds), exact in zip(
        (auroc(histogram), average_precision(histogram)), sklearn_values(logits, labels, weights), strict=True
    ):
        assert ((values - torch.tensor(exact, dtype=torch.float64)).abs() <= bounds + ROUNDING).all()


def test_the_bound_is_reached_by_the_best_and_worst_order_in_a_bin() -> None:
    best = torch.tensor([[0.4], [0.4], [0.3], [0.2], [0.1]])
    for order in (best, best.flip(0)):
        labels = torch.tensor([[1], [1], [0], [0], [0]])
        values, bounds = auroc(counted(order, labels, num_bins=4))
        exact, exact_precision = (metric[0] for metric in sklearn_values(order, labels))
        assert abs(float(values[0]) - exact) == pytest.approx(float(bounds[0]), abs=ROUNDING)
        values, bounds = average_precision(counted(order, labels, num_bins=4))
        assert abs(float(values[0]) - exact_precision) == pytest.approx(float(bounds[0]), abs=0.06)


def test_fine_bins_are_close_on_rare_labels_below_a_thousandth() -> None:
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.random((20_000, 2)) < 0.003)
    logits = torch.tensor(rng.normal(-13, 1, (20_000, 2)), dtype=torch.float32) + 2 * labels
    assert float(torch.sigmoid(logits).max()) < 0.001
    histogram = counted(logits, labels, 65_536)
    for (values, bounds), exact in zip(
        (auroc(histogram), average_precision(histogram)), sklearn_values(logits, labels), strict=True
    ):
        assert ((values - torch.tensor(exact, dtype=torch.float64)).abs() <= bounds + ROUNDING).all()
        assert float(bounds.max()) < 5e-4


def test_constant_scores_are_a_coin() -> None:
    labels = torch.tensor([[1], [0], [0], [0]])
    histogram = counted(torch.full((4, 1), -3.0), labels)
    assert [float(x) for x in auroc(histogram)] == [0.5, 0.0]
    assert [float(x) for x in average_precision(histogram)] == [0.25, 0.0]


def test_one_class_is_undefined() -> None:
    labels = torch.tensor([[1, 0, 1], [1, 0, 0]])
    histogram = counted(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), labels)
    for values, bounds in (auroc(histogram), average_precision(histogram)):
        assert values.isnan().tolist() == bounds.isnan().tolist() == [True, True, False]
    assert has_both_classes(histogram).tolist() == [False, False, True]
    assert auroc(LabelHistogram(1, 256))[0].isnan().all()


def test_a_weight_beside_which_others_vanish_leaves_average_precision_a_number() -> None:
    labels, weights = torch.tensor([True, False, False]), torch.tensor([3, 1e17, 1]).double()
    area, precision = exact_ranking(torch.zeros(3), labels, weights)
    assert float(area) == 0.5
    assert float(precision) == pytest.approx(3e-17)


def test_extreme_logits_rank_within_the_bound() -> None:
    logits = torch.tensor([[-1000.0], [-1000.0], [-31.0], [1000.0], [1000.0], [0.0]])
    labels = torch.tensor([[0], [1], [1], [1], [0], [0]])
    histogram = counted(logits, labels)
    for (values, bounds), exact in zip(
        (auroc(histogram), average_precision(histogram)), sklearn_values(logits, labels), strict=True
    ):
        assert abs(float(values[0]) - exact[0]) <= float(bounds[0]) + ROUNDING


def test_micro_pools_the_observed_cells() -> None:
    logits, labels = draw(3, 300, 4, decimals=0)
    mask = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    pool = pooled_labels(counted(logits, labels, mask=mask))
    want = sklearn_values(logits[mask][:, None], labels[mask][:, None])
    assert float(auroc(pool)[0]) == pytest.approx(want[0][0], abs=ROUNDING)
    assert float(average_precision(pool)[0]) == pytest.approx(want[1][0], abs=ROUNDING)


def test_slices_of_labels_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = counted(*draw(4, 100, 5, decimals=3))
    whole = [*auroc(histogram), *average_precision(histogram)]
    monkeypatch.setattr(histograms, "SLICE_BYTES", 256 * 80 * 2)
    assert len(list(histogram.label_slices(80))) == 3
    torch.testing.assert_close([*auroc(histogram), *average_precision(histogram)], whole, rtol=0, atol=ROUNDING)
