"""The pool: slabs of encoded rows in row-major memory that is allocated once, bounded and used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.arrow.arrays import Recycler
from mlclf.data.arrow.identities import joined_tables
from mlclf.data.batch import Batch, spans
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.parquet.planning import Plan, Unit
from mlclf.data.sampling.batch_plan import SPAN_ROWS
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
    """How much is held at once. It fixes the order of an epoch, whatever the number of threads.

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
    """The most that an open reader of a plan's largest row group holds.

    Attributes:
        in_pieces: where row groups are read piece by piece.
        whole: where they are read whole, a few columns after the other.
    """

    in_pieces: float
    whole: float


NO_READER = ReaderBytes(0.0, 0.0)


def reader_bytes(plan: Plan, num_columns: int) -> ReaderBytes:
    """What readers of some columns of a plan hold; of a remote file they hold what was fetched as well."""
    largest = max((max(shard.group_rows, default=0) * shard.row_bytes for shard in plan.shards), default=0.0)
    is_remote = any(shard.source.is_remote for shard in plan.shards)
    fetched = min(largest, READ_AHEAD_BYTES) if is_remote else 0.0
    in_pieces = min(largest, num_columns * READER_BYTES)
    return ReaderBytes(in_pieces + fetched, min(in_pieces, WHOLE_READER_BYTES) + fetched)


def lanes_for(budget_bytes: int, reader: ReaderBytes) -> int:
    """Lanes of a pass without a pool: one where two readers would take more than a third of the budget."""
    return 2 if 2 * reader.in_pieces <= budget_bytes / 3 else 1


