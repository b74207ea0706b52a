"""The loop: plain gradient descent where it has to be, the same run for the same seed, an error for a bad number."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from made_batches import correlated, made_batch
from made_training import Rows, drawn, run, training_of
from torch import Tensor

from mlclf.config.optimizers import OPTIMIZERS, Stepper
from mlclf.data.batch import Batch
from mlclf.errors import TrainingError
from mlclf.training.mini_batch.candidate_heads import Candidate
from mlclf.training.mini_batch.loop import Training
from mlclf.training.mini_batch.rates_and_penalties import rate_factor

STEPPERS = {name: found for name, found in OPTIMIZERS.items() if isinstance(found, Stepper)}


def weights_of(training: Training, index: int = 0) -> Tensor:
    """[K, D + 1]: weights and bias."""
    head = training.heads.head(index)
    return torch.cat([head.linear.weight, head.linear.bias[:, None]], 1).detach()


def descent(
    batch: Batch, steps: list[np.ndarray], lr: float, l2: float, l1: float, pos_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent by hand in float64: [K, D + 1] and the data term of each step, over the given rows of each."""
    x = np.concatenate([batch.dense.double().numpy(), np.ones((len(batch), 1))], 1)
    y, weights = batch.labels.double().numpy(), batch.weights.double().numpy()[:, None]
    mask = np.ones_like(y) if batch.label_mask is None else batch.label_mask.double().numpy()
    totals = (weights * mask).sum(0)
    parameters, losses = np.zeros((y.shape[1], x.shape[1])), []
    for rows in steps:
        logits = x[rows] @ parameters.T
        cells = (weights * mask)[rows] / totals * len(batch) / len(rows)
        factor = np.where(y[rows] == 1, pos_weight, 1.0)
        losses.append(((np.logaddexp(0, logits) - y[rows] * logits) * factor * cells).sum(0).mean())
        slope = (1 / (1 + np.exp(-logits)) - y[rows]) * factor * cells
        penalty = l2 * parameters + l1 * np.sign(parameters)
        penalty[:, -1] = 0
        parameters = parameters - lr * (slope.T @ x[rows] + penalty)
    return parameters, np.array(losses)


