"""Wealth of bets against a constraint: sums over independent rows, for every cut at once.

Waudby-Smith and Ramdas (2023): where X = (what a row adds to the constraint) has a mean of at most 0 and 1 + λX ≥ 0,
the product of 1 + λX over independent rows has a mean of at most 1, and so has an average of such products over stakes
λ that were fixed before the data. By Markov's inequality it exceeds 1/δ with a probability of at most δ. The order of
the rows does not matter, and the products are sums of logs, so they stream and merge.

What X is stands in `objectives.constraints`.

1 + λX ≥ 0 asks for λ ≤ 1/(c W), W being the greatest weight and -c the least X of a row of weight 1: p, r or 1 - a.

Most of the mixture is at the stakes around √(2 log(1/δ) ÷ (m σ²)), the best for m observations of variance σ² (the same
paper, section 3.3). It may depend on m, the number of flagged observations: given it, they are independent draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.objectives.constraints import Constraint

NUM_STAKES = 8
LARGEST_STAKE = 0.9
"""Stakes are this share of the largest that cannot go broke, halved up to `NUM_STAKES` - 1 times."""

_LEAST_LOSS = 0.01
_FOCUS, _FADING = 0.8, 0.25
BYTES_PER_CUT = 2 * 8 * NUM_STAKES + 8 + 24


def greatest_loss(constraint: Constraint) -> float:
    """c: the most that a row of weight 1 can lose, at least 0.01."""
    return max(_LEAST_LOSS, constraint.loss)


class Wealth(NamedTuple):
    """Of k labels at T cuts, from the strictest on.

    Attributes:
        log_wealth: [k, T] float64.
        flagged: [k, T] float64, independent observations with a flagged cell.
        heaviest: [k, T] float64, the greatest weight of an observation at the cut.
    """

    log_wealth: Tensor
    flagged: Tensor
    heaviest: Tensor


def log_mixture(constraint: Constraint, observations: Tensor, halvings: int | Tensor, level: float) -> Tensor:
    """Return the log of the share of the mixture that a stake has; over all `NUM_STAKES` they sum to 1.

    Args:
        constraint: what is bet against.
        observations: [...] float64, how many there are.
        halvings: how often the largest stake is halved, broadcast with `observations`.
        level: 1 - confidence.
    """
    variance = max(constraint.share * (1 - constraint.share), _LEAST_LOSS**2)
    best = greatest_loss(constraint) * (2 * math.log(1 / level) / (observations.clamp(min=1.0) * variance)).sqrt()
    centre = (LARGEST_STAKE / best).log2().clamp(0, NUM_STAKES - 1)
    places = torch.arange(NUM_STAKES, dtype=torch.float64, device=centre.device)
    total = (_FADING ** (places - centre[..., None]).abs()).sum(-1)
    return ((1 - _FOCUS) / NUM_STAKES + _FOCUS * _FADING ** (halvings - centre).abs() / total).log()


class RowWealth:
    """Wealth of independent rows of a weight up to `greatest_weight`, in constant memory.

    States, merged by sum: logs of products by bin, [NUM_STAKES, K, T] float64 for the flagged part and, unless the
    constraint follows the cut, for the unflagged one; rows by bin, [K, T] float64.
    """

    def __init__(
        self, constraint: Constraint, num_labels: int, num_cuts: int, greatest_weight: float, device: torch.device
    ) -> None:
        self.constraint, self.greatest_weight = constraint, greatest_weight
        halvings = 0.5 ** torch.arange(NUM_STAKES, dtype=torch.float64)
        self.stakes = (halvings * LARGEST_STAKE / (greatest_loss(constraint) * greatest_weight)).tolist()
        shape = (num_labels, num_cuts)
        parts = 1 if constraint.follows_cut else 2
        self.logs = torch.zeros(parts, NUM_STAKES, *shape, dtype=torch.float64, device=device)
        self.rows = torch.zeros(shape, dtype=torch.float64, device=device)

    def update(self, places: Tensor, positives: Tensor, negatives: Tensor, identities: Tensor) -> None:
        """Add cells: places [K, B] int64 from the strictest bin on, weights [K, B] float64, 0 where a cell is not."""
        gains = (self.constraint.added_by_flagged, self.constraint.added_by_unflagged)
        for part, gain in zip(self.logs, gains, strict=False):
            added = gain(positives, negatives)
            for logs, stake in zip(part, self.stakes, strict=True):
                logs.scatter_add_(1, places, torch.log1p(stake * added))
        self.rows.scatter_add_(1, places, (self.constraint.measured(positives, negatives) > 0).double())

    def merge(self, other: RowWealth) -> None:
        """Add what another one has seen."""
        self.logs += other.logs
        self.rows += other.rows

    def wealth(self, labels: slice, level: float) -> Wealth:
        """Return the wealth of a slice of labels, by the mixture for a level."""
        flagged = self.rows[labels].cumsum(1)
        observations = flagged if len(self.logs) == 1 else flagged[:, -1:]
        total = torch.full_like(flagged, -torch.inf)
        for halvings, logs in enumerate(self.logs.transpose(0, 1)):
            log_wealth = logs[0, labels].cumsum(1)
            if len(logs) == 2:
                log_wealth += logs[1, labels].sum(1, keepdim=True) - logs[1, labels].cumsum(1)
            share = log_mixture(self.constraint, observations, halvings, level)
            total = torch.logaddexp(total, log_wealth + share)
        return Wealth(total, flagged, torch.full_like(flagged, self.greatest_weight))
