"""The labels of a row with the largest scores."""

from __future__ import annotations

import torch
from torch import Tensor


def top_labels(scores: Tensor, seen: Tensor | None, count: int) -> Tensor:
    """Return [n, min(count, K)] int64, the seen labels of largest scores, ties in label order, then unseen ones.

    `topk` promises no order among ties, so it gets distinct integers: the bits of a float that is not negative grow
    with it, and take the upper half; the lower half falls with the label.

    Args:
        scores: [n, K] float32, not negative.
        seen: [n, K] bool; None = all.
        count: labels of each row.
    """
    num_labels = scores.shape[1]
    falling = torch.arange(num_labels - 1, -1, -1, device=scores.device)
    keys = ((scores + 0.0).view(torch.int32).long() << 32) | falling  # + 0.0 turns -0.0 into 0.0
    if seen is not None:
        keys = torch.where(seen, keys, falling - num_labels)
    return keys.topk(min(count, num_labels), dim=1).indices


def is_top(scores: Tensor, seen: Tensor, count: int) -> Tensor:
    """Return [n, K] bool, True for the seen labels that `top_labels` names."""
    places = top_labels(scores, seen, count)
    return torch.zeros_like(seen).scatter_(1, places, True) & seen
