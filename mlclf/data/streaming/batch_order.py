"""BatchOrder: which rows make each batch of an epoch, and which of them are this rank's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.spans import Span, interleaved
from mlclf.data.sampling.batch_plan import BatchDraws, Draw, Load, Round
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.shuffle_order import row_order, unit_order
from mlclf.data.streaming.memory_budget import PoolShape
from mlclf.errors import ConfigError


@dataclass(frozen=True)
class BatchOrder:
    """The order of an epoch, fixed by these values alone, whatever the number of threads.

    Several ranks share the slots of the pool: each decodes the slabs of its own slots, and the batches of all ranks,
    one after the other, are the batch that a single process would give. All ranks give as many batches of as many
    rows; rows of weight 0 fill up.

    Attributes:
        selection: the rows that are drawn.
        shape: bound on the rows held.
        batch_rows: of all ranks together.
        shuffle: False keeps the order of the plan.
    """

    plan: Plan
    selection: Selection
    shape: PoolShape
    batch_rows: int
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank must be from 0 to {self.world_size - 1}, got {self.rank}")

    @property
    def slots(self) -> int:
        """Slabs of all ranks that a batch is gathered from."""
        return self.shape.slabs if self.shuffle else 1

    def identity(self) -> dict[str, Any]:
        """What fixes the order of every epoch on all ranks, JSON-able."""
        return {
            "plan": self.plan.digest,
            "rows": self.plan.rows,
            "seed": self.seed,
            "batch_rows": self.batch_rows,
            "shuffle": self.shuffle,
            "slots": self.slots,
            "slab_rows": self.shape.slab_rows,
            "lanes": self.shape.lanes,
            "parts": None if self.selection.parts is None else list(self.selection.parts),
            "where": None if self.selection.where is None else str(self.selection.where),
        }

    def num_rows(self) -> int:
        """Count the rows of an epoch, of all ranks."""
        return sum(map(self.selection.count, self.spans(range(len(self.plan.units)))))

    def spans(self, units: Sequence[int]) -> Iterator[Span]:
        """Spans of units in the order in which they enter the pool."""
        return interleaved(self.plan, units, self.shape.lanes if self.shuffle else 1, self.shape.rows_of)

    def batches(self) -> BatchDraws:
        """What the epoch draws, batch by batch, on all ranks."""
        units = unit_order(self.plan, self.seed, self.epoch, self.shuffle)
        return BatchDraws(self.spans(units), self.selection.count, self.slots, self.batch_rows)

    def owner(self, slot: int) -> int:
        """The rank whose pool a slot is in."""
        return slot * self.world_size // self.slots

    def is_mine(self, step: Load | Draw) -> bool:
        """Whether a step is this rank's."""
        return self.world_size == 1 or self.owner(step.slot) == self.rank

    def full_rows(self, rounds: Sequence[Round]) -> int:
        """Rows that a batch has on every rank: as many as that of the rank with the most."""
        rows = [0] * self.world_size
        for step in rounds:
            for draw in step.draws:
                rows[self.owner(draw.slot)] += draw.stop - draw.start
        return max(rows)

    def of_span(self, rows: NDArray[np.int64], parts: NDArray[np.int8] | None, first_row: int) -> NDArray[np.int64]:
        """Those rows of a span [n] that are drawn, in the order in which they are: [m]."""
        if parts is not None:
            rows = rows[self.selection.chosen(parts)]
        return row_order(rows, self.seed, self.epoch, first_row) if self.shuffle else rows
