"""Wealth of bets where rows come in clusters: each cluster is one observation, wherever its rows are in the stream."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.guarantees.betting import LARGEST_STAKE, NUM_STAKES, Wealth, greatest_loss, log_mixture
from mlclf.decisions.objectives.constraints import Constraint
from mlclf.errors import DataError

BLOCK_BITS = 34
PLACE_BITS = 12
FEWEST_BLOCK_BITS = 10
ENTRY_BYTES = 96
"""Of memory for each kept sum, the copies that adding to them takes included."""


class ClusterWealth:
    """Wealth of clusters of rows, from the sums of weights by label, cluster and bin.

    A cluster is told by the first 34 bits of its identity, a hash. Where the sums outgrow the memory, clusters are put
    together by one bit less, which keeps the result sound: sums over disjoint sets of independent clusters are
    independent too, only heavier, which makes the stakes smaller. With fewer than 2**10 such blocks it refuses.

    The stakes at a cut are bounded by the heaviest cluster seen there: the claim is for a population without clusters
    that are much heavier than that.
    """

    def __init__(
        self, constraint: Constraint, num_labels: int, num_cuts: int, memory_bytes: int, device: torch.device
    ) -> None:
        self.constraint, self.num_labels, self.num_cuts = constraint, num_labels, num_cuts
        self.memory_bytes = memory_bytes
        self.block_bits = BLOCK_BITS
        self.keys = torch.zeros(0, dtype=torch.int64, device=device)
        self.sums = torch.zeros(0, 2, dtype=torch.float64, device=device)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._num_pending = 0

    def update(self, places: Tensor, positives: Tensor, negatives: Tensor, identities: Tensor) -> None:
        """Add cells: places [K, B] int64 from the strictest bin on, weights [K, B] float64, identities [B] int64.

        Raises:
            DataError: The sums do not fit the memory.
        """
        label, row = (self.constraint.measured(positives, negatives) > 0).nonzero(as_tuple=True)
        block = (identities >> (64 - BLOCK_BITS)) & ((1 << BLOCK_BITS) - 1)
        keys = (((label << BLOCK_BITS) | block[row]) << PLACE_BITS) | places[label, row]
        self._add(keys, torch.stack([positives[label, row], negatives[label, row]], 1))

    def merge(self, other: ClusterWealth) -> None:
        """Add what another one has seen; a cluster may have rows in both.

        Raises:
            DataError: The sums do not fit the memory.
        """
        other._settle()
        self.block_bits = min(self.block_bits, other.block_bits)
        self._add(other.keys, other.sums)
        self._settle()

    def wealth(self, labels: slice, level: float) -> Wealth:
        """Return the wealth of a slice of labels, by the mixture for a level."""
        self._settle()
        first, last = labels.start, labels.stop
        ends = torch.tensor([first, last], device=self.keys.device) << (BLOCK_BITS + PLACE_BITS)
        start, stop = torch.searchsorted(self.keys, ends).tolist()
        return _wealth_of(
            _steps_of(self.keys[start:stop], self.sums[start:stop], self.constraint, first),
            self.constraint,
            (last - first, self.num_cuts),
            level,
        )

    def _add(self, keys: Tensor, sums: Tensor) -> None:
        self._pending.append((keys, sums))
        self._num_pending += len(keys)
        if self._num_pending * ENTRY_BYTES > self.memory_bytes // 4:
            self._settle()

    def _settle(self) -> None:
        """Put the pending sums with the others, and blocks together until what is kept fits."""
        keys = torch.cat([self.keys, *(keys for keys, _ in self._pending)])
        sums = torch.cat([self.sums, *(sums for _, sums in self._pending)])
        self._pending, self._num_pending = [], 0
        while True:
            lost_bits = BLOCK_BITS - self.block_bits
            keys = keys & ~(((1 << lost_bits) - 1) << PLACE_BITS)
            keys, inverse = torch.unique(keys, return_inverse=True)
            sums = torch.zeros(len(keys), 2, dtype=sums.dtype, device=sums.device).index_add_(0, inverse, sums)
            if len(keys) * ENTRY_BYTES <= self.memory_bytes * 3 // 4:
                break
            if self.block_bits == FEWEST_BLOCK_BITS:
                raise DataError(
                    f"clusters must be few enough for {self.memory_bytes >> 20} MiB, got {len(keys)} sums over "
                    f"{self.num_labels} labels and 2**{FEWEST_BLOCK_BITS} blocks of clusters; "
                    "certify fewer labels at a time, or raise memory_bytes"
                )
            self.block_bits -= 1
        self.keys, self.sums = keys, sums


class _Steps(NamedTuple):
    """What each sum changes of its cluster, E sums.

    Attributes:
        label, place: [E] int64.
        first: [E] bool, True for the first of a cluster.
        before, after: [E] float64, X of the cluster without it and with it.
        start: [E] float64, X of the cluster with nothing flagged.
        weight: [E] float64, the weight that bounds X.
    """

    label: Tensor
    place: Tensor
    first: Tensor
    before: Tensor
    after: Tensor
    start: Tensor
    weight: Tensor


def _steps_of(keys: Tensor, sums: Tensor, constraint: Constraint, first_label: int) -> _Steps:
    cluster = keys >> PLACE_BITS
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = cluster[1:] != cluster[:-1]
    group = first.cumsum(0) - 1
    totals = torch.zeros(int(first.sum()), 2, dtype=sums.dtype, device=sums.device).index_add_(0, group, sums)
    so_far = sums.cumsum(0)
    so_far = so_far - (so_far - sums)[first][group]
    total = totals[group]

    def gain(flagged: Tensor) -> Tensor:
        rest = total - flagged
        return constraint.added_by_flagged(flagged[:, 0], flagged[:, 1]) + constraint.added_by_unflagged(
            rest[:, 0], rest[:, 1]
        )

    weighed = so_far if constraint.follows_cut else total
    return _Steps(
        label=(keys >> (PLACE_BITS + BLOCK_BITS)) - first_label,
        place=keys & ((1 << PLACE_BITS) - 1),
        first=first,
        before=gain(so_far - sums),
        after=gain(so_far),
        start=gain(torch.zeros_like(sums)),
        weight=constraint.measured(weighed[:, 0], weighed[:, 1]),
    )


def _wealth_of(steps: _Steps, constraint: Constraint, shape: tuple[int, int], level: float) -> Wealth:
    heaviest = torch.zeros(shape, dtype=torch.float64, device=steps.after.device)
    cells = steps.label * shape[1] + steps.place
    heaviest.view(-1).scatter_reduce_(0, cells, steps.weight, "amax")
    if constraint.follows_cut:
        heaviest = heaviest.cummax(1).values
    else:
        heaviest = heaviest.amax(1, keepdim=True).expand(shape)
    lightest = heaviest.where(heaviest > 0, torch.inf).amin(1)
    # Stakes are halves of the largest of any cut; a cut plays those that its heaviest cluster can bear.
    ratio = (heaviest / lightest[:, None]).clamp(min=1.0).nan_to_num(1.0, posinf=1.0)
    skipped = ratio.log2().sub_(1e-9).ceil_().clamp_(min=0)
    largest = LARGEST_STAKE / (greatest_loss(constraint) * lightest)
    counts = torch.zeros(shape, dtype=torch.float64, device=heaviest.device)
    counts.view(-1).index_add_(0, cells, steps.first.double())
    flagged = counts.cumsum(1)
    observations = flagged if constraint.follows_cut else flagged[:, -1:]
    log_wealth = torch.full_like(heaviest, -torch.inf)
    for halvings in range(int(skipped.max()) + NUM_STAKES):
        stake = (largest * 0.5**halvings)[steps.label]
        # Clusters too heavy for this stake are not at the cuts that play it.
        start, before, after = (
            torch.log1p((stake * gain).clamp(min=-LARGEST_STAKE)) for gain in (steps.start, steps.before, steps.after)
        )
        logs = torch.zeros(shape, dtype=torch.float64, device=stake.device)
        logs.view(-1).index_add_(0, cells, after - before)
        base = torch.zeros(shape[0], dtype=torch.float64, device=stake.device)
        base.index_add_(0, steps.label, start.where(steps.first, 0.0))
        played = (skipped <= halvings) & (halvings < skipped + NUM_STAKES)
        share = log_mixture(constraint, observations, halvings - skipped, level)
        log_stake = (base[:, None] + logs.cumsum(1) + share).where(played, -torch.inf)
        log_wealth = torch.logaddexp(log_wealth, log_stake)
    return Wealth(log_wealth, flagged, heaviest)
