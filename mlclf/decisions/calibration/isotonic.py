"""Isotonic calibration: the best curve that does not fall, by pooling adjacent violators, joined into a line."""

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
    pools = _pooled(positives.numpy(), (positives + negatives).numpy(), centres.numpy())
    count = torch.from_numpy(pools.top + 1).clamp_min(1)
    width = int(count.max()) if len(count) else 1
    p, n, z = (torch.from_numpy(values[:, :width]) for values in (pools.positives, pools.totals, pools.moments))
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


class _Pools(NamedTuple):
    """Sums of the pools of k labels, [k, C] each, used up to and with `top` [k]."""

    positives: NDArray[np.float64]
    totals: NDArray[np.float64]
    moments: NDArray[np.float64]
    top: NDArray[np.int64]


def _pooled(positives: NDArray[np.float64], totals: NDArray[np.float64], centres: NDArray[np.float64]) -> _Pools:
    """Pool adjacent violators, place by place for all labels at once; each label has its stack of pools."""
    p, n, z = np.zeros((3, *totals.shape))
    top = np.full(len(totals), -1)
    for place in np.flatnonzero((totals > 0).any(0)):
        rows = np.flatnonzero(totals[:, place] > 0)
        top[rows] += 1
        p[rows, top[rows]], n[rows, top[rows]] = positives[rows, place], totals[rows, place]
        z[rows, top[rows]] = totals[rows, place] * centres[rows, place]
        while len(rows := rows[top[rows] > 0]):
            t = top[rows]
            falls = p[rows, t - 1] * n[rows, t] >= p[rows, t] * n[rows, t - 1]
            rows, t = rows[falls], t[falls]
            for sums in (p, n, z):
                sums[rows, t - 1] += sums[rows, t]
                sums[rows, t] = 0
            top[rows] -= 1
    return _Pools(p, n, z, top)


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
