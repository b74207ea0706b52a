"""Groups of bins lose no row, keep the order, and neither a rare class nor a far tail ends up in one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_logits import folds_of, histogram_of, true_logits

from mlclf.decisions.calibration.logit_groups import GROUPS, LogitGroups
from mlclf.decisions.histograms.label_histogram import LabelHistogram


def test_every_row_is_in_one_group_and_centres_are_means() -> None:
    logits, labels = true_logits(5000, 3)
    groups = LogitGroups.of(folds_of(logits, labels, num_bins=16_384))
    assert groups.centres.shape == (3, GROUPS)
    totals = (groups.positives + groups.negatives).sum(0)
    assert totals.sum(1).tolist() == pytest.approx([5000] * 3)
    assert groups.positives.sum((0, 2)).tolist() == pytest.approx(labels.sum(0).tolist())
    assert groups.positives.sum(2)[0].tolist() == pytest.approx(labels[::5].sum(0).tolist())
    assert (totals * groups.centres).sum(1).tolist() == pytest.approx(logits.sum(0).tolist(), abs=2)
    for label in range(3):
        assert (groups.centres[label][totals[label] > 0].diff() > 0).all()


def test_a_rare_class_is_spread_over_groups() -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(-8, 1, (50_000, 1)), rng.normal(4, 0.3, (300, 1))])
    labels = (np.arange(len(logits)) >= 50_000).astype(float)[:, None]
    groups = LogitGroups.of([histogram_of(logits, labels, num_bins=65_536)])
    assert int((groups.positives[0, 0] > 0).sum()) > 100
    assert float(groups.positives.max()) <= 3 / GROUPS * 300 + 5


def test_few_bins_are_groups_themselves() -> None:
    logits, labels = true_logits(1000)
    histogram = histogram_of(logits, labels, num_bins=256)
    groups = LogitGroups.of([histogram])
    torch.testing.assert_close(groups.positives[0], histogram.positives[:])


def test_weights_are_scaled_to_effective_rows() -> None:
    logits, labels = true_logits(1000)
    weights = np.random.default_rng(1).uniform(0.1, 5, 1000)
    one, other = (LogitGroups.of(folds_of(logits, labels, weights * unit)) for unit in (1, 1e6))
    assert float((one.positives + one.negatives).sum()) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    torch.testing.assert_close(one.positives, other.positives, rtol=1e-9, atol=1e-9)
    of_class = [weights[labels[:, 0] == value] for value in (0, 1)]
    rarer = min(mass.sum() ** 2 / (mass**2).sum() for mass in of_class)
    assert one.rows_of_rarer_class().tolist() == other.rows_of_rarer_class().tolist() == [pytest.approx(rarer)]
    same = LogitGroups.of(folds_of(logits, labels, np.full(1000, 3e-9)))
    assert same.rows_of_rarer_class().tolist() == [min(labels.sum(), 1000 - labels.sum())]


def test_logits_beyond_the_bins_count_at_their_end() -> None:
    groups = LogitGroups.of([histogram_of(np.array([[-1e4], [1e4], [0.5]]), np.array([[0.0], [1.0], [1.0]]))])
    assert groups.centres[groups.positives[0] + groups.negatives[0] > 0].tolist() == pytest.approx([-30, 0.5, 30])


def test_nothing_counted_is_nothing() -> None:
    groups = LogitGroups.of([LabelHistogram(2, 1024)] * 2)
    assert float(groups.positives.sum() + groups.negatives.sum()) == 0
    assert torch.isfinite(groups.centres).all()