@pytest.mark.parametrize("chunk", [7, 60])
@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_the_whole_set_as_one_batch_is_gradient_descent(chunk: int, l1: float) -> None:
    batch = drawn()
    training = training_of(batch, lr=0.5, l2=0.1, l1=l1, full_batch=True, pos_weight=torch.tensor([3.0, 3.0]))
    losses = torch.cat(run(training, Rows(batch, chunk), 6)).numpy()
    expected, data_terms = descent(batch, [np.arange(60)] * 6, 0.5, 0.1, l1, 3.0)
    np.testing.assert_allclose(weights_of(training).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(losses, data_terms, atol=1e-5)
    assert training.step == 6


def test_an_explicit_rate_is_constant_without_momentum() -> None:
    batch = drawn()
    training = training_of(batch, lr=0.3, l2=0.05)
    run(training, Rows(batch, 20, shuffle=False), 4)
    steps = [np.arange(start, start + 20) for start in (0, 20, 40)] * 4
    expected, _ = descent(batch, steps, 0.3, 0.05, 0.0, 1.0)
    np.testing.assert_allclose(weights_of(training).numpy(), expected, atol=1e-5)


def test_the_training_loss_is_that_before_each_step() -> None:
    batch = drawn()
    training = training_of(batch, lr=0.3)
    loss = float(run(training, Rows(batch, 20, shuffle=False))[0][0])
    _, terms = descent(batch, [np.arange(start, start + 20) for start in (0, 20, 40)], 0.3, 0.0, 0.0, 1.0)
    assert loss == pytest.approx(terms.mean(), abs=1e-5)


@pytest.mark.parametrize("name", STEPPERS)
def test_default_rates_warm_up_and_fall_to_nothing(name: str) -> None:
    batch = drawn()
    training = training_of(batch, optimizer_name=name, total_steps=40)
    rates = []
    apply = training._apply

    def noted() -> None:
        rates.append(training.optimizer.param_groups[0]["lr"])
        apply()

    training._apply = noted  # type: ignore[method-assign]
    run(training, Rows(batch, 3), 2)
    assert len(rates) == 40
    assert max(rates) == pytest.approx(STEPPERS[name].rate)
    assert rates[0] == pytest.approx(STEPPERS[name].rate / 2)
    assert 0 < rates[-1] < STEPPERS[name].rate / 20
    assert rates == pytest.approx([STEPPERS[name].rate * rate_factor(step, 40) for step in range(40)])


def test_momentum_is_for_the_default_rate_only() -> None:
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    assert STEPPERS["sgd"].make(parameter, None).param_groups[0]["momentum"] == 0.9
    assert STEPPERS["sgd"].make(parameter, 0.1).param_groups[0]["momentum"] == 0.0
    assert STEPPERS["adamw"].make(parameter, 0.1).param_groups[0]["weight_decay"] == 0.0


def test_adamw_is_adam_because_l2_is_in_the_loss() -> None:
    batch = drawn()
    pair = [training_of(batch, optimizer_name=name, l2=0.3) for name in ("adam", "adamw")]
    for training in pair:
        run(training, Rows(batch, 20), 3)
    torch.testing.assert_close(weights_of(pair[0]), weights_of(pair[1]), rtol=0, atol=0)


@pytest.mark.parametrize("name", STEPPERS)
def test_the_same_rows_give_the_same_run(name: str) -> None:
    batch = drawn()
    pair = [training_of(batch, optimizer_name=name, hidden=(4,)) for _ in range(2)]
    for training in pair:
        run(training, Rows(batch, 20), 3)
    one, two = (training.heads.state_dict() for training in pair)
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", STEPPERS)
def test_candidates_side_by_side_equal_those_alone(name: str) -> None:
    x, y = correlated(60, 3, 2)
    batch = made_batch(x / x.std(0), y, parts=np.arange(60) % 2)
    candidates = [Candidate((1.0, 0.0), 0.1), Candidate((0.0, 1.0), 0.1), Candidate((1.0, 1.0), 0.001)]
    together = training_of(batch, candidates=candidates, optimizer_name=name)
    run(together, Rows(batch, 20), 3)
    for index, candidate in enumerate(candidates):
        alone = training_of(batch, candidates=[candidate], optimizer_name=name)
        run(alone, Rows(batch, 20), 3)
        torch.testing.assert_close(weights_of(together, index), weights_of(alone), rtol=1e-5, atol=1e-6)


def test_rows_of_another_part_do_not_train() -> None:
    x, y = correlated(60, 3, 1)
    batch = made_batch(x / x.std(0), y, parts=(np.arange(60) >= 30).astype(int))
    wrong = made_batch(
        x / x.std(0), np.where(np.arange(60)[:, None] < 30, y, 1 - y), parts=(np.arange(60) >= 30).astype(int)
    )
    pair = [training_of(each, candidates=[Candidate((1.0, 0.0), 0.01)], lr=0.1) for each in (batch, wrong)]
    for training, each in zip(pair, (batch, wrong), strict=True):
        run(training, Rows(each, 20), 2)
    torch.testing.assert_close(weights_of(pair[0]), weights_of(pair[1]), rtol=0, atol=0)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_constant_labels_stay_as_they_start(hidden: tuple[int, ...]) -> None:
    batch = drawn()
    training = training_of(batch, hidden=hidden, l2=0.1, constant=torch.tensor([[False, True]]))
    training.heads.start_biases(torch.tensor([[0.5, -4.0]]))
    run(training, Rows(batch, 20), 3)
    last = training.heads.head(0).last
    assert not last.weight[1].any()
    assert float(last.bias[1].detach()) == -4.0
    assert last.weight[0].any()


def test_the_best_weights_of_each_candidate_are_kept() -> None:
    batch = drawn()
    training = training_of(batch, candidates=[Candidate((1.0,), 0.1), Candidate((1.0,), 0.2)], lr=0.1)
    snapshots = []
    for losses in ([1.0, 1.0], [0.5, 2.0], [0.7, 0.9]):
        run(training, Rows(batch, 20))
        snapshots.append([weights_of(training, index) for index in range(2)])
        training.best.keep(training.heads, training.epoch - 1, losses)
    assert training.best.epochs == [1, 2]
    assert training.best.losses == [0.5, 0.9]
    for index, epoch in enumerate((1, 2)):
        head = training.heads.head(index, training.best.weights)
        torch.testing.assert_close(head.linear.weight.detach(), snapshots[epoch][index][:, :-1], rtol=0, atol=0)


# ── numbers that are not finite ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("full_batch", [False, True])
def test_a_loss_that_is_not_finite_names_step_and_place(full_batch: bool) -> None:
    batch = drawn()
    batch.dense[45, 0] = float("inf")
    training = training_of(batch, lr=0.1, full_batch=full_batch)
    message = (
        f"the loss of step {0 if full_batch else 4} is not finite; the rows of its batch begin in part-0.parquet "
        "row group 4. Lower optimizer.lr, or set training.precision=float32"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        run(training, Rows(batch, 10, shuffle=False))


def test_a_rate_that_is_too_high_ends_in_an_error() -> None:
    batch = drawn()
    training = training_of(batch, lr=1e38, l2=1.0)
    with pytest.raises(TrainingError, match=r"^the loss of step \d+ is not finite; the rows of its batch begin in "):
        run(training, Rows(batch, 10), 5)


def test_a_nan_in_every_batch_is_found_with_the_fp16_scaler() -> None:
    """GradScaler skips such steps one after the other and says nothing, down to a scale of 0."""
    batch = drawn()
    batch.dense[:, 0] = float("nan")
    training = training_of(batch, precision="fp16")
    with pytest.raises(TrainingError, match=r"^the loss of step 0 is not finite; the rows of its batch begin in "):
        run(training, Rows(batch, 10))


def test_gradients_that_stay_infinite_are_found_with_the_fp16_scaler() -> None:
    batch = drawn(200)
    training = training_of(batch, precision="fp16", lr=0.1)

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * float("inf")

    next(iter(training.heads.parameters())).register_hook(spoil)
    with pytest.raises(
        TrainingError, match=r"^the gradient of step \d+ is not finite; the rows of its batch begin in "
    ):
        run(training, Rows(batch, 2))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_comes_near_float32(precision: str) -> None:
    batch = drawn(200)
    pair = [training_of(batch, precision=each, lr=0.2) for each in ("float32", precision)]
    for training in pair:
        run(training, Rows(batch, 20), 5)
    torch.testing.assert_close(weights_of(pair[0]), weights_of(pair[1]), rtol=0.05, atol=0.02)
