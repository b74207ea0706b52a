"""A shifted prevalence is found from scores, with an honest error, or it is said that it cannot be."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from made_logits import Array, histogram_of

from mlclf.decisions.calibration.prevalence import Prevalence, estimate_prevalence, reweighted
from mlclf.decisions.histograms.label_histogram import LabelHistogram


def drawn(rows: int, prevalence: float, labels: int, distance: float, seed: int) -> tuple[Array, Array]:
    """Logits [n, K] that are too steep, of two normal classes `distance` apart, and labels."""
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, labels)) < prevalence).astype(np.float64)
    return 1.7 * (rng.normal(0, 1, y.shape) + distance * y) - 3, y


def estimated(old: float, new: float, distance: float, labels: int = 40, seed: int = 0) -> Prevalence:
    labelled = histogram_of(*drawn(4000, old, labels, distance, seed))
    logits, _ = drawn(6000, new, labels, distance, seed + 1)
    return estimate_prevalence(labelled, histogram_of(logits, np.zeros_like(logits)))


@pytest.mark.parametrize(("old", "new"), [(0.3, 0.6), (0.1, 0.02), (0.05, 0.2), (0.2, 0.2)])
@pytest.mark.parametrize("distance", [1.5, 3.0])
def test_the_new_prevalence_is_found_within_its_error(old: float, new: float, distance: float) -> None:
    found = estimated(old, new, distance)
    assert bool(found.identifiable.all() and found.converged.all())
    deviations = (found.values - new) / found.standard_errors
    assert float((deviations.abs() < 3).double().mean()) >= 0.95
    assert 0.7 < float(deviations.square().mean().sqrt()) < 1.4  # 40 labels: ±0.33 at three standard errors
    assert float(found.values.mean()) == pytest.approx(new, rel=0.15)


def test_errors_are_honest_where_weights_are_unequal() -> None:
    """Those of as many rows of equal weight would be a third too small; the unit of the weights does not matter."""
    rng = np.random.default_rng(5)
    spread = [np.exp(1.1 * rng.normal(size=rows)) for rows in (4000, 6000)]
    assert all(mass.sum() ** 2 / (mass**2).sum() < 0.4 * len(mass) for mass in spread)
    z, y = drawn(4000, 0.2, 40, 2.0, 0)
    u, _ = drawn(6000, 0.35, 40, 2.0, 1)
    found, again = (
        estimate_prevalence(histogram_of(z, y, spread[0] * unit), histogram_of(u, u * 0, spread[1] / unit))
        for unit in (1.0, 1e6)
    )
    assert bool(found.identifiable.all())
    deviations = (found.values - 0.35) / found.standard_errors
    assert 0.7 < float(deviations.square().mean().sqrt()) < 1.3
    torch.testing.assert_close(again.standard_errors, found.standard_errors, rtol=1e-6, atol=0)
    equal = estimate_prevalence(histogram_of(z, y), histogram_of(u, u * 0))
    assert bool((found.standard_errors > 1.3 * equal.standard_errors).all())


def test_the_estimate_is_the_fixed_point_of_em() -> None:
    """Plain EM on the rows themselves, from scikit-learn's calibration."""
    linear = pytest.importorskip("sklearn.linear_model")
    z, y = drawn(2000, 0.3, 1, 2.0, 0)
    u, _ = drawn(1500, 0.7, 1, 2.0, 1)
    model = linear.LogisticRegression(C=np.inf, tol=1e-12).fit(z, y[:, 0])
    p, old = model.predict_proba(u)[:, 1], y.mean()
    new = old
    for _ in range(5000):
        positive, negative = p * new / old, (1 - p) * (1 - new) / (1 - old)
        new = (positive / (positive + negative)).mean()
    found = estimate_prevalence(histogram_of(z, y, num_bins=65_536), histogram_of(u, u * 0, num_bins=65_536))
    assert float(found.values) == pytest.approx(new, abs=1e-3)  # groups of bins, and a weak prior of the slope
    assert float(found.old) == pytest.approx(old)


