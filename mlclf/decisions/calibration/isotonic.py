"""Isotonic calibration: the best curve that does not fall, by SciPy, its steps joined into a line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

END_SLOPE = 0.01
"""Slope of the curve beyond its first and its last knot: what lies there keeps its order, and hardly moves."""


class Knots(NamedTuple):
    """Where the curves of k labels go through, [k, J] float64 each; the curve is straight in between.

    A label with fewer than J knots ends in +inf in `logits`, and repeats its last value in `values`.
    """

    logits: Tensor  # rising
    values: Tensor  # calibrated logits, not falling
    num: Tensor  # [k] int64, at least 1


def fit_isotonic(centres: Tensor, positives: Tensor, negatives: Tensor) -> Knots:
    """Fit the curve of each label from counts at rising logits.

    Neighbours whose shares of positives do not rise are pooled until all do (Ayer et al. 1955), which is the largest
    likelihood of all curves that do not fall. A pool becomes a knot at its mean logit. The shares of the first and of
    the last pool, which can be 0 and 1, are (P + ½)/(n + 1) then, as far as the order allows.

    Args:
        centres, positives, negatives: [k, C] float64; a place without rows does not count.
    """
    totals = (positives + negatives).numpy()
    sums = np.stack([positives.numpy(), totals, totals * centres.numpy()])
    pools = [_pooled(sums[:, label, totals[label] > 0]) for label in range(len(totals))]
    count = torch.tensor([pool.shape[1] for pool in pools], dtype=torch.int64).clamp_min(1)
    width = int(count.max()) if len(count) else 1
    p, n, z = padded = torch.zeros(3, len(count), width, dtype=torch.float64)
    for label, pool in enumerate(pools):
        padded[:, label, : pool.shape[1]] = torch.from_numpy(pool)
    used = torch.arange(width) < count[:, None]
    logits = torch.where(used, (z / n).nan_to_num(), torch.inf)
    odds = torch.logit(_smoothed(p, n, used))
    last = odds.gather(1, (count - 1)[:, None])
    return Knots(logits, torch.where(used, odds, last), count)


def _smoothed(positives: Tensor, totals: Tensor, used: Tensor) -> Tensor:
    """Shares of positives strictly between 0 and 1, not falling; only the first pool can have been 0, the last 1."""
    share, laplace = positives / totals, (positives + 0.5) / (totals + 1)
    after, before = torch.full_like(share, torch.inf), torch.full_like(share, -torch.inf)
    after[:, :-1], before[:, 1:] = torch.where(used[:, 1:], share[:, 1:], torch.inf), share[:, :-1]
    share = torch.where(share <= 0, torch.minimum(laplace, after), share)
    return torch.where(share >= 1, torch.maximum(laplace, before), share)


def _pooled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums [3, J] of the pools of one label, from those [3, C] of its places: positives, rows, and rows × logit."""
    from scipy.optimize import isotonic_regression  # here, since it loads slowly and only some calibrations need it

    starts = isotonic_regression(sums[0] / sums[1], weights=sums[1]).blocks[:-1] if sums.size else []
    while len(starts) < sums.shape[1]:
        sums = np.add.reduceat(sums, starts, axis=1)
        # Pools of equal shares are one, though SciPy's means of them may differ by rounding.
        rises = sums[0, :-1] * sums[1, 1:] < sums[0, 1:] * sums[1, :-1]
        starts = np.flatnonzero(np.append(True, rises))
    return sums


def apply_knots(knots: Knots, logits: Tensor) -> Tensor:
    """Calibrated logits [k, T] float64 of logits [k, T] float64: straight between knots, END_SLOPE beyond them."""
    last = (knots.num - 1)[:, None]
    index = torch.searchsorted(knots.logits.contiguous(), logits.contiguous(), right=True) - 1
    left = torch.minimum(index.clamp_min(0), (last - 1).clamp_min(0))
    right = torch.minimum(left + 1, last)
    x0, x1 = knots.logits.gather(1, left), knots.logits.gather(1, right)
    y0, y1 = knots.values.gather(1, left), knots.values.gather(1, right)
    inside = torch.minimum(y0 + (y1 - y0) * ((logits - x0) / (x1 - x0)).nan_to_num().clamp(0, 1), y1)
    below, above = (logits - knots.logits[:, :1]).clamp_max(0), (logits - knots.logits.gather(1, last)).clamp_min(0)
    return inside + END_SLOPE * below + END_SLOPE * above
