"""Decisions and their metrics agree with loops, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cell_weights, each_kind_of_cells, made_cells, padded, part_of, row_weights, scores_of, sliced
from sklearn.metrics import (
    balanced_accuracy_score,
    fbeta_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_exact_match,
    multilabel_f1_score,
    multilabel_hamming_distance,
    multilabel_specificity,
)

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.metrics import confusion as metrics
from mlclf.decisions.metrics.confusion import DecisionCounts

ROUNDING = 1e-12
THRESHOLDS = torch.tensor([0.2, 0.5, 0.05, 0.9])


def counted(*batches: Cells, thresholds: Tensor = THRESHOLDS) -> DecisionCounts:
    counts = DecisionCounts(len(thresholds))
    for cells in batches:
        for part in sliced(cells):
            counts.update(part, part.scores >= thresholds)
    return counts


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(0, 55))
def test_parts_merge_to_the_whole_and_padding_counts_nowhere(seed: int, cut: int) -> None:
    for cells in each_kind_of_cells(seed):
        whole, head = counted(cells), counted(part_of(cells, slice(0, cut)))
        head.merge_state(counted(padded(part_of(cells, slice(cut, None)))))
        for name in whole.metric_state:
            torch.testing.assert_close(getattr(head, name), getattr(whole, name), rtol=0, atol=ROUNDING, msg=name)


def test_decisions_are_those_of_scikit_learn() -> None:
    for cells in each_kind_of_cells(3, 300):
        counts, weights, scores = counted(cells).counts, cell_weights(cells), scores_of(cells.logits)
        for cut, cuts in enumerate((THRESHOLDS, torch.full((4,), 0.5))):
            for k in range(4):
                seen = weights[:, k] > 0
                y, w, decisions = cells.labels[seen, k], weights[seen, k], scores[seen, k] >= cuts[k]
                want = precision_recall_fscore_support(
                    y, decisions, sample_weight=w, average="binary", zero_division=np.nan
                )[:3]
                want += (precision_recall_fscore_support(~y, ~decisions, sample_weight=w, average="binary")[1],)
                want += (balanced_accuracy_score(y, decisions, sample_weight=w),)
                want += (matthews_corrcoef(y, decisions, sample_weight=w),)
                want += (fbeta_score(y, decisions, beta=2, sample_weight=w),)
                found = metrics.decision_metrics(counts)
                names = ("precision", "recall", "f1", "specificity", "balanced_accuracy", "mcc")
                got = [float(found[name + ("_at_half" if cut else "")][k]) for name in names]
                true, false, missed, _ = counts[cut]
                got.append(float(metrics.f_measure(true, true + false, true + missed, 4.0)[k]))
                np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)


def test_decisions_are_those_of_torchmetrics() -> None:
    cells = made_cells(4, 300, masked=False, weighted=False)
    # 0.5 itself is positive here and negative in torchmetrics: nudge it
    cells.logits[cells.logits == 0] = 0.1
    counts, scores, y = counted(cells, thresholds=torch.full((4,), 0.5)), scores_of(cells.logits), cells.labels.long()
    close = {"rtol": 0, "atol": 1e-6}  # torchmetrics answers in float32
    want = multilabel_f1_score(scores, y, 4, average="none")
    torch.testing.assert_close(metrics.f1(counts.counts[0]), want.double(), **close)
    want = multilabel_specificity(scores, y, 4, average="none")
    torch.testing.assert_close(metrics.specificity(counts.counts[0]), want.double(), **close)
    want = multilabel_hamming_distance(scores, y, 4, average="micro")
    torch.testing.assert_close(counts.hamming_loss(), want.double(), **close)
    want = multilabel_exact_match(scores, y, 4)
    torch.testing.assert_close(counts.subset_accuracy(), want.double(), **close)
    assert counts.compute().keys() == {"subset_accuracy", "hamming_loss"}


def test_subset_accuracy_and_hamming_loss_are_those_of_a_loop() -> None:
    for cells in each_kind_of_cells(5, 80, 3):
        if cells.mask is not None:
            cells.mask[:20] = False
        counts = counted(cells, thresholds=torch.full((3,), 0.3))
        right = rows = wrong = mass = 0.0
        decisions = scores_of(cells.logits) >= 0.3
        for row, weights in enumerate(cell_weights(cells)):
            seen, weight = weights > 0, float(row_weights(cells)[row])
            mistakes = (decisions[row] != cells.labels[row]) & seen
            right += weight * bool(seen.any() and not mistakes.any())
            rows += weight * bool(seen.any())
            wrong += float(weights @ mistakes.double())
            mass += float(weights.sum())
        assert float(counts.subset_accuracy()) == pytest.approx(right / rows, abs=ROUNDING)
        assert float(counts.hamming_loss()) == pytest.approx(wrong / mass, abs=ROUNDING)


def test_what_is_undefined_is_nan() -> None:
    # columns: nothing at all; nothing flagged; no positives; flagged and no positives; no negatives
    counts = torch.tensor([[0.0, 0, 0, 0, 2], [0, 0, 0, 3, 0], [0, 2, 0, 0, 1], [5, 5, 5, 5, 0]])
    undefined = {
        metrics.precision: [True, True, True, False, False],
        metrics.recall: [True, False, True, True, False],
        metrics.f1: [True, False, True, False, False],
        metrics.specificity: [False, False, False, False, True],
        metrics.balanced_accuracy: [True, False, True, True, True],
        metrics.mcc: [True, True, True, True, True],
    }
    assert set(undefined) == set(metrics.DECISION_METRICS.values())
    for function, want in undefined.items():
        assert function(counts).isnan().tolist() == want, function
    empty = DecisionCounts(2)
    assert empty.subset_accuracy().isnan()
    assert empty.hamming_loss().isnan()
