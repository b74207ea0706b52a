"""The learning rate of each step, and the gradients of L1 and L2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WARM_UP = 0.05
"""Share of the steps over which the default rate rises from 0; after it the rate falls to 0 in a straight line."""


def rate_factor(step: int, total_steps: int) -> float:
    """Factor of the default rate at a step: a short rise, then a straight line to 0 at `total_steps`."""
    rise = max(1, int(WARM_UP * total_steps))
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (total_steps - step) / max(1, total_steps - rise))


@torch.no_grad()
def add_penalties(weights: Sequence[tuple[Tensor, Tensor]], l1: float) -> None:
    """Add the gradient of l2/2·‖w‖² + l1·‖w‖₁ to the gradients, as if the penalty were in the loss.

    Args:
        weights: pairs of a parameter and its l2, a tensor that broadcasts to it.
        l1: at a weight of 0 its subgradient is taken as 0.
    """
    for parameter, l2 in weights:
        assert parameter.grad is not None
        parameter.grad.addcmul_(parameter, l2.expand_as(parameter))
        if l1:
            parameter.grad.add_(parameter.sign(), alpha=l1)
