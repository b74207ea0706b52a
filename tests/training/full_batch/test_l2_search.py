"""l2 is chosen by held-out rows, labels of one class are left at their prior, masked ones do not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from made_batches import correlated, made_batch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.decisions.calibration.calibration import calibrated_loss
from mlclf.progress import Steps
from mlclf.training.full_batch.chunks import Chunk
from mlclf.training.full_batch.l2_choice import choose_by_label, joined_curves, l2_grid
from mlclf.training.full_batch.l2_search import FullBatchFit, FullBatchSolution
from mlclf.training.full_batch.preconditioner import Preconditioner
from mlclf.training.hold_out import HeldOutCells, HoldOut, LabelTotals

GRID_C = (1e-4, 1e3)


def chunks_of(batch: Batch) -> Callable[[], list[Chunk]]:
    chunks = [Chunk.of(batch, 0)]
    return lambda: chunks


def totals_of(batch: Batch, num_parts: int) -> LabelTotals:
    mask = torch.ones_like(batch.labels, dtype=torch.bool) if batch.label_mask is None else batch.label_mask
    cells = batch.weights.double()[:, None] * mask
    parts = torch.nn.functional.one_hot(batch.parts.long(), num_parts).double()
    return LabelTotals(parts.T @ (cells * batch.labels), parts.T @ cells)


def fitted(batch: Batch, hold_out: HoldOut, l2: float | Sequence[float], **options: Any) -> FullBatchSolution:
    num_parts, num_labels = hold_out.trained.shape[1], batch.labels.shape[1]
    fit = FullBatchFit(
        chunks_of(batch),
        totals_of(batch, num_parts),
        hold_out,
        options.get("pos_weight", torch.ones(num_labels, dtype=torch.float64)),
        batch.dense.shape[1] + 1,
        calibrated_loss,
        newton=options.get("newton", False),
    )
    return solution_of(fit, l2)


def solution_of(fit: FullBatchFit, l2: float | Sequence[float]) -> FullBatchSolution:
    steps = Steps(fit.run(l2))
    assert len(list(steps))
    return steps.result


def noisy(rows: int, labels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Thirty inputs of which two matter: an amount of l2 in the middle is best."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 30))
    logits = 0.8 * x[:, :1] - 0.5 * x[:, 1:2]
    return x, (rng.random((rows, labels)) < 1 / (1 + np.exp(-logits))).astype(np.int64)


@pytest.mark.slow
def test_the_chosen_l2_is_the_best_of_the_held_out_rows() -> None:
    x, y = noisy(400)
    parts = np.arange(400) % 4
    batch = made_batch(x, y, parts=parts)
    grid = l2_grid(400, *GRID_C, 2)
    fit = fitted(batch, HoldOut.folds(4), grid)
    losses = []
    for l2 in grid:
        of_all = np.zeros((4, 400))
        for fold in range(4):
            held = parts == fold
            model = LogisticRegression(C=1 / (l2 * (~held).sum()), tol=1e-8, max_iter=5000).fit(x[~held], y[~held, 0])
            of_all[fold] = model.decision_function(x)
        of_all += of_all.mean() - of_all.mean(1, keepdims=True)  # all of one level
        logits = of_all[parts, np.arange(400)]
        losses.append(log_loss(y[:, 0], 1 / (1 + np.exp(-logits))))
    best = int(np.argmin(losses))
    assert 0 < best < len(grid) - 1
    assert float(fit.l2[0]) == pytest.approx(grid[best])
    assert fit.valid_loss == pytest.approx(losses[best], abs=5e-5)  # the search stops at a gap of 1e-6


def test_the_final_model_is_refitted_on_all_rows() -> None:
    x, y = correlated(300, 5, 2)
    batch = made_batch(x, y, parts=np.arange(300) % 3)
    fit = fitted(batch, HoldOut.folds(3), 0.01)
    assert fit.models.shape == (3, 6, 2)
    for label in range(2):
        model = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        model.fit(x, y[:, label])
        expected = np.append(model.coef_[0], model.intercept_[0])
        np.testing.assert_allclose(fit.final[:, label].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_halves_train_on_the_first_part_only_and_do_not_refit() -> None:
    x, y = correlated(300, 5, 1)
    parts = np.repeat([0, 1, 2], 100)
    fit = fitted(made_batch(x, y, parts=parts), HoldOut.halves(), 0.01)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, solver="newton-cholesky").fit(x[:100], y[:100, 0])
    np.testing.assert_allclose(fit.final[:-1, 0].numpy(), model.coef_[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fit.models[0], fit.final)


def test_newton_has_the_hessian_of_every_start(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy(400)
    batch = made_batch(x, y, parts=np.arange(400) % 4)
    inside = Preconditioner.at
    calls: list[int] = []

    def counted(*arguments: Any) -> Preconditioner:
        calls.append(1)
        return inside(*arguments)

    monkeypatch.setattr(Preconditioner, "at", counted)
    found = {}
    for newton in (False, True):
        calls.clear()
        found[newton] = fitted(batch, HoldOut.folds(4), l2_grid(400, *GRID_C, 2), newton=newton), len(calls)
    assert found[False][1] == 2  # the held-out models and the final one, at the chosen l2
    assert found[True][1] > 5
    torch.testing.assert_close(found[True][0].l2, found[False][0].l2)
    torch.testing.assert_close(found[True][0].final, found[False][0].final, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("hold_out", "parts"), [(HoldOut.folds(3), 3), (HoldOut.halves(), 5), (HoldOut.given(), 5)])
def test_parts_of_the_held_out_rows_have_each_of_them_once(hold_out: HoldOut, parts: int) -> None:
    x, y = correlated(303, 5, 4)
    batch = made_batch(x, y, parts=np.arange(303) % hold_out.trained.shape[1])
    pieces = [Chunk.of(batch.slice(start, min(start + 40, 303)), 0) for start in range(0, 303, 40)]
    seen: list[torch.Tensor] = []

    def recorded(rows: Sequence[HeldOutCells], log_weights: torch.Tensor) -> torch.Tensor:
        seen.append(torch.cat([part.logits for part in rows]))
        return torch.zeros_like(log_weights)

    ones = torch.ones(4, dtype=torch.float64)
    totals = totals_of(batch, hold_out.trained.shape[1])
    fit = FullBatchFit(lambda: pieces, totals, hold_out, ones, 6, recorded)
    solution = solution_of(fit, 0.01)
    everything = seen[-1]
    seen.clear()
    assert fit.held_out_parts(solution.models).tolist() == [0.0] * parts
    assert [len(part) for part in seen] == [
        len(everything) // parts + (i < len(everything) % parts) for i in range(parts)
    ]
    torch.testing.assert_close(torch.cat(seen).sort(0).values, everything.sort(0).values)


@pytest.mark.parametrize("hold_out", [HoldOut.folds(3), HoldOut.nothing(), HoldOut.halves()])
@pytest.mark.parametrize("pos_weight", [1.0, 5.0])
def test_constant_labels_have_no_weights_and_the_bias_of_the_contract(hold_out: HoldOut, pos_weight: float) -> None:
    x, y = correlated(90, 4, 1)
    labels = np.concatenate([np.ones((90, 1), int), np.zeros((90, 1), int), y], 1)
    mask = np.ones((90, 3), bool)
    mask[:30, 0] = False
    num_parts = hold_out.trained.shape[1]
    batch = made_batch(x, labels, mask=mask, parts=np.arange(90) % num_parts)
    fit = fitted(batch, hold_out, 0.01, pos_weight=torch.tensor([pos_weight] * 3, dtype=torch.float64))
    assert not fit.final[:-1, :2].any()
    totals = totals_of(batch, num_parts).of(hold_out.final())
    for label in range(2):
        share = (float(totals.positives[0, label]) + 0.5) / (float(totals.totals[0, label]) + 1)
        expected = math.log(share / (1 - share)) + math.log(pos_weight)
        assert float(fit.final[-1, label]) == pytest.approx(expected)
    assert fit.final[:-1, 2].any()


def test_a_label_that_is_never_observed_is_undefined_and_stays_at_zero() -> None:
    x, y = correlated(60, 3, 2)
    mask = np.ones((60, 2), bool)
    mask[:, 1] = False
    fit = fitted(made_batch(x, y, mask=mask, parts=np.arange(60) % 3), HoldOut.folds(3), l2_grid(60, 0.1, 10, 1))
    assert not fit.final[:, 1].any()
    assert math.isnan(float(fit.train_loss[1]))
    assert math.isfinite(fit.valid_loss)


def test_masked_rows_do_not_count() -> None:
    x, y = correlated(200, 4, 1)
    mask = (np.arange(200) % 2 == 0)[:, None]
    parts = (np.arange(200) // 2) % 2
    masked = fitted(made_batch(x, y, mask=mask, parts=parts), HoldOut.folds(2), 0.02)
    seen = mask[:, 0]
    alone = fitted(made_batch(x[seen], y[seen], parts=parts[seen]), HoldOut.folds(2), 0.02)
    torch.testing.assert_close(masked.final, alone.final, rtol=1e-5, atol=1e-7)
    assert masked.valid_loss == pytest.approx(alone.valid_loss, abs=5e-5)  # the search stops at a gap of 1e-6
    torch.testing.assert_close(masked.train_loss, alone.train_loss)


def test_the_training_loss_is_the_data_term() -> None:
    x, y = correlated(100, 4, 1)
    fit = fitted(made_batch(x, y), HoldOut.nothing(), 0.1)
    logits = x @ fit.final[:-1, 0].numpy() + float(fit.final[-1, 0])
    assert float(fit.train_loss[0]) == pytest.approx(log_loss(y[:, 0], 1 / (1 + np.exp(-logits))), abs=1e-6)
    assert math.isnan(fit.valid_loss)


def test_labels_in_groups_are_as_labels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = correlated(150, 4, 5)
    batch = made_batch(x, y, parts=np.arange(150) % 3)
    together = fitted(batch, HoldOut.folds(3), 0.02)
    monkeypatch.setattr("mlclf.training.full_batch.l2_search.SOLVER_BYTES", 1)
    apart = fitted(batch, HoldOut.folds(3), 0.02)
    torch.testing.assert_close(together.final, apart.final, rtol=1e-4, atol=1e-6)
    assert together.valid_loss == pytest.approx(apart.valid_loss, abs=1e-7)


def test_the_grid_goes_from_strong_to_weak() -> None:
    grid = l2_grid(200.0, 1e-2, 1e1, 2)
    assert grid == sorted(grid, reverse=True)
    assert grid[0] == pytest.approx(1 / (1e-2 * 200))
    assert grid[-1] == pytest.approx(1 / (1e1 * 200))
    assert len(grid) == 7
    assert l2_grid(100.0, 1.0, 1.0, 2) == pytest.approx([0.01, 0.01])


def test_rare_labels_follow_all_labels_and_frequent_ones_their_own() -> None:
    curves = torch.tensor([[0.60, 0.60, 0.50], [0.50, 0.50, 0.49], [0.55, 0.55, 0.40]], dtype=torch.float64)
    everyone = int(curves.mean(1).argmin())
    assert everyone == 1
    chosen: Tensor = choose_by_label(curves, torch.tensor([1e6, 1e6, 1e6], dtype=torch.float64))
    assert chosen.tolist() == [1, 1, 2]
    assert choose_by_label(curves, torch.tensor([1e6, 1e6, 1.0], dtype=torch.float64)).tolist() == [1, 1, 1]


def test_labels_without_held_out_rows_take_the_choice_of_all() -> None:
    curves = torch.tensor([[0.6, math.nan], [0.5, math.nan], [0.7, math.nan]], dtype=torch.float64)
    assert choose_by_label(curves, torch.tensor([50.0, 0.0], dtype=torch.float64)).tolist() == [1, 1]


def test_curves_of_groups_that_stopped_go_on_level() -> None:
    joined = joined_curves([torch.tensor([[3.0], [2.0], [4.0]]), torch.tensor([[1.0, 5.0], [2.0, 6.0]])])
    assert joined.tolist() == [[3, 1, 5], [2, 2, 6], [4, 2, 6]]


@pytest.mark.slow
def test_a_rare_label_follows_the_labels_of_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy(300, labels=3)
    batch = made_batch(x, y, parts=np.arange(300) % 3)
    grid = l2_grid(300.0, *GRID_C, 2)
    monkeypatch.setattr("mlclf.training.full_batch.l2_choice.SHRINKAGE_POSITIVES", 1e9)
    together = fitted(batch, HoldOut.folds(3), grid)
    monkeypatch.setattr("mlclf.training.full_batch.l2_search.SOLVER_BYTES", 1)
    apart = fitted(batch, HoldOut.folds(3), grid)
    assert apart.l2.tolist() == together.l2.tolist()
    assert len(set(apart.l2.tolist())) == 1


def test_the_search_goes_on_from_a_plateau_at_its_start() -> None:
    """Losses that are level to a millionth, one up and one down, end nothing; a rise beside the least does."""
    x, y = correlated(60, 3, 1)
    losses = [0.1, 0.1 + 1e-7, 0.1 + 2e-7, 0.1 + 5e-6, 0.099, 0.09, 0.0904, 0.0908, 0.05]
    given = iter(losses)
    batch = made_batch(x, y, parts=np.arange(60) % 3)
    fit = FullBatchFit(
        chunks_of(batch),
        totals_of(batch, 3),
        HoldOut.folds(3),
        torch.ones(1, dtype=torch.float64),
        4,
        lambda cells, shift: torch.tensor([next(given)], dtype=torch.float64),
    )
    seen = [progress.valid_loss for progress in fit.run(l2_grid(60, 1e-4, 1e2, 2))]
    assert seen == losses  # the last is that of the models at the chosen l2
