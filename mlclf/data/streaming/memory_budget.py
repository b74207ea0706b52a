"""The memory budget → number and size of the slabs, and how many units are decoded side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlclf.data.parquet.plan import Plan, Unit
from mlclf.data.parquet.spans import SPAN_ROWS
from mlclf.data.storage.sources import READ_AHEAD_BYTES
from mlclf.errors import ConfigError

MIN_SLABS, MAX_SLABS = 8, 64
MAX_SLAB_ROWS = 65_536
LANES = (8, 4, 2, 1)

OVERHEAD = 1.1
"""What allocators and batches in flight take on top."""

SPREAD = 1.05
"""How much larger the rows of a unit may be than those of the others, and it is not cut; OVERHEAD has room for it."""

DECODED_COPIES = 2
"""Decoded columns of a slab, and what the allocator keeps of the slab before."""

WHOLE_READER_BYTES = 8 << 20
"""What an open reader holds of units that are read whole: a few columns, decompressed and compressed."""

READER_BYTES = 5 << 19
"""What an open reader holds for each column of a row group: its dictionary, a page, that page compressed, a buffer."""


@dataclass(frozen=True)
class PoolShape:
    """Number and size of the slabs of a pool; it fixes the order of an epoch, whatever the number of threads.

    Attributes:
        slabs: slabs that a batch is gathered from.
        slab_rows: rows of a slab, a multiple of SPAN_ROWS.
        num_bytes: the bound on the memory of all of it.
        lanes: units that are decoded side by side, each into a slab of its own beside the others.
        span_bytes: decoded bytes of a slab; units of larger rows are cut into spans of fewer rows.
    """

    slabs: int
    slab_rows: int
    num_bytes: int = 0
    lanes: int = 2
    span_bytes: float = float("inf")

    def rows_of(self, unit: Unit) -> int:
        """Rows of a span of a unit."""
        rows = min(self.slab_rows, self.span_bytes / max(1.0, unit.row_bytes))
        return max(1, int(rows) // SPAN_ROWS) * SPAN_ROWS


class ReaderBytes(NamedTuple):
    """Bytes that an open reader of the largest row group of a plan holds at most.

    Attributes:
        in_pieces: where row groups are read piece by piece.
        whole: where they are read whole, a few columns after the other.
    """

    in_pieces: float
    whole: float


NO_READER = ReaderBytes(0.0, 0.0)


def reader_bytes(plan: Plan, num_columns: int) -> ReaderBytes:
    """Bytes that a reader of so many columns holds; with what was fetched, for a remote file."""
    largest = max((max(shard.group_rows, default=0) * shard.row_bytes for shard in plan.shards), default=0.0)
    is_remote = any(shard.source.is_remote for shard in plan.shards)
    fetched = min(largest, READ_AHEAD_BYTES) if is_remote else 0.0
    in_pieces = min(largest, num_columns * READER_BYTES)
    return ReaderBytes(in_pieces + fetched, min(in_pieces, WHOLE_READER_BYTES) + fetched)


def lanes_for(budget_bytes: int, reader: ReaderBytes) -> int:
    """Units decoded side by side in a pass without a pool: 2, or 1 if two readers take over a third of the budget."""
    return 2 if 2 * reader.in_pieces <= budget_bytes / 3 else 1


def pool_of_rows(
    plan: Plan, row_bytes: float, decoded_row_bytes: float, num_columns: int, budget_bytes: int
) -> PoolShape:
    """The largest pool for the rows of a plan whose sizes some of them have shown.

    Args:
        row_bytes, decoded_row_bytes: of an encoded and of a decoded row, as found; the plan knows them from footers.
        num_columns: columns that are read.

    Raises:
        ConfigError: see `pool_shape`.
    """
    return pool_shape(
        budget_bytes,
        row_bytes,
        max(plan.row_bytes, decoded_row_bytes),
        reader_bytes(plan, num_columns),
        plan.largest_unit_rows,
    )


def pool_shape(
    budget_bytes: int,
    row_bytes: float,
    decoded_row_bytes: float,
    reader: ReaderBytes = NO_READER,
    unit_rows: int = MAX_SLAB_ROWS,
) -> PoolShape:
    """The largest pool that fits the budget.

    A slab in flight costs its decoded columns beside its own memory; and the allocator keeps memory of columns decoded
    before.

    Args:
        budget_bytes: bytes for pool and decoding together.
        row_bytes: bytes of an encoded row.
        decoded_row_bytes: bytes of a decoded row.
        reader: from `reader_bytes`.
        unit_rows: rows of the largest unit; no slab needs more.

    Raises:
        ConfigError: not even the smallest pool fits; names the smallest budget that does.
    """
    row_bytes = max(row_bytes, 1.0)
    most = min(MAX_SLAB_ROWS, max(1, -(-unit_rows // SPAN_ROWS)) * SPAN_ROWS)

    def in_flight(lanes: int) -> float:
        return lanes * (row_bytes + DECODED_COPIES * decoded_row_bytes)

    def reader_of(rows: int) -> float:
        return reader.whole if rows >= unit_rows else reader.in_pieces

    def rows_with(lanes: int) -> int:
        if bytes_of(MIN_SLABS, most, lanes) <= budget_bytes:
            return most
        left = budget_bytes / OVERHEAD - lanes * reader.in_pieces
        return min(most, int(left / (MIN_SLABS * row_bytes + in_flight(lanes))) // SPAN_ROWS * SPAN_ROWS)

    def bytes_of(slabs: int, rows: int, lanes: int) -> int:
        return int(OVERHEAD * (rows * (slabs * row_bytes + in_flight(lanes)) + lanes * reader_of(rows)))

    roomy = [lanes for lanes in LANES if rows_with(lanes) == most]
    lanes = roomy[0] if roomy else lanes_for(budget_bytes, reader)
    if rows_with(lanes) < SPAN_ROWS:
        lanes = 1
    rows = rows_with(lanes)
    if rows < SPAN_ROWS:
        raise ConfigError(
            f"runtime.memory_budget of {budget_bytes:,} bytes is too small for rows of {row_bytes:,.0f} bytes; "
            f"the smallest that works is {bytes_of(MIN_SLABS, SPAN_ROWS, 1) + 1:,}"
        )
    left = budget_bytes / OVERHEAD - lanes * reader_of(rows)
    slabs = max(MIN_SLABS, min(MAX_SLABS, int((left / rows - in_flight(lanes)) / row_bytes)))
    return PoolShape(slabs, rows, bytes_of(slabs, rows, lanes), lanes, SPREAD * rows * decoded_row_bytes)
