"""Random orders of units and rows: functions of seed, epoch and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlclf.data.parquet.plan import Plan


def random_stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Counter-based random numbers of their own for (seed, epoch, stream)."""
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def unit_order(plan: Plan, seed: int, epoch: int, shuffle: bool) -> Sequence[int]:
    """Units in the order of an epoch; in that of the plan where nothing is shuffled."""
    count = len(plan.units)
    return random_stream(seed, epoch, 0).permutation(count).tolist() if shuffle else range(count)


def row_order(rows: NDArray[np.int64], seed: int, epoch: int, first_row: int) -> NDArray[np.int64]:
    """The rows of a slab, [m] int64, in the order in which they are drawn; `first_row` is that of its span."""
    return random_stream(seed, epoch, 1 + first_row).permutation(rows)
