"""Tails of the binomial distribution, exact and fast, and what is inverted from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EXACT_TRIALS = 1 << 20
"""Above so many trials `upper_tail_within` takes a bound that is at most one success away from the exact tail."""

_SLACK = 1e-9
_WIDTH = 1e-9


def log_upper_tail(successes: Tensor, trials: Tensor, share: Tensor | float) -> Tensor:
    """Return log P(X ≥ successes) for X binomial, as the regularised incomplete beta function I_share(k, n - k + 1).

    Args:
        successes: [...] float64 or integer counts k; 0 and less give 0 = log 1, more than the trials give -inf.
        trials: [...] counts n, broadcast with `successes`.
        share: the probability of a success, in [0, 1].

    Returns:
        [...] float64; -inf also where the tail is below the least float64.
    """
    from scipy.special import betainc  # here, since it loads slowly and only certified thresholds need it

    k, n, p = successes.double(), trials.double(), _as_tensor(share, successes)
    tail = torch.as_tensor(betainc(*(part.cpu().numpy() for part in (k, n - k + 1, p))), device=k.device)
    return tail.where(k <= n, 0.0).where(k > 0, 1.0).log()


def upper_tail_within(successes: Tensor, trials: Tensor, share: float, level: Tensor | float) -> Tensor:
    """Return [...] bool, True where P(X ≥ successes) ≤ level for X binomial of `trials` and `share`.

    Zubkov and Serov (2013): with Z(k) the signed root of the deviance, 1 - Φ(Z(k)) ≤ P(X ≥ k) ≤ 1 - Φ(Z(k - 1)). The
    exact tail is computed only between the two, which is one count of successes for each count of trials; above
    `EXACT_TRIALS` the upper bound decides, so that True is always right.

    Args:
        successes: [...] float64 counts.
        trials: [...] float64 counts of the same shape.
        share: in [0, 1].
        level: in (0, 1), or a float64 tensor of such that broadcasts to the counts.
    """
    within = torch.zeros_like(successes, dtype=torch.bool)
    if share >= 1:
        return within
    levels = _as_tensor(level, successes)
    least = -torch.special.ndtri(levels).expand_as(successes)
    maybe = (successes > 0) & (_signed_root(successes, trials, share) >= least - _SLACK)
    k, n, least = successes[maybe], trials[maybe], least[maybe]
    enough = _signed_root(k - 1, n, share) >= least + _SLACK
    unclear = ~enough & (n <= EXACT_TRIALS)
    log_level = levels.log().expand_as(successes)[maybe]
    enough[unclear] = log_upper_tail(k[unclear], n[unclear], share) <= log_level[unclear]
    within[maybe] = enough
    return within


def least_successes(trials: Tensor, share: float, level: Tensor | float) -> Tensor:
    """Return [...] float64, the least k with P(X ≥ k) ≤ level for X binomial; trials + 1 where no k will do.

    Args:
        trials: [...] counts.
        share: in [0, 1].
        level: in (0, 1), or a float64 tensor of such that broadcasts to the trials.
    """
    n = trials.double()
    low, high = torch.zeros_like(n), n + 1  # P(X ≥ low) > level, and high will do: nothing has n + 1 successes
    while bool((high - low > 1).any()):
        middle = ((low + high) / 2).floor()
        enough = upper_tail_within(middle, n, share, level)
        # Where the two already touch, `middle` is `low`, which is not enough.
        high = middle.where(enough, high)
        low = low.where(enough, middle)
    return high


def share_below(successes: Tensor, trials: Tensor, level: Tensor | float) -> Tensor:
    """Return [...] float64, the greatest share for which P(X ≥ successes) ≤ level: Clopper and Pearson's (1934) lower
    bound, which is above the true share with a probability of at most `level`; 0 without a success.

    Rounded down by at most 1e-9, and above `EXACT_TRIALS` to that of one success less.

    Args:
        successes: [...] counts.
        trials: [...] counts of the same shape.
        level: in (0, 1), or a float64 tensor of such that broadcasts to the counts.
    """
    k, n = successes.double(), trials.double()
    levels = _as_tensor(level, k).expand_as(k)
    least = -torch.special.ndtri(levels)
    low, high = torch.zeros_like(k), (k / n).nan_to_num(0.0)
    low = _bisected(low, high, lambda share: _signed_root(k - 1, n, share) >= least + _SLACK)[0]
    high = _bisected(low, high, lambda share: _signed_root(k, n, share) >= least - _SLACK)[1]
    exact = (n <= EXACT_TRIALS) & (k > 0)
    k, n, log_level = k[exact], n[exact], levels.log()[exact]
    low[exact] = _bisected(low[exact], high[exact], lambda share: log_upper_tail(k, n, share) <= log_level)[0]
    return low


def _bisected(low: Tensor, high: Tensor, within: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ends [...] of intervals with a width of at most 1e-9, at the lower of which `within` is True."""
    while bool((high - low > _WIDTH).any()):
        middle = (low + high) / 2
        inside = within(middle)
        low, high = middle.where(inside, low), high.where(inside, middle)
    return low, high


def _as_tensor(share: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(share, dtype=torch.float64, device=like.device)


def _signed_root(k: Tensor, n: Tensor, p: Tensor | float) -> Tensor:
    """Z(k) = sign(k/n - p) √(2 n KL(k/n, p)), k clamped to [0, n]; 0 where n is 0."""
    k = k.clamp(min=0.0).minimum(n)
    miss = n - k
    deviance = torch.xlogy(k, k / (n * p)) + torch.xlogy(miss, miss / (n * (1 - p)))
    root = (2 * deviance.nan_to_num(0.0).clamp_(min=0.0)).sqrt_()
    return torch.copysign(root, k - n * p)
