"""Wealth of bets against a constraint: sums over independent rows, for every cut at once.

Waudby-Smith and Ramdas (2023): where X = (what a row adds to the constraint) has a mean of at most 0 and 1 + λX ≥ 0,
the product of 1 + λX over independent rows has a mean of at most 1, and so has an average of such products over stakes
λ that were fixed before the data. By Markov's inequality it exceeds 1/δ with a probability of at most δ. The order of
the rows does not matter, and the products are sums of logs, so they stream and merge.

With w the weight and y the label of a row, "flagged" meaning at or above the cut:

    precision p   X = w (y - p) if flagged, else 0                mean ≤ 0  ⇔  E[w y | flagged] ≤ p E[w | flagged]
    recall r      X = w y (1[flagged] - r)                        mean ≤ 0  ⇔  weighted recall ≤ r
    fpr a         X = w (1 - y) (a - 1[flagged])                  mean ≤ 0  ⇔  weighted false-positive rate ≥ a

1 + λX ≥ 0 asks for λ ≤ 1/(c W), W being the greatest weight and -c the least X of a row of weight 1: p, r or 1 - a.

Most of the mixture is at the stakes around √(2 log(1/δ) ÷ (m σ²)), the best for m observations of variance σ² (the same
paper, section 3.3). It may depend on m, the number of flagged observations: given it, they are independent draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NUM_STAKES = 8
LARGEST_STAKE = 0.9
"""Stakes are this share of the largest that cannot go broke, halved up to `NUM_STAKES` - 1 times."""

_LEAST_LOSS = 0.01
_FOCUS, _FADING = 0.8, 0.25
BYTES_PER_CUT = 2 * 8 * NUM_STAKES + 8 + 24


class Bet(NamedTuple):
    """What a row adds to a constraint, positives and negatives being sums of weights of any shape."""

    name: str
    share: float

    def measured(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """The weights that the constraint is about."""
        if self.name == "precision":
            return positives + negatives
        return positives if self.name == "recall" else negatives

    def flagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """X of what is flagged."""
        if self.name == "precision":
            return positives * (1 - self.share) - negatives * self.share
        return positives * (1 - self.share) if self.name == "recall" else negatives * (self.share - 1)

    def unflagged(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """X of what is not flagged."""
        if self.name == "precision":
            return torch.zeros_like(positives)
        return positives * -self.share if self.name == "recall" else negatives * self.share

    @property
    def loss(self) -> float:
        """c: the most that a row of weight 1 can lose."""
        return max(_LEAST_LOSS, 1 - self.share if self.name == "fpr" else self.share)

    @property
    def growth(self) -> float:
        """The log of the factor that a flagged positive of the greatest weight brings at the largest stake."""
        return math.log1p(LARGEST_STAKE * (1 - self.share) / self.loss)


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


def log_mixture(bet: Bet, observations: Tensor, halvings: int | Tensor, level: float) -> Tensor:
    """Return the log of the share of the mixture that a stake has; over all `NUM_STAKES` they sum to 1.

    Args:
        bet: the constraint.
        observations: [...] float64, how many there are.
        halvings: how often the largest stake is halved, broadcast with `observations`.
        level: 1 - confidence.
    """
    variance = max(bet.share * (1 - bet.share), _LEAST_LOSS**2)
    best = bet.loss * (2 * math.log(1 / level) / (observations.clamp(min=1.0) * variance)).sqrt()
    centre = (LARGEST_STAKE / best).log2().clamp(0, NUM_STAKES - 1)
    places = torch.arange(NUM_STAKES, dtype=torch.float64, device=centre.device)
    total = (_FADING ** (places - centre[..., None]).abs()).sum(-1)
    return ((1 - _FOCUS) / NUM_STAKES + _FOCUS * _FADING ** (halvings - centre).abs() / total).log()


class RowWealth:
    """Wealth of independent rows of a weight up to `greatest_weight`, in constant memory.

    States, merged by sum: logs of products by bin, [NUM_STAKES, K, T] float64 for the flagged part and, except for
    precision, for the unflagged one; rows by bin, [K, T] float64.
    """

    def __init__(self, bet: Bet, num_labels: int, num_cuts: int, greatest_weight: float, device: torch.device) -> None:
        self.bet, self.greatest_weight = bet, greatest_weight
        halvings = 0.5 ** torch.arange(NUM_STAKES, dtype=torch.float64)
        self.stakes = (halvings * LARGEST_STAKE / (bet.loss * greatest_weight)).tolist()
        shape = (num_labels, num_cuts)
        parts = 1 if bet.name == "precision" else 2
        self.logs = torch.zeros(parts, NUM_STAKES, *shape, dtype=torch.float64, device=device)
        self.rows = torch.zeros(shape, dtype=torch.float64, device=device)

    def update(self, places: Tensor, positives: Tensor, negatives: Tensor, identities: Tensor) -> None:
        """Add cells: places [K, B] int64 from the strictest bin on, weights [K, B] float64, 0 where a cell is not."""
        gains = (self.bet.flagged, self.bet.unflagged)
        for part, gain in zip(self.logs, gains, strict=False):
            added = gain(positives, negatives)
            for logs, stake in zip(part, self.stakes, strict=True):
                logs.scatter_add_(1, places, torch.log1p(stake * added))
        self.rows.scatter_add_(1, places, (self.bet.measured(positives, negatives) > 0).double())

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
            share = log_mixture(self.bet, observations, halvings, level)
            total = torch.logaddexp(total, log_wealth + share)
        return Wealth(total, flagged, torch.full_like(flagged, self.greatest_weight))
