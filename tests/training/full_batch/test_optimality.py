"""The certificate of a fit: gradients by autograd, gaps that bound the distance to the least objective, separation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_batches import correlated, made_batch
from made_problems import chunks_of, problems_of
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional

from mlclf.data.batch import Batch
from mlclf.training.full_batch.chunks import Problems
from mlclf.training.full_batch.lbfgs import lbfgs
from mlclf.training.full_batch.optimality import optimality_of
from mlclf.training.full_batch.preconditioner import InputMoments

ROWS, INPUTS, LABELS = 300, 6, 3
POS_WEIGHT = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)


def hard_batch() -> tuple[Batch, NDArray[np.float64], NDArray[np.float64]]:
    """Rows with weights and labels that are not observed, with the dense inputs and [ROWS, LABELS] cell weights."""
    x, y = correlated(ROWS, INPUTS, LABELS)
    rng = np.random.default_rng(1)
    weights, mask = rng.integers(0, 5, ROWS) / 2, rng.random((ROWS, LABELS)) < 0.6
    return made_batch(x, y, weights=weights, mask=mask), x, weights[:, None] * mask


def solved(batch: Batch, problems: Problems, tolerance: float) -> Tensor:
    chunks = chunks_of(batch)
    start = torch.zeros(INPUTS + 1, len(problems), dtype=torch.float64)
    return lbfgs(chunks, problems, start, InputMoments.of(chunks), tolerance=tolerance, max_passes=5000).columns


def objective(columns: Tensor, batch: Batch, cells: NDArray[np.float64], l2: float, l1: float) -> Tensor:
    """[LABELS], row by row as it is defined."""
    logits, truth = batch.dense.double() @ columns[:-1] + columns[-1], batch.labels.double()
    losses = truth * POS_WEIGHT * functional.softplus(-logits) + (1 - truth) * functional.softplus(logits)
    share = torch.from_numpy(cells) / torch.from_numpy(cells).sum(0)
    weights = columns[:-1]
    return (losses * share).sum(0) + l2 / 2 * weights.square().sum(0) + l1 * weights.abs().sum(0)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_the_norm_is_that_of_the_gradient_by_autograd(l2: float) -> None:
    batch, _, cells = hard_batch()
    columns = torch.randn(INPUTS + 1, LABELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = optimality_of(chunks_of(batch), problems_of(batch, l2, pos_weight=POS_WEIGHT), columns)
    leaf = columns.clone().requires_grad_()
    objective(leaf, batch, cells, l2, 0.0).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found.gradient_norms, leaf.grad.norm(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.losses, objective(columns, batch, cells, 0.0, 0.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("l2", "l1"), [(1.0, 0.0), (0.01, 0.0), (1e-6, 0.0), (0.01, 0.02), (0.0, 0.02), (0.0, 1.0)])
def test_gaps_bound_what_the_objective_is_above_its_least(l2: float, l1: float) -> None:
    """They do so anywhere, and are tiny at the optimum."""
    batch, _, cells = hard_batch()
    problems = problems_of(batch, l2, pos_weight=POS_WEIGHT, l1=l1)
    best = solved(batch, problems, 1e-15)
    least = objective(best, batch, cells, l2, l1)
    generator = torch.Generator().manual_seed(0)
    for distance in (0.0, 1e-6, 1e-3, 0.1, 1.0, 100.0):
        columns = best + distance * torch.randn(best.shape, dtype=torch.float64, generator=generator)
        gaps = optimality_of(chunks_of(batch), problems, columns).gaps
        assert bool((gaps >= objective(columns, batch, cells, l2, l1) - least - 1e-13).all())
        assert distance > 0 or bool((gaps < (1e-9 if l2 else 1e-6)).all())


def test_without_a_penalty_there_is_no_gap() -> None:
    batch, _, _ = hard_batch()
    problems = problems_of(batch, 0.0, pos_weight=POS_WEIGHT)
    assert optimality_of(chunks_of(batch), problems, torch.zeros(INPUTS + 1, LABELS).double()).gaps.isnan().all()


def is_separable(x: NDArray[np.float64], y: NDArray[np.int64]) -> bool:
    """Whether some weights and bias leave every row on its side, or between them, and not all between.

    A linear program maximises the sum of margins of at most 1 that are not negative.
    """
    rows = np.where(y > 0, -1.0, 1.0)[:, None] * np.column_stack([x, np.ones(len(x))])
    limits = np.concatenate([np.zeros(len(x)), np.ones(len(x))])
    found = linprog(rows.sum(0), np.vstack([rows, -rows]), limits, bounds=[(None, None)] * rows.shape[1])
    assert found.status == 0
    return bool(-found.fun > 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "flags", "mixed"])
def test_separated_labels_are_those_of_a_linear_program(kind: str) -> None:
    """Flags are quasi-separated as soon as all rows that have one are of a class. One in fifty may be missed."""
    rng = np.random.default_rng(0)
    found, expected = [], []
    for rows in (8, 12, 16, 20, 24, 32, 60):
        x = rng.normal(size=(rows, INPUTS))
        flags = {"numbers": 0, "flags": INPUTS, "mixed": 2}[kind]
        x[:, :flags] = rng.random((rows, flags)) < 0.15
        y = (rng.random((rows, 12)) < 0.4).astype(np.int64)
        y[0], y[1] = 0, 1
        batch = made_batch(x, y)
        problems = problems_of(batch, 0.0)
        found += optimality_of(chunks_of(batch), problems, solved(batch, problems, 1e-13)).separates.tolist()
        expected += [is_separable(x.astype(np.float32).astype(float), column) for column in y.T]
    assert 10 < sum(expected) < 80
    assert not any(named and not real for named, real in zip(found, expected, strict=True))
    assert sum(found) >= 0.98 * sum(expected)


def test_rows_that_do_not_count_do_not_keep_labels_from_being_separated() -> None:
    x = np.array([[-1.0], [0.5], [1.0], [0.7]])
    y = np.array([[0], [1], [1], [0]])
    columns = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    plain = made_batch(x, y)
    assert not optimality_of(chunks_of(plain), problems_of(plain, 0.0), columns).separates
    masked = made_batch(x, y, mask=np.array([[True], [True], [True], [False]]))
    assert optimality_of(chunks_of(masked), problems_of(masked, 0.0), columns).separates
