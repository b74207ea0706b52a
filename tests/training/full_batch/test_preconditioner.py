"""The preconditioner is the inverse of the Hessian, and saves most of the solver's passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from made_batches import correlated, made_batch
from made_problems import chunks_of, problems_of
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.training.full_batch import preconditioner
from mlclf.training.full_batch.chunks import Chunk, Problems
from mlclf.training.full_batch.lbfgs import lbfgs
from mlclf.training.full_batch.objective import smooth_objective
from mlclf.training.full_batch.preconditioner import InputMoments, Preconditioner

ROWS, VOCABULARY, LABELS = 300, 9, 3
POS_WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def mixed_batch() -> Batch:
    """Weighted rows with dense inputs, tokens and values, and three labels, some not observed."""
    x, y = correlated(ROWS, 4, LABELS)
    rng = np.random.default_rng(3)
    tokens = [sorted(rng.choice(VOCABULARY, rng.integers(0, 4), replace=False).tolist()) for _ in range(ROWS)]
    values = [rng.normal(size=len(row)).tolist() for row in tokens]
    mask = rng.random((ROWS, LABELS)) < 0.8
    return made_batch(x, y, tokens=tokens, values=values, weights=rng.integers(1, 4, ROWS) / 2, mask=mask)


def hessian_of(chunks: Callable[[], list[Chunk]], problems: Problems, columns: Tensor, label: int) -> Tensor:
    """Central differences of the gradient, which test_solvers.py compares with autograd's."""
    step, inputs = 1e-5, len(columns)
    result = torch.zeros(inputs, inputs, dtype=torch.float64)
    for index in range(inputs):
        moved = []
        for sign in (1, -1):
            shifted = columns.clone()
            shifted[index] += sign * step
            moved.append(smooth_objective(chunks, problems, shifted)[1][:, label])
        result[index] = (moved[0] - moved[1]) / (2 * step)
    return result


def test_it_is_the_inverse_of_the_hessian() -> None:
    batch = mixed_batch()
    chunks, problems = chunks_of(batch, VOCABULARY), problems_of(batch, 0.1, pos_weight=POS_WEIGHT)
    columns = 0.1 * torch.randn(4 + VOCABULARY + 1, LABELS, dtype=torch.float64, generator=torch.manual_seed(0))
    moments = InputMoments.of(chunks)
    assert len(moments.kept) == 4 + VOCABULARY
    metric = Preconditioner.at_prior(moments, columns[-1], problems).at(chunks, problems, columns)
    for label in range(LABELS):
        hessian = hessian_of(chunks, problems, columns, label)
        back = metric(hessian @ torch.eye(len(columns), LABELS, dtype=torch.float64))
        expected = torch.linalg.solve(hessian, hessian @ torch.eye(len(columns), LABELS, dtype=torch.float64))
        torch.testing.assert_close(back[:, label], expected[:, label], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [4, 7, 13])
