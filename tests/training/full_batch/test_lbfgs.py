"""The full-batch solver reaches the optimum that scikit-learn finds, many problems side by side as each alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_batches import correlated, made_batch
from made_problems import chunks_of, problems_of
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from mlclf.training.full_batch.chunks import Chunk, Problems
from mlclf.training.full_batch.lbfgs import Solution, label_groups, lbfgs
from mlclf.training.full_batch.objective import smooth_objective
from mlclf.training.full_batch.preconditioner import InputMoments

TOLERANCE = 1e-13
ROWS, INPUTS, LABELS = 300, 6, 3


def solved(chunks: Callable[[], list[Chunk]], problems: Problems, inputs: int = INPUTS) -> Solution:
    start = torch.zeros(inputs + 1, len(problems), dtype=torch.float64)
    return lbfgs(chunks, problems, start, InputMoments.of(chunks), tolerance=TOLERANCE, max_passes=5000)


def reference(
    x: NDArray[np.float64], y: NDArray[np.int64], weights: NDArray[np.float64], l2: float, pos_weight: float = 1.0
) -> NDArray[np.float64]:
    """Coefficients and intercept [D + 1] of scikit-learn: l2 = 1 ÷ (C · Σw)."""
    model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-12, max_iter=100_000, solver="newton-cholesky")
    model.fit(x, y, sample_weight=weights * np.where(y == 1, pos_weight, 1.0))
    return np.append(model.coef_[0], model.intercept_[0])


@pytest.mark.parametrize("c", [1e-3, 1e-1, 1.0, 1e2, 1e4])
def test_it_is_the_optimum_of_scikit_learn(c: float) -> None:
    x, y = correlated(ROWS, INPUTS, LABELS)
    batch, l2 = made_batch(x, y), 1 / (c * ROWS)
    solution = solved(chunks_of(batch), problems_of(batch, l2))
    assert solution.converged.all()
    for label in range(LABELS):
        expected = reference(x, y[:, label], np.ones(ROWS), l2)
        np.testing.assert_allclose(solution.columns[:, label].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_weights_masks_and_pos_weight() -> None:
    x, y = correlated(ROWS, INPUTS, LABELS)
    rng = np.random.default_rng(1)
    weights, mask = rng.integers(0, 5, ROWS) / 2, rng.random((ROWS, LABELS)) < 0.6
    batch = made_batch(x, y, weights=weights, mask=mask)
    pos_weight = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    solution = solved(chunks_of(batch), problems_of(batch, 0.01, pos_weight=pos_weight))
    for label in range(LABELS):
        seen = mask[:, label]
        expected = reference(x[seen], y[seen, label], weights[seen], 0.01, float(pos_weight[label]))
        np.testing.assert_allclose(solution.columns[:, label].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_tokens_are_the_one_hot_matrix() -> None:
    x, y = correlated(ROWS, 2, 1)
    rng = np.random.default_rng(2)
    tokens = [sorted(rng.choice(9, rng.integers(0, 4), replace=False).tolist()) for _ in range(ROWS)]
    values = [rng.integers(1, 5, len(row)).tolist() for row in tokens]
    hot = np.zeros((ROWS, 9))
    for row, (ids, amounts) in enumerate(zip(tokens, values, strict=True)):
        hot[row, ids] = amounts
    batch = made_batch(x, y, tokens=tokens, values=values)
    solution = solved(chunks_of(batch, 9), problems_of(batch, 0.01), 11)
    expected = reference(np.concatenate([x, hot], 1), y[:, 0], np.ones(ROWS), 0.01)
    np.testing.assert_allclose(solution.columns[:, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_autograd() -> None:
    x, y = correlated(60, INPUTS, LABELS)
    batch = made_batch(x, y, weights=np.random.default_rng(0).random(60))
    problems = problems_of(batch, 0.3, pos_weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    columns = torch.randn(INPUTS + 1, LABELS, dtype=torch.float64) * 0.1
    value, gradient = smooth_objective(chunks_of(batch), problems, columns)
    free = columns.clone().requires_grad_()
    logits = torch.from_numpy(x) @ free[:-1] + free[-1]
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(y).double(), pos_weight=problems.pos_weight, reduction="none"
    )
    weights = batch.weights.double()[:, None]
    objective = (bce * weights).sum(0) / weights.sum() + 0.15 * free[:-1].square().sum(0)
    torch.testing.assert_close(value, objective.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(objective.sum(), free)[0])


@pytest.mark.parametrize("l2", [1e-5, 1e-2, 1.0])
def test_the_certificate_is_tiny(l2: float) -> None:
    """By strong convexity f − f* ≤ ‖∇f‖² ÷ 2·l2 with the bias at its own optimum."""
    x, y = correlated(ROWS, INPUTS, LABELS)
    x = x / x.std(0)
    batch = made_batch(x, y)
    problems = problems_of(batch, l2)
    solution = solved(chunks_of(batch), problems)
    _, gradient = smooth_objective(chunks_of(batch), problems, solution.columns)
    assert float(gradient.norm(dim=0).max()) < 1e-6
    assert float((gradient[:-1].square().sum(0) / (2 * l2)).max()) < 1e-8
    assert solution.converged.all()


def test_problems_side_by_side_equal_those_alone() -> None:
    x, y = correlated(ROWS, INPUTS, LABELS)
    parts = np.arange(ROWS) % 3
    batch = made_batch(x, y, parts=parts, weights=np.random.default_rng(3).random(ROWS))
    trained = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
    strengths = torch.logspace(-4, 0, 9)
    problems = problems_of(batch, strengths, trained=trained)
    together = solved(chunks_of(batch), problems)
    for index in range(len(problems)):
        alone = solved(chunks_of(batch), problems.chosen(torch.tensor([index])))
        torch.testing.assert_close(together.columns[:, [index]], alone.columns, rtol=1e-4, atol=1e-6)


def test_parts_that_are_not_trained_on_do_not_matter() -> None:
    x, y = correlated(ROWS, INPUTS, 1)
    parts = (np.arange(ROWS) >= 200).astype(int)
    batch = made_batch(x, y, parts=parts)
    some = solved(chunks_of(batch), problems_of(batch, 0.01, trained=torch.tensor([[1.0, 0.0]], dtype=torch.float64)))
    expected = reference(x[:200], y[:200, 0], np.ones(200), 0.01)
    np.testing.assert_allclose(some.columns[:, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("l1", [0.003, 0.03, 0.1])
def test_l1_is_the_optimum_of_scikit_learn_with_exact_zeros(l1: float) -> None:
    x, y = correlated(200, 8, 2)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32).astype(np.float64)
    batch = made_batch(x, y)
    solution = solved(chunks_of(batch), problems_of(batch, 0.0, l1=l1), 8)
    zeros = 0
    for label in range(2):
        model = LogisticRegression(l1_ratio=1.0, C=1 / (l1 * 200), solver="saga", tol=1e-9, max_iter=50_000)
        model.fit(x, y[:, label])
        ours = solution.columns[:, label].numpy()
        np.testing.assert_allclose(ours[:-1], model.coef_[0], atol=2e-4)
        np.testing.assert_allclose(ours[-1], model.intercept_[0], atol=2e-4)
        assert ((ours[:-1] == 0) == (np.abs(model.coef_[0]) < 1e-6)).all()
        zeros += int((ours[:-1] == 0).sum())
    assert zeros > 0 or l1 < 0.01


def test_strong_l1_leaves_the_bias_alone() -> None:
    x, y = correlated(200, 4, 1)
    batch = made_batch(x, y)
    solution = solved(chunks_of(batch), problems_of(batch, 0.0, l1=1e3), 4)
    assert not solution.columns[:-1].any()
    share = y.mean()
    assert float(solution.columns[-1, 0]) == pytest.approx(np.log(share / (1 - share)), abs=1e-5)


def test_l1_and_l2_together_meet_their_conditions() -> None:
    x, y = correlated(200, 8, 2)
    x = (x - x.mean(0)) / x.std(0)
    batch, l1 = made_batch(x, y), 0.02
    problems = problems_of(batch, 0.05, l1=l1)
    columns = solved(chunks_of(batch), problems, 8).columns
    _, gradient = smooth_objective(chunks_of(batch), problems, columns)
    weights, slopes = columns[:-1], gradient[:-1]
    assert (slopes[weights == 0].abs() <= l1 + 1e-6).all()
    torch.testing.assert_close(slopes[weights != 0], -l1 * weights[weights != 0].sign(), rtol=0, atol=1e-5)
    assert float(gradient[-1].abs().max()) < 1e-6


def test_separated_classes_end_without_a_number_that_is_not_finite() -> None:
    x = np.linspace(-1, 1, 50)[:, None]
    batch = made_batch(x, (x > 0).astype(int))
    start = torch.zeros(2, 1, dtype=torch.float64)
    chunks, problems = chunks_of(batch), problems_of(batch, 0.0)
    solution = lbfgs(chunks, problems, start, InputMoments.of(chunks), tolerance=TOLERANCE)
    assert torch.isfinite(solution.columns).all()
    assert float(smooth_objective(chunks, problems, solution.columns)[0]) < 1e-3


def test_inputs_of_very_different_scales_converge() -> None:
    x, y = correlated(ROWS, INPUTS, 1)
    x = x / x.std(0) * np.array([1e-4, 1e-2, 1, 1e2, 1e4, 1])
    batch = made_batch(x, y)
    solution = solved(chunks_of(batch), problems_of(batch, 1e-8))
    assert solution.converged.all()
    exact = batch.dense.double().numpy()
    expected = reference(exact, y[:, 0], np.ones(ROWS), 1e-8)
    ours = solution.columns[:, 0].numpy()
    logits = [exact @ each[:-1] + each[-1] for each in (ours, expected)]
    np.testing.assert_allclose(logits[0], logits[1], atol=5e-3)


def test_groups_of_labels_cover_all_and_fit_the_budget() -> None:
    groups = [list(group) for group in label_groups(100, num_inputs=1000, copies=6, budget_bytes=20 << 20)]
    assert [label for group in groups for label in group] == list(range(100))
    assert 1 < len(groups) < 100
    assert [list(group) for group in label_groups(3, 10**9, 6, 1)] == [[0], [1], [2]]