def pool_shape(
    budget_bytes: int,
    row_bytes: float,
    decoded_row_bytes: float,
    reader: ReaderBytes = NO_READER,
    unit_rows: int = MAX_SLAB_ROWS,
) -> PoolShape:
    """The largest pool that the budget holds.

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


@dataclass(frozen=True)
class RowLayout:
    """What an encoded row holds.

    Attributes:
        num_dense, num_labels: D and K.
        num_tokens: ids of every row, where all rows have as many; None where their number differs.
        weighted, parted: whether rows have weights, and parts of a split.
        numbered: whether some rows are left out, so that those of a slab do not follow each other.
        grouped: whether rows have groups.
    """

    num_dense: int
    num_labels: int
    num_tokens: int | None = None
    weighted: bool = False
    parted: bool = False
    numbered: bool = False
    grouped: bool = False

    @property
    def row_bytes(self) -> float:
        """Bytes of an encoded row, without ids of rows that differ in number."""
        return float(ORDER_BYTES + sum(array.nbytes for array in self.arrays(1).values()))

    def arrays(self, rows: int) -> dict[str, NDArray[Any]]:
        """Memory for `rows` rows by field; nothing is touched yet."""
        kinds: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "dense": ((self.num_dense,), np.float32),
            "codes": ((self.num_labels,), np.uint8),
        }
        if self.num_tokens is not None:
            kinds["tokens"] = ((self.num_tokens,), np.int32)
        if self.numbered:
            kinds["numbers"] = ((), np.int64)
        if self.grouped:
            kinds["groups"] = ((), np.int64)
        if self.weighted:
            kinds["weights"] = ((), np.float32)
        if self.parted:
            kinds["parts"] = ((), np.int8)
        return {name: np.empty((rows, *shape), kind) for name, (shape, kind) in kinds.items()}


@dataclass
class Slab:
    """Encoded rows in a part of the pool's memory.

    Attributes:
        base: index of its first row in the pool's arrays.
        arrays: by field, views of [slab_rows, …]; the first `rows` rows are filled.
        offsets, ids, values: [rows + 1] int64, [n] int32, [n] float32 or None: the ids of rows that differ in number.
        first_row: number of the first row in the plan.
        complete: whether every label of every row is observed.
        order: [m] int64, indices into the pool's arrays of the rows that are drawn, in the order in which they are.
        keys: key columns of the rows, where asked for.
        place: file and row groups, for messages.
    """

    base: int
    arrays: dict[str, NDArray[Any]]
    rows: int = 0
    first_row: int = 0
    offsets: NDArray[np.int64] | None = None
    ids: NDArray[np.int32] | None = None
    values: NDArray[np.float32] | None = None
    complete: bool = True
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: pa.Table | None = None
    place: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows that are filled."""
        ragged = [array for array in (self.offsets, self.ids, self.values) if array is not None]
        rows = sum(array[: self.rows].nbytes for array in self.arrays.values()) + ORDER_BYTES * self.rows
        return rows + sum(array.nbytes for array in ragged)

    def numbers(self, pick: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers in the plan of rows that are picked by their indices in the pool: [n] → [n]."""
        if "numbers" in self.arrays:
            return np.asarray(self.arrays["numbers"][pick - self.base])
        return pick + (self.first_row - self.base)

    def fill_with_nothing(self, rows: int, first_row: int, place: str) -> None:
        """Take on rows of weight 0 in place of some that cannot be read; all are drawn, as they stand."""
        self.clear()
        for array in self.arrays.values():
            array[:rows] = 0
        if "numbers" in self.arrays:
            self.arrays["numbers"][:rows] = np.arange(first_row, first_row + rows)
        self.rows, self.first_row, self.place, self.complete = rows, first_row, place, True
        self.order = np.arange(self.base, self.base + rows, dtype=np.int64)
        self.offsets, self.ids = np.zeros(rows + 1, np.int64), np.zeros(0, np.int32)

    def clear(self) -> None:
        """Forget what is not in the pool's own memory."""
        self.offsets = self.ids = self.values = self.keys = None


ORDER_BYTES = 8

BATCH_ROWS_TOUCHED = 4096

NOTHING = np.zeros(0, np.int64)

Pick = tuple[Slab, NDArray[np.int64]]
"""A slab and indices into the pool's arrays."""


class Pool:
    """Memory of slabs. Each is touched when it is first handed out, so that small data takes little."""

    def __init__(self, slabs: int, slab_rows: int, layout: RowLayout) -> None:
        self.layout, self.slab_rows, self.num_slabs = layout, slab_rows, slabs
        self.arrays = layout.arrays(slabs * slab_rows)
        self._free: deque[Slab] = deque()
        self._made = 0
        self._recycler = Recycler(most=32)

    def touch(self, slabs: int) -> None:
        """Touch the memory of so many slabs, and of a few batches, which the first epoch would do otherwise."""
        self._recycler.touch((BATCH_ROWS_TOUCHED, self.layout.num_dense), np.float32, 4)
        while self._made < min(slabs, self.num_slabs):
            self._made += 1
            self._free.append(self._slab(self._made - 1))

    def acquire(self) -> Slab | None:
        """A free slab, or None where all are in use."""
        if self._free:
            return self._free.popleft()
        if self._made == self.num_slabs:
            return None
        self._made += 1
        return self._slab(self._made - 1)

    def _slab(self, number: int) -> Slab:
        base = number * self.slab_rows
        views = {name: array[base : base + self.slab_rows] for name, array in self.arrays.items()}
        for view in views.values():
            view.fill(0)
        return Slab(base, views)

    def release(self, slab: Slab) -> None:
        """Give a slab back."""
        slab.clear()
        self._free.append(slab)

    def gather(self, picks: Sequence[Pick]) -> Batch:
        """One batch of the picked rows of each slab, in the order given."""
        layout, index = self.layout, np.concatenate([NOTHING, *(pick for _, pick in picks)])
        size = len(index)
        codes = self._taken("codes", index)
        mask = None
        if not all(slab.complete for slab, _ in picks):
            observed = codes != UNOBSERVED
            if not observed.all():
                codes *= observed
                mask = torch.from_numpy(observed)
        ids, offsets, values = self._tokens(picks, index)
        tables = [slab.keys.take(pa.array(pick - slab.base)) for slab, pick in picks if slab.keys is not None]
        return Batch(
            dense=torch.from_numpy(self._taken("dense", index)),
            ids=ids,
            offsets=offsets,
            values=values,
            labels=torch.from_numpy(codes),
            label_mask=mask,
            weights=torch.from_numpy(self._taken("weights", index)) if layout.weighted else torch.ones(size),
            parts=torch.from_numpy(self._taken("parts", index))
            if layout.parted
            else torch.zeros(size, dtype=torch.int8),
            rows=torch.from_numpy(np.concatenate([NOTHING, *(slab.numbers(pick) for slab, pick in picks)])),
            keys=joined_tables(tables) if tables else None,
            groups=torch.from_numpy(self._taken("groups", index)) if layout.grouped else None,
        )

    def _taken(self, name: str, index: NDArray[np.int64]) -> NDArray[Any]:
        array = self.arrays[name]
        out = self._recycler.array((len(index), *array.shape[1:]), array.dtype)
        return np.take(array, index, axis=0, out=out, mode="clip")

    def _tokens(self, picks: Sequence[Pick], index: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        width = self.layout.num_tokens
        if width is not None:
            ids = self._taken("tokens", index) if width else np.zeros(0, np.int32)
            offsets = torch.arange(0, (len(index) + 1) * width, width) if width else torch.zeros(len(index) + 1).long()
            return torch.from_numpy(ids.reshape(-1).astype(np.int64)), offsets, None
        return _ragged(picks, len(index))


def _ragged(picks: Iterable[Pick], size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, offsets and values of the picked rows, whose numbers of ids differ."""
    lengths, ids, values = [], [], []
    for slab, pick in picks:
        assert slab.offsets is not None
        assert slab.ids is not None
        local = pick - slab.base
        starts = slab.offsets[local]
        lengths.append(slab.offsets[local + 1] - starts)
        where = spans(starts, lengths[-1])
        ids.append(slab.ids[where])
        if slab.values is not None:
            values.append(slab.values[where])
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum(np.concatenate([NOTHING, *lengths]), out=offsets[1:])
    joined = torch.from_numpy(np.concatenate([NOTHING, *ids]))
    return joined, torch.from_numpy(offsets), torch.from_numpy(np.concatenate(values)) if values else None
