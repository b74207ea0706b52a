"""Which part of the split each group goes to, so that parts have about the rows asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from mlclf.data.arrow.row_hashes import group_hashes, is_missing
from mlclf.data.parquet.plan import Plan
from mlclf.data.sampling.splits import CHOICE, DECISION, HALVES, TRAIN, GroupParts
from mlclf.data.schema.samples import pieces_of
from mlclf.data.where.condition import Where

MOST_GROUPS = 1 << 20
"""Of more groups a hash decides, which shares them evenly."""

PIECE_ROWS = 65_536
FAR = 0.5
"""Parts whose rows differ by a larger share of what was asked for are not left to a hash."""


@dataclass(frozen=True)
class GroupSizes:
    """The groups of a column and their rows.

    Attributes:
        hashes: [G] uint64, rising.
        rows: [G] int64.
        alone: rows without a group, each of which is its own.
    """

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    alone: int

    @property
    def count(self) -> int:
        """Groups, those of one row without a group too."""
        return len(self.hashes) + self.alone

    @property
    def total(self) -> int:
        return int(self.rows.sum()) + self.alone


def group_sizes(plan: Plan, column: str, seed: int, where: Where | None = None) -> GroupSizes | None:
    """Count the rows of each group in one pass over the column; None of more than MOST_GROUPS groups."""
    hashes, rows, alone = np.zeros(0, np.uint64), np.zeros(0, np.int64), 0
    waiting: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
    names = list(dict.fromkeys([column, *(where.columns if where else ())]))
    for unit in plan.units:
        for table, _ in pieces_of(plan, unit, names, PIECE_ROWS):
            found = group_hashes(table.column(column), seed)
            if where is not None:
                found = found[where.mask(table)]
            missing = is_missing(found, seed)
            alone += int(missing.sum())
            waiting.append(np.unique(found[~missing], return_counts=True))
            if sum(len(part) for part, _ in waiting) > max(MOST_GROUPS, len(hashes)):
                hashes, rows = _merged([(hashes, rows), *waiting])
                waiting = []
                if len(hashes) > MOST_GROUPS:
                    return None
    hashes, rows = _merged([(hashes, rows), *waiting])
    return None if len(hashes) > MOST_GROUPS else GroupSizes(hashes, rows, alone)


def _merged(
    parts: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    hashes, places = np.unique(np.concatenate([part for part, _ in parts]), return_inverse=True)
    counts = np.bincount(places, np.concatenate([rows for _, rows in parts]), len(hashes))
    return hashes, counts.astype(np.int64)


def even_folds(sizes: GroupSizes, num_folds: int) -> GroupParts:
    """Fold of each group: the largest first, each to the fold that has the fewest rows so far.

    Nothing but the groups and their sizes decides; of groups of one size those of smaller hashes come first.
    """
    return GroupParts(sizes.hashes, dealt(sizes, np.full(num_folds, 1 / num_folds)))


def dealt(sizes: GroupSizes, fractions: NDArray[np.float64]) -> NDArray[np.int8]:
    """Part of each group, the largest first, each to the part that lacks most rows; no part stays empty if it can be.

    Args:
        fractions: [P], positive, of sum 1.
    """
    parts = np.zeros(len(sizes.hashes), np.int8)
    order = np.lexsort((sizes.hashes, -sizes.rows))
    left = [(-float(share) * float(sizes.rows.sum()), part) for part, share in enumerate(fractions)]
    heapify(left)
    for group, rows in zip(order.tolist(), sizes.rows[order].tolist(), strict=True):
        wanted, part = left[0]
        parts[group] = part
        heapreplace(left, (wanted + rows, part))
    counts = np.bincount(parts, minlength=len(fractions))
    for part in np.flatnonzero(counts == 0).tolist():
        for group in order[::-1].tolist():  # from the smallest
            if counts[parts[group]] > 1:
                counts[parts[group]] -= 1
                counts[part] += 1
                parts[group] = part
                break
    return parts


def held_out(sizes: GroupSizes, fraction: float, by_hash: NDArray[np.int8]) -> GroupParts | None:
    """Parts of groups that hold out about a fraction of the rows; None if the parts by hash come near it.

    Groups are taken in the order of their hashes while that brings the rows nearer; the smallest one if none does. One
    group alone is HALVES: its rows choose and decide by turns.

    Args:
        by_hash: [G], the part of each group by its hash.
    """
    wanted = fraction * sizes.total
    held = [int(sizes.rows[by_hash == part].sum()) for part in (CHOICE, DECISION)]
    alone = fraction * sizes.alone
    if min(held) + alone / 2 > 0 and abs(sum(held) + alone - wanted) <= FAR * wanted:
        return None
    rest = wanted - alone
    chosen: list[int] = []
    for group in range(len(sizes.hashes)):
        rows = int(sizes.rows[group])
        if abs(rest - rows) < abs(rest):
            chosen.append(group)
            rest -= rows
    if not chosen and alone < 2:
        chosen = [int(np.argmin(sizes.rows))]
    parts = np.full(len(sizes.hashes), TRAIN, np.int8)
    if len(chosen) == 1:
        parts[chosen] = HALVES
    elif chosen:
        among = GroupSizes(sizes.hashes[chosen], sizes.rows[chosen], 0)
        parts[chosen] = np.where(dealt(among, np.array([0.5, 0.5])) == 0, CHOICE, DECISION)
    return GroupParts(sizes.hashes, parts)


def is_far(rows: Sequence[float], fractions: Sequence[float]) -> bool:
    """Whether the shares of the parts differ from those asked for by more than chance explains."""
    total = sum(rows)
    for count, fraction in zip(rows, fractions, strict=True):
        difference = abs(count - fraction * total)
        if not count or (difference > FAR / 2 * fraction * total and difference**2 > 16 * fraction * total):
            return True
    return False