def test_inputs_beyond_the_kept_ones_have_their_diagonal(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(preconditioner, "MOST_AXES", most)
    batch = mixed_batch()
    chunks, problems = chunks_of(batch, VOCABULARY), problems_of(batch, 0.1, pos_weight=POS_WEIGHT)
    columns = torch.zeros(4 + VOCABULARY + 1, LABELS, dtype=torch.float64)
    moments = InputMoments.of(chunks)
    assert moments.kept[:4].tolist() == [0, 1, 2, 3]
    assert len(moments.kept) == most
    metric = Preconditioner.at_prior(moments, columns[-1], problems).at(chunks, problems, columns)
    hessian = hessian_of(chunks, problems, columns, 1)
    together = torch.cat([moments.kept, torch.tensor([len(columns) - 1])])
    block = torch.diag(hessian.diagonal())
    block[together[:, None], together] = hessian[together[:, None], together]
    side = torch.randn(len(columns), LABELS, dtype=torch.float64, generator=torch.manual_seed(1))
    torch.testing.assert_close(metric(side)[:, 1], torch.linalg.solve(block, side[:, 1]), rtol=1e-5, atol=1e-6)


def test_at_the_prior_it_is_the_inverse_of_the_second_moments() -> None:
    batch = mixed_batch()
    chunks, problems = chunks_of(batch, VOCABULARY), problems_of(batch, 0.1, pos_weight=POS_WEIGHT)
    biases = torch.tensor([-3.0, 0.0, 1.0], dtype=torch.float64)
    metric = Preconditioner.at_prior(InputMoments.of(chunks), biases, problems)
    rows = torch.cat(
        [torch.cat([chunk.dense, chunk.sparse.to_dense()], 1) for chunk in chunks() if chunk.sparse is not None]
    )
    weights = batch.weights.double()
    moments = rows.T @ (rows * weights[:, None]) / weights.sum()
    side = torch.randn(len(moments) + 1, LABELS, dtype=torch.float64, generator=torch.manual_seed(1))
    for label, share in enumerate(torch.sigmoid(biases).tolist()):
        whole = moments * share * (1 - share) + 0.1 * torch.eye(len(moments), dtype=torch.float64)
        torch.testing.assert_close(metric(side)[:-1, label], torch.linalg.solve(whole, side[:-1, label]))
        assert float(metric(side)[-1, label]) == pytest.approx(float(side[-1, label]) / (share * (1 - share)))


@pytest.mark.parametrize("squares", [1e-6, 1e6])
def test_axes_are_left_out_where_rounding_would_lose_them(squares: float) -> None:
    x, y = correlated(ROWS, 4, LABELS)
    moments = InputMoments.of(chunks_of(made_batch(x * np.array([1, 1, 1, squares]), y), VOCABULARY))
    assert not len(moments.kept)


def test_l1_and_many_dense_inputs_take_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = mixed_batch()
    chunks = chunks_of(batch, VOCABULARY)
    moments = InputMoments.of(chunks)
    biases = torch.zeros(LABELS, dtype=torch.float64)
    side = torch.ones(4 + VOCABULARY + 1, LABELS, dtype=torch.float64)
    diagonal = side / (moments.squares[:, None] * 0.25 + 0.1 * (torch.arange(len(side)) < len(side) - 1)[:, None])
    lasso = Preconditioner.at_prior(moments, biases, problems_of(batch, 0.1, l1=0.01, pos_weight=POS_WEIGHT))
    torch.testing.assert_close(lasso(side), diagonal)
    monkeypatch.setattr(preconditioner, "MOST_AXES", 3)
    wide = InputMoments.of(chunks)
    assert not len(wide.kept)
    torch.testing.assert_close(
        Preconditioner.at_prior(wide, biases, problems_of(batch, 0.1, pos_weight=POS_WEIGHT))(side), diagonal
    )


def test_passes_over_inputs_that_hang_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    line = np.sort(rng.normal(size=ROWS))
    x = np.stack([np.maximum(line - knot, 0) for knot in np.linspace(-2, 1, 12)], 1)
    y = (rng.random((ROWS, LABELS)) < 1 / (1 + np.exp(-np.sin(3 * line)))[:, None]).astype(np.int64)
    batch = made_batch(x, y)
    chunks, problems = chunks_of(batch, VOCABULARY), problems_of(batch, 1e-4, pos_weight=POS_WEIGHT)
    start = torch.zeros(12 + VOCABULARY + 1, LABELS, dtype=torch.float64)
    solutions = {}
    for name, most, newton in (("diagonal", 0, False), ("axes", 64, False), ("newton", 64, True)):
        monkeypatch.setattr(preconditioner, "MOST_AXES", most)
        solutions[name] = lbfgs(
            chunks, problems, start, InputMoments.of(chunks), tolerance=1e-13, newton=newton, max_passes=9_999
        )
        assert solutions[name].converged.all()
    torch.testing.assert_close(solutions["axes"].columns, solutions["diagonal"].columns, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(solutions["newton"].columns, solutions["diagonal"].columns, rtol=1e-3, atol=1e-4)
    assert solutions["axes"].passes < solutions["diagonal"].passes / 2
    assert solutions["newton"].passes < 25


def test_a_hessian_without_an_inverse_leaves_the_others_theirs() -> None:
    x, y = correlated(ROWS, 3, LABELS)
    x[:, 1] = 0
    batch = made_batch(x, y)
    chunks, problems = chunks_of(batch, VOCABULARY), problems_of(batch, 0.0, pos_weight=POS_WEIGHT)
    problems.l2[1] = 0.1
    columns = torch.zeros(3 + VOCABULARY + 1, LABELS, dtype=torch.float64)
    metric = Preconditioner.at_prior(InputMoments.of(chunks), columns[-1], problems).at(chunks, problems, columns)
    found = metric(torch.ones_like(columns))
    together = torch.tensor([0, 1, 2, len(columns) - 1])  # no row has a token
    hessian = hessian_of(chunks, problems, columns, 1)[together[:, None], together]
    expected = torch.linalg.solve(hessian, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found[together, 1], expected, rtol=1e-5, atol=1e-6)
    alone = hessian_of(chunks, problems, columns, 0).diagonal()[[0, 2, -1]]
    torch.testing.assert_close(found[[0, 2, -1], 0], 1 / alone, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(found).all()


def test_an_input_that_is_always_zero_is_harmless() -> None:
    x, y = correlated(ROWS, 4, LABELS)
    chunks = chunks_of(made_batch(np.append(x, np.zeros((ROWS, 1)), 1), y), VOCABULARY)
    moments = InputMoments.of(chunks)
    assert moments.kept.tolist() == [0, 1, 2, 3, 4]
    problems = problems_of(made_batch(x, y), 0.1, pos_weight=POS_WEIGHT)
    columns = torch.zeros(5 + VOCABULARY + 1, LABELS, dtype=torch.float64)
    prior = Preconditioner.at_prior(moments, columns[-1], problems)
    for metric in (prior, prior.at(chunks, problems, columns)):
        assert torch.isfinite(metric(torch.ones_like(columns))).all()


def test_more_rows_have_fewer_inputs_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = chunks_of(mixed_batch(), VOCABULARY)
    monkeypatch.setattr(preconditioner, "AXES_PRODUCTS", ROWS * 7**2)
    assert len(InputMoments.of(chunks).kept) == 7
    monkeypatch.setattr(preconditioner, "AXES_PRODUCTS", ROWS * 3**2)
    assert len(InputMoments.of(chunks).kept) == 0


def test_hessians_are_taken_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = InputMoments.of(chunks_of(mixed_batch(), VOCABULARY))
    cells = LABELS * (4 + VOCABULARY + 1) ** 2
    assert moments.allow_hessians(LABELS)
    monkeypatch.setattr(preconditioner, "HESSIAN_BYTES", 8 * cells - 1)
    assert not moments.allow_hessians(LABELS)
    monkeypatch.setattr(preconditioner, "HESSIAN_BYTES", 8 * cells)
    monkeypatch.setattr(preconditioner, "HESSIAN_PRODUCTS", ROWS * cells - 1)
    assert not moments.allow_hessians(LABELS)
