"""Log-loss, Brier score and gain are those of scikit-learn, under masks and weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_cells import cell_weights, each_kind_of_cells, made_cells, padded, part_of, sliced
from sklearn.metrics import brier_score_loss, log_loss

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.metrics.log_loss import LossSums

ROUNDING = 1e-12


def summed(*batches: Cells) -> LossSums:
    sums = LossSums(4)
    for cells in batches:
        for part in sliced(cells):
            sums.update(part)
    return sums


def test_losses_are_those_of_scikit_learn() -> None:
    for cells in each_kind_of_cells(1, 300):
        sums, weights = summed(cells), cell_weights(cells)
        for k in range(4):
            seen = weights[:, k] > 0
            y, w = cells.labels[seen, k].long(), weights[seen, k]
            scores = torch.sigmoid(cells.logits[seen, k].double())
            assert float(sums.log_loss()[k]) == pytest.approx(log_loss(y, scores, sample_weight=w), abs=ROUNDING)
            # float32 scores
            assert float(sums.brier()[k]) == pytest.approx(brier_score_loss(y, scores, sample_weight=w), abs=1e-7)
            assert float(sums.observed_expected()[k]) == pytest.approx(float(w @ y.double() / (w @ scores)), rel=1e-6)
            assert float(sums.effective_rows()[k]) == pytest.approx(float(w.sum() ** 2 / (w @ w)), rel=ROUNDING)
    assert sums.compute().keys() == {"log_loss", "brier"}


def test_parts_merge_to_the_whole_and_padding_counts_nowhere() -> None:
    for cells in each_kind_of_cells(2):
        whole, head = summed(cells), summed(part_of(cells, slice(0, 23)))
        head.merge_state(summed(padded(part_of(cells, slice(23, None)))))
        for name in whole.metric_state:
            torch.testing.assert_close(getattr(head, name), getattr(whole, name), rtol=0, atol=ROUNDING, msg=name)


def test_log_loss_is_unclipped_and_finite() -> None:
    logits = torch.tensor([[1000.0], [-1000.0], [1000.0], [-40.0]])
    sums = LossSums(1)
    for part in sliced(Cells(logits, torch.tensor([[0], [1], [1], [0]]), torch.zeros(4, dtype=torch.int64))):
        sums.update(part)
    assert float(sums.loss[0]) == pytest.approx(2000 + np.exp(-40), abs=1e-15, rel=0)


@pytest.mark.parametrize("centre", [-80, -30, -12, 0, 12, 30, 80])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 500])
def test_log_loss_is_right_to_the_last_digits_however_certain_the_scores(centre: float, rows: int) -> None:
    rng = np.random.default_rng(rows)
    logits = torch.tensor(rng.normal(centre, 8, (rows, 3)), dtype=torch.float32)
    labels = torch.tensor(rng.random((rows, 3)) < torch.sigmoid(logits).numpy())
    mask = torch.tensor(rng.random((rows, 3)) < 0.8)
    for seen in (None, mask):
        sums = LossSums(3)
        for part in sliced(Cells(logits, labels, torch.zeros(rows, dtype=torch.int64), seen)):
            sums.update(part)
        for k in range(3):
            kept = torch.ones(rows, dtype=torch.bool) if seen is None else seen[:, k]
            cells = zip(logits[kept, k].tolist(), labels[kept, k].tolist(), strict=True)
            wrongness = [-z if y else z for z, y in cells]
            want = math.fsum(max(z, 0) + math.log1p(math.exp(-abs(z))) for z in wrongness)
            assert float(sums.loss[k]) == pytest.approx(want, rel=1e-14, abs=0)


def test_constant_log_loss_is_that_of_scikit_learn() -> None:
    cells = made_cells(2, 200, masked=False)
    constant = summed(cells).constant_log_loss(torch.tensor([0.3, 1.0, 0.5, 0.5], dtype=torch.float64))
    want = log_loss(cells.labels[:, 0].long(), np.full(200, 0.3), sample_weight=cells.weights)
    assert float(constant[0]) == pytest.approx(want, abs=ROUNDING)
    assert float(constant[1]) == torch.inf


def test_losses_without_rows_are_undefined() -> None:
    cells = made_cells(weighted=False)
    cells.mask = torch.tensor([True, False, True, True]).expand(60, 4)
    sums = summed(cells)
    assert sums.log_loss().isnan().tolist() == sums.brier().isnan().tolist() == [False, True, False, False]
