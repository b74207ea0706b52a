from __future__ import annotations

import pytest
import torch

from mlclf.training.fused import linear_bce


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
