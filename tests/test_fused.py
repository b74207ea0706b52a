from __future__ import annotations

import math

import pytest
import torch
from fused import linear_bce


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_the_two_layers(kind: torch.dtype, factor: float) -> None:
    torch.manual_seed(0)
    dense, labels = torch.randn(50, 7), (torch.rand(50, 3) < 0.3).to(kind)
    linears = [torch.nn.Linear(7, 3) for _ in range(2)]
    linears[1].load_state_dict(linears[0].state_dict())
    expected = torch.nn.BCEWithLogitsLoss()(linears[0](dense), labels.float())
    loss = linear_bce(dense, linears[1].weight, linears[1].bias, labels)
    torch.testing.assert_close(loss, expected)
    for value in (expected, loss):
        (factor * value).backward()
    for one, other in zip(linears[0].parameters(), linears[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)


def test_logits_far_out() -> None:
    dense = torch.tensor([[1000.0], [-1000.0]])
    weight, bias = torch.ones(1, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss = linear_bce(dense, weight, bias, torch.tensor([[0], [1]]))
    assert loss.item() == 1000.0
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 1000.0


@pytest.mark.parametrize("num_dense", [0, 7])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_a_layer_and_a_bag(num_dense: int, factor: float) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(0, 6, (50,))
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    ids, labels = torch.randint(0, 30, (int(offsets[-1]),)), (torch.rand(50, 3) < 0.3).to(torch.uint8)
    dense = torch.randn(50, num_dense)
    found = []
    for is_fused in (False, True):
        weight = torch.full((3, num_dense), 0.1, requires_grad=True)
        bias = torch.full((3,), 0.2, requires_grad=True)
        embedding = torch.linspace(-1, 1, 120).reshape(40, 3).requires_grad_()
        if is_fused:
            loss = linear_bce(dense, weight, bias, labels, embedding, ids, offsets)
        else:
            bag = torch.nn.functional.embedding_bag(ids, embedding, offsets, mode="sum", include_last_offset=True)
            logits = torch.nn.functional.linear(dense, weight, bias) + bag
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        (factor * loss).backward()
        assert embedding.grad is not None
        assert embedding.grad.is_sparse == is_fused
        found.append((loss.detach(), weight.grad, bias.grad, embedding.grad.to_dense()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)


def test_rows_without_ids() -> None:
    embedding = torch.ones(4, 2, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    loss = linear_bce(
        torch.zeros(3, 0), torch.zeros(2, 0), torch.zeros(2), torch.zeros(3, 2), embedding, empty, torch.zeros(4).long()
    )
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert embedding.grad is not None
    assert embedding.grad.to_dense().abs().sum() == 0