def test_scores_without_meaning_keep_the_old_prevalence() -> None:
    found = estimated(0.1, 0.4, 0.0)
    assert int(found.identifiable.sum()) <= 2
    kept = ~found.identifiable
    assert bool((found.values[kept] == found.old[kept]).all() and found.standard_errors[kept].isnan().all())


def test_a_label_that_is_gone_is_seen_to_be() -> None:
    found = estimated(0.2, 0.0, 4.0)
    assert bool(found.identifiable.all())
    assert float(found.values.max()) < 0.01
    assert float(found.values.min()) >= 0.5 / 6001


def test_weights_of_another_unit_change_nothing() -> None:
    z, y = drawn(2000, 0.3, 2, 2.0, 0)
    u, _ = drawn(1500, 0.7, 2, 2.0, 1)
    one, other = (
        estimate_prevalence(histogram_of(z, y, np.full(2000, w)), histogram_of(u, u * 0, np.full(1500, w)))
        for w in (1.0, 1e-4)
    )
    torch.testing.assert_close(one.values, other.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one.standard_errors, other.standard_errors, rtol=1e-4, atol=1e-9)


def test_one_class_and_no_rows_are_not_identifiable() -> None:
    z, y = drawn(500, 0.3, 4, 2.0, 0)
    y[:, 0], y[:, 1] = 0, 1
    found = estimate_prevalence(histogram_of(z, y), histogram_of(z, y))
    assert found.identifiable.tolist() == [False, False, True, True]
    assert found.values[:2].tolist() == [0.0, 1.0]
    nothing = estimate_prevalence(histogram_of(z, y), LabelHistogram(4, 256))
    assert not bool(nothing.identifiable.any())
    unknown = estimate_prevalence(LabelHistogram(4, 256), histogram_of(z, y))
    assert not bool(unknown.identifiable.any())
    assert bool(unknown.values.isnan().all())


def test_labels_must_be_the_same() -> None:
    message = "histograms must be of the same labels, got 2 labelled and 3 not"
    with pytest.raises(ValueError, match=message):
        estimate_prevalence(LabelHistogram(2, 256), LabelHistogram(3, 256))


# ── known prevalences ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reweighted_histogram_has_the_new_shares() -> None:
    z, y = drawn(1000, 0.3, 2, 2.0, 0)
    histogram = histogram_of(z, y)
    old, new = torch.from_numpy(y.mean(0)), torch.tensor([0.05, 0.6])
    weighted = reweighted(histogram, old, new)
    total = (weighted.positives[:] + weighted.negatives[:]).sum(1)
    assert (weighted.positives[:].sum(1) / total).tolist() == pytest.approx([0.05, 0.6])
    assert total.tolist() == pytest.approx([1000, 1000])
    assert weighted.rows.tolist() == [1000, 1000]
    assert histogram.positives[:].sum(1).tolist() == y.sum(0).tolist()  # the original is as it was
    assert weighted.positives[:].argmax(1).tolist() == histogram.positives[:].argmax(1).tolist()
    assert float(weighted.least_weight) == pytest.approx(float((new / old).min()))


def test_an_unchanged_label_is_copied() -> None:
    z, y = drawn(100, 0.3, 2, 2.0, 0)
    y[:, 0] = 0
    histogram = histogram_of(z, y)
    same = torch.tensor([0.0, 0.3])
    torch.testing.assert_close(reweighted(histogram, same, same).positives[:], histogram.positives[:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("old", "new"), [(0.0, 0.1), (0.1, 1.0), (0.1, 0.0), (-0.1, 0.2), (0.1, 1.5), (math.nan, 0.2), (1.5, 1.5)]
)
def test_prevalences_out_of_range_are_refused(old: float, new: float) -> None:
    message = "prevalences must be strictly between 0 and 1 where they change, got .* and .* for label 1"
    with pytest.raises(ValueError, match=message):
        reweighted(LabelHistogram(2, 256), torch.tensor([0.5, old]), torch.tensor([0.4, new]))


def test_prevalences_of_another_number_of_labels_are_refused() -> None:
    message = re.escape("prevalences must be one a label, old and new, got [2] and [3]")
    with pytest.raises(ValueError, match=message):
        reweighted(LabelHistogram(2, 256), torch.full((2,), 0.5), torch.full((3,), 0.5))
