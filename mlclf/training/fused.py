"""A linear layer and its binary cross-entropy in one step, whose gradient is found on the way forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class LinearBCE(torch.autograd.Function):
    """The mean over cells of BCE(x·Wᵀ + b, y). The gradient of the logits is sigmoid(z) − y, so none is kept."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        logits = torch.addmm(bias, dense, weight.t())
        targets = labels.to(logits.dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        slope = logits.sigmoid_().sub_(targets).div_(logits.numel())
        ctx.save_for_backward(slope.t() @ dense, slope.sum(0))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias = ctx.saved_tensors
        return None, weight * grads[0], bias * grads[0], None


def linear_bce(dense: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of an ``nn.Linear``, as ``BCEWithLogitsLoss()(linear(dense), labels)`` gives it.

    Faster on a CPU, because the gradients of weight and bias are found while the logits are in the cache.
    Nothing flows back into `dense`.

    Args:
        dense: [B, D] float32.
        weight, bias: [K, D] and [K] float32, as of an ``nn.Linear``.
        labels: [B, K] of 0 and 1, of any type.

    Returns:
        A float32 scalar.
    """
    loss: Tensor = LinearBCE.apply(dense, weight, bias, labels)  # type: ignore[no-untyped-call]  # torch's apply
    return loss
