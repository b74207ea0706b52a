"""Logits → scores → decisions. The only place where a sigmoid makes scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def scores_of(logits: Tensor) -> Tensor:
    """Probabilities of logits, element by element: float32 in, float32 out.

    Through float64, because a float32 sigmoid rounds differently inside a vector than alone, which would move the very
    row that a threshold was taken from to the other side.
    """
    return torch.sigmoid(logits.double()).float()


def at_least(scores: Tensor, thresholds: Tensor | float) -> Tensor:
    """``scores >= thresholds``: [n, K] bool of [n, K] float32 and [K] float32 or one for all."""
    if scores.device.type != "cpu" or scores.dtype != torch.float32:
        return scores >= thresholds
    limits = thresholds.numpy() if isinstance(thresholds, Tensor) else np.float32(thresholds)
    return torch.from_numpy(scores.detach().numpy() >= limits)  # half the time of torch's
