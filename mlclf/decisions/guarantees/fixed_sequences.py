"""Hypotheses tested in a fixed sequence, from several starts: which cuts are certified.

Learn-then-Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021): every cut t of a grid that was fixed before the data
has the null hypothesis "t breaks the constraint"; a procedure that rejects a true null with a probability of at most δ
certifies the cuts that it rejects, all of them at once. Along a fixed sequence each test may use the whole level, as
long as it stops at the first that is not rejected: only the first true null on its way can go wrong.

Precision is not monotone, and the first few rows are too few to reject anything, so a single start at the top has
almost no power: 29 rows out of 29 have to be positive for the first step at 0.9 and 95%.
Here J sequences start at J counts r₁ < r₂ < …, each a multiple of the one before it, with δ/J each: sequence j starts
at the laxest cut that flags at most rⱼ rows, or at the strictest that flags any if that flags more.

**Why the starts may depend on the scores.** Let e be a true null, a ≤ e the strictest cut such that a, …, e - 1 are not
nulls, and X the rows that a flags of the M that e flags. Sequence j meets e as its first null exactly where X ≤ rⱼ and
the cut after e flags more than rⱼ. The latter depends only on rows that e does not flag and on M, which say nothing of
the labels of the M flagged ones: given both, these are independent draws with precision π(e) ≤ p. If a = e then X = M
and nothing else was looked at. Otherwise π(a) > p ≥ π(e), so rows beyond a are positive less often than those above it,
and the chance of a rejection grows with X while X ≤ rⱼ favours small X: by Chebyshev's association inequality
P(X ≤ rⱼ, e rejected | M, outside) ≤ P(X ≤ rⱼ | M, outside) δ/J. Summed over e that is at most δ/J. A start at the
strictest cut that flags at least rⱼ rows would turn the inequality round. Precision need not be monotone anywhere.
(Where the strictest bin with rows has more than rⱼ of them, it is the first of all: no second bin is as likely empty as
it is so full.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FEWEST = 8


def start_counts(num_rows: int, level: float, growth: float, ratio: float = 2.0) -> list[int]:
    """Return the counts of flagged rows at which sequences start, at least one.

    The first is the smallest that can succeed, each is `ratio` times the one before it, and none exceeds `num_rows`.
    Where no count can succeed they are halves of `num_rows`, from which one learns what can be certified instead.

    Args:
        num_rows: observed rows of the label.
        level: 1 - confidence, shared by the sequences.
        growth: by how much each of r positive rows lowers the log of the least level that is met; -log(p) for the
            binomial tail, as p ** r is the least p-value.
        ratio: of each count to the one before it.
    """

    def smallest(share: float) -> int:
        needed = -math.log(share) / growth if growth > 0 else math.inf
        return math.ceil(needed) if needed <= num_rows else num_rows + 1

    if smallest(level) > num_rows:
        halvings = max(0, num_rows.bit_length() - _FEWEST.bit_length())
        return [max(1, num_rows >> place) for place in range(halvings, -1, -1)]
    counts = [smallest(level)]
    while True:
        first = smallest(level / (len(counts) + 1))
        more = [math.ceil(first * ratio**place) for place in range(len(counts) + 1)]
        if more[-1] > num_rows:
            return counts
        counts = more


def starts_of(flagged: Tensor, counts: Tensor) -> Tensor:
    """Return [k, J] int64: the laxest cut that flags at most that many rows, the strictest cut where none does.

    Args:
        flagged: [k, T] float64, rows that each cut flags, from the strictest on, so rising.
        counts: [k, J] float64, from `start_counts`.
    """
    return (torch.searchsorted(flagged, counts, right=True) - 1).clamp(min=0)


def reached(passed: Tensor, starts: Tensor) -> Tensor:
    """Return [k, J] int64, how far each sequence comes: the cut of its first failure, T where there is none.

    Args:
        passed: [k, T] bool, True where the test of a cut rejects, in the order of the sequence.
        starts: [k, J] int64.
    """
    width = passed.shape[1]
    place = torch.arange(width, device=passed.device)
    failures = place.expand_as(passed).where(~passed, width)
    return failures.flip(1).cummin(1).values.flip(1).gather(1, starts)


def reached_with_carry(log_wealth: Tensor, starts: Tensor, log_least: Tensor) -> Tensor:
    """Return what `reached` does for e-values, where a sequence that comes to the start of another hands its level on.

    A cut is rejected where its wealth is at least 1 over its level. That is the fallback procedure of Wiens (2003): a
    sequence that comes to the start of another without a failure adds its level to it. With e-values it stays valid
    when starts depend on counts: the level A handed to e falls in X and E[wealth | X] grows in it (see the top of this
    file), so P(wealth ≥ 1/A) ≤ E[A E[wealth | X]] ≤ E[A] E[wealth] ≤ E[A].

    Args:
        log_wealth: [k, T] float64, in the order of the sequence.
        starts: [k, J] int64, rising; T for labels that have fewer.
        log_least: [k] float64, the log of the wealth that a single level asks for, J ÷ δ.
    """
    width = log_wealth.shape[1]
    ends = torch.cat([starts[:, 1:], torch.full_like(starts[:, :1], width)], 1)
    levels = torch.ones_like(log_least)
    stops = []
    for start, end in zip(starts.T, ends.T, strict=True):
        passed = log_wealth >= (log_least - levels.log())[:, None]
        stop = reached(passed, start[:, None].clamp(max=width - 1))[:, 0].minimum(end)
        levels = (levels + 1).where(stop == end, 1.0)
        stops.append(stop)
    return torch.stack(stops, 1)
