"""Models of folds are brought to one mean logit by their biases, so that pooled scores rank rows of different folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_batches import made_batch

from mlclf.decisions.calibration.calibration import calibrated_loss
from mlclf.progress import Steps
from mlclf.training.fold_levels import level_heads, level_shifts
from mlclf.training.full_batch.chunks import Chunk
from mlclf.training.full_batch.l2_search import FullBatchFit
from mlclf.training.hold_out import HoldOut, LabelTotals
from mlclf.training.models import LinearHead


def test_shifts_bring_all_models_to_their_mean_by_weight() -> None:
    levels, totals = torch.tensor([[-1.0, 2.0], [-4.0, 0.0]]).double(), torch.tensor([[1.0, 0.0], [2.0, 5.0]]).double()
    levelled = levels + level_shifts(levels, totals)
    torch.testing.assert_close(levelled, torch.tensor([[-3.0, 0.0], [-3.0, 0.0]]).double())


def test_no_model_has_seen_a_label() -> None:
    shifts = level_shifts(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64))
    assert shifts.tolist() == [[0.0]] * 3


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_heads_are_levelled_over_all_rows_by_their_weights(hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(50, 3)), rng.integers(0, 2, (50, 2)), rng.random(50)
    batch = made_batch(x, y, weights=weights)
    torch.manual_seed(0)
    heads = [LinearHead(3, 0, 2, hidden) for _ in range(3)]
    for head in heads:
        torch.nn.init.normal_(head.last.weight)
        torch.nn.init.normal_(head.last.bias)
    before = [head.last.weight.clone() for head in heads]
    level_heads(heads, [batch.slice(0, 20), batch.slice(20, 50)], torch.ones(3, 2, dtype=torch.float64))
    means = [weights @ head.scoring_logits(batch).double().numpy() / weights.sum() for head in heads]
    np.testing.assert_allclose(means, [means[0]] * 3, atol=1e-6)  # float32 biases
    for head, weight in zip(heads, before, strict=True):
        torch.testing.assert_close(head.last.weight, weight, rtol=0, atol=0)


def test_models_that_saw_fewer_positives_are_no_lower() -> None:
    """Folds with 1, 3, 5 and 7 of 16 positives, no signal: the models rank as their folds lack positives, else."""
    rng = np.random.default_rng(1)
    x, parts = rng.normal(size=(400, 2)), np.arange(400) % 4
    y = np.zeros((400, 1), np.int64)
    for fold, count in enumerate((1, 3, 5, 7)):
        y[np.flatnonzero(parts == fold)[:count]] = 1
    batch = made_batch(x, y, parts=parts)
    cells = torch.nn.functional.one_hot(torch.from_numpy(parts), 4).double().T
    totals = LabelTotals(cells @ torch.from_numpy(y).double(), cells.sum(1, keepdim=True))
    chunks = [Chunk.of(batch, 0)]
    fit = FullBatchFit(lambda: chunks, totals, HoldOut.folds(4), torch.ones(1, dtype=torch.float64), 3, calibrated_loss)
    steps = Steps(fit.run(1.0))
    assert len(list(steps))
    inputs = np.column_stack([x, np.ones(400)])
    means = (inputs @ steps.result.models.numpy()[..., 0].T).mean(0)
    np.testing.assert_allclose(means, means[0], atol=1e-9)
    held_out = (inputs @ steps.result.models.numpy()[..., 0].T)[np.arange(400), parts]
    assert held_out.std() < 0.05  # the prior logits of the four models have a deviation of 0.2
