"""The L2 of each label, chosen by its held-out loss shrunk toward that of all labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHRINKAGE_POSITIVES = 100
"""Positives at which a label's own curve of held-out loss counts as much as that of all labels."""
MAX_RISES = 2
STEEP_RISE = 1.02


def l2_grid(total: float, c_low: float, c_high: float, steps_per_decade: int) -> list[float]:
    """Amounts of L2 from strong to weak: 1 ÷ (C · total weight) for C from `c_low` to `c_high`."""
    low, high = torch.tensor([c_low, c_high], dtype=torch.float64).log10().tolist()
    count = max(1, round((high - low) * steps_per_decade))
    exponents = [low + (high - low) * step / count for step in range(count + 1)]
    return [1.0 / (10.0**exponent * max(total, 1e-300)) for exponent in exponents]


def choose_by_label(curves: Tensor, positives: Tensor) -> Tensor:
    """Index of the best L2 of each label, rare labels shrunk toward the loss of all labels: [K] int64.

    The criterion is a·own + (1 − a)·pooled, both relative to the pooled best, with a = P ÷ (P + 100).

    Args:
        curves: [G, K] float64, held-out loss of each candidate and label; NaN for labels without held-out rows.
        positives: [K] float64, rows of the rarer class.
    """
    known = ~curves.isnan()
    pooled = torch.where(known, curves, 0.0).sum(1) / known.sum(1).clamp_min(1)
    best = int(pooled.argmin())
    own = torch.where(known, curves / curves[best].clamp_min(1e-12), 1.0)
    share = positives / (positives + SHRINKAGE_POSITIVES)
    return (share * own + (1 - share) * (pooled / pooled[best].clamp_min(1e-12))[:, None]).argmin(0)


def has_passed_its_least(losses: Sequence[float]) -> bool:
    """Whether the losses of a path of falling L2 have risen for good: steeply once, or twice since their least.

    Where L2 is so strong that the models are hardly more than the prior, the losses are level, and which of them is the
    least means nothing: those that differ from the first by no more than LEVEL of it are no rise.

    >>> has_passed_its_least([0.5, 0.500001, 0.500002]), has_passed_its_least([0.5, 0.4, 0.403, 0.402])
    (False, True)
    """
    least = min(losses)
    since = losses[losses.index(least) + 1 :]
    rises = sum(abs(loss - losses[0]) > LEVEL * losses[0] for loss in since)
    return losses[-1] > least * STEEP_RISE or rises >= MAX_RISES


def joined_curves(curves: Sequence[Tensor]) -> Tensor:
    """Loss curves [G, K] of all labels from those of groups [g, k]; curves that ended early are extended by their end.

    So which labels are in a group, and in which order they come, hardly matters for what all have in common.
    """
    longest = max(len(curve) for curve in curves)
    return torch.cat([torch.cat([curve, curve[-1:].expand(longest - len(curve), -1)]) for curve in curves], dim=1)


LEVEL = 1e-4
