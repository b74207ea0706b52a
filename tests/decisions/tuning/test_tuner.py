"""The tuner's thresholds for rows that it leaves out are those that it tunes when it never sees them."""

from __future__ import annotations

import pytest
import torch
from made_cells import made_cells

from mlclf.decisions.histograms.folds import NUM_FOLDS, fold_of
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.tuning.tuner import Tuner


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["f1", "mcc", "recall:0.8"])
@pytest.mark.parametrize("weighted", [False, True])
def test_thresholds_of_a_fold_do_not_know_its_rows(objective: str, weighted: bool) -> None:
    cells = made_cells(rows=800, labels=3, weighted=weighted)
    tuner = Tuner(parse_objective(objective), 3, method="plain", keeps_folds=True)
    for start in range(0, 800, 300):
        tuner.update(cells.where(torch.arange(800) // 300 * 300 == start))
    found = tuner.thresholds_without_folds()
    assert found is not None
    assert found.shape == (NUM_FOLDS, 3)
    folds = fold_of(cells.identities)
    for fold in range(NUM_FOLDS):
        others = Tuner(parse_objective(objective), 3, method="plain", num_bins=4096)
        others.update(cells.where(folds != fold))
        torch.testing.assert_close(found[fold], others.thresholds().thresholds, rtol=0, atol=0, equal_nan=True)


def test_shrinkage_is_found_once() -> None:
    """And rows that come later count in both."""
    cells = made_cells(rows=600, labels=5)
    early, late = Tuner(parse_objective("f1"), 5), Tuner(parse_objective("f1"), 5)
    early.update(cells.where(torch.arange(600) < 100))
    early.thresholds()
    early.update(cells.where(torch.arange(600) >= 100))
    late.update(cells)
    found, expected = early.thresholds_without_folds(), late.thresholds_without_folds()
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        early.thresholds().thresholds, late.thresholds().thresholds, rtol=0, atol=0, equal_nan=True
    )


def test_labels_of_most_score_are_tuned_on_nothing() -> None:
    tuner = Tuner(parse_objective("top_k:2"), 4, keeps_folds=True)
    tuner.update(made_cells())
    assert tuner.thresholds_without_folds() is None
