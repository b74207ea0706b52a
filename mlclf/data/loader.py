"""The stream of batches: units → decode threads → pool of slabs → Batch, as torchdata nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from torchdata.nodes import BaseNode, Loader

from mlclf.data.batch import Batch, Slab, gather, joined
from mlclf.data.decode import check_values, decode_unit
from mlclf.data.rows import RowEncoder
from mlclf.data.shards import Plan, Unit
from mlclf.errors import ConfigError, DataError

T = TypeVar("T")

NUM_LANES = 2
"""Units that are decoded side by side, whatever the number of threads, so that the order does not depend on it."""

MIN_SLABS, MAX_SLABS = 8, 32
MAX_SLAB_ROWS = 65_536
MIN_SLAB_ROWS = 64


READER_BYTES = 5 << 19
"""What an open reader holds for each column of a row group: its dictionary, a page, that page compressed, a buffer."""


@dataclass(frozen=True)
class PoolShape:
    """How much is held at once: `slabs` slabs of `slab_rows` rows, `lanes` open readers.

    `num_bytes` is the bound on the memory of all of it.
    """

    slabs: int
    slab_rows: int
    num_bytes: int
    lanes: int = NUM_LANES


def reader_bytes(plan: Plan, num_columns: int) -> float:
    """The most that an open reader of the plan's largest row group holds."""
    largest = max((max(shard.group_rows, default=0) * shard.row_bytes for shard in plan.shards), default=0.0)
    return min(largest, num_columns * READER_BYTES)


def lanes_for(budget_bytes: int, reader: float) -> int:
    """Lanes of decoding: one where two readers would take more than a third of the budget."""
    return NUM_LANES if NUM_LANES * reader <= budget_bytes / 3 else 1


def pool_shape(budget_bytes: int, row_bytes: float, decoded_row_bytes: float, reader: float = 0.0) -> PoolShape:
    """The largest pool that the budget holds.

    A slab in flight costs its decoded columns and a column-major copy beside its own memory.

    Args:
        budget_bytes: bytes for pool and decoding together.
        row_bytes: bytes of an encoded row.
        decoded_row_bytes: bytes of a decoded row.
        reader: bytes of an open reader, from `reader_bytes`.

    Raises:
        ConfigError: not even the smallest pool fits; names the smallest budget that does.
    """
    row_bytes = max(row_bytes, 1.0)
    lanes = lanes_for(budget_bytes, reader)
    in_flight = lanes * (2 * row_bytes + decoded_row_bytes)

    def bytes_of(slabs: int, rows: int) -> int:
        return int(rows * (slabs * row_bytes + in_flight) + lanes * reader)

    smallest = bytes_of(MIN_SLABS, MIN_SLAB_ROWS)
    if smallest > budget_bytes:
        raise ConfigError(
            f"runtime.memory_budget of {budget_bytes:,} bytes is too small for rows of {row_bytes:,.0f} bytes; "
            f"the smallest that works is {smallest:,}"
        )
    left = budget_bytes - lanes * reader
    rows = min(MAX_SLAB_ROWS, int(left / (MIN_SLABS * row_bytes + in_flight)))
    slabs = max(MIN_SLABS, min(MAX_SLABS, int((left / rows - in_flight) / row_bytes)))
    return PoolShape(slabs, rows, bytes_of(slabs, rows), lanes)


def decoded_pieces(
    plan: Plan,
    order: Sequence[int],
    columns: Sequence[str],
    piece_rows: int,
    work: Callable[[int, pa.Table, str], T],
    *,
    lanes: int = NUM_LANES,
    threads: int = NUM_LANES,
) -> Iterator[T]:
    """Yield work(first row, table, place) of every piece of the units of `order`, always in the same order.

    Units are dealt to lanes; each lane decodes its units one after the other, one piece ahead, on a pool of threads.
    """
    queues = [[plan.units[index] for index in order[lane::lanes]] for lane in range(lanes)]
    streams = [_lane(plan, units, columns, piece_rows, work) for units in queues if units]
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(streams) or 1)), thread_name_prefix="decode") as pool:
        waiting: list[tuple[Iterator[T], Future[T | None]]] = [
            (stream, pool.submit(next, stream, None)) for stream in streams
        ]
        try:
            while waiting:
                stream, future = waiting.pop(0)
                piece = future.result()
                if piece is not None:
                    waiting.append((stream, pool.submit(next, stream, None)))
                    yield piece
        finally:
            for _, future in waiting:
                future.cancel()


def _lane(
    plan: Plan,
    units: Sequence[Unit],
    columns: Sequence[str],
    piece_rows: int,
    work: Callable[[int, pa.Table, str], T],
) -> Iterator[T]:
    for unit in units:
        for first_row, table in decode_unit(plan, unit, columns, piece_rows):
            yield located(plan, first_row, table, work)


def located(plan: Plan, first_row: int, table: pa.Table, work: Callable[[int, pa.Table, str], T]) -> T:
    """work(first row, table, place); if it refuses the table, the error names the one row group at fault.

    Raises:
        DataError: `work` refuses the rows, or cannot do them because a column is damaged inside.
    """
    groups = plan.groups_of(first_row, table.num_rows)
    place = plan.place_of(groups)
    try:
        return work(first_row, table, place)
    except (DataError, pa.ArrowException, UnicodeDecodeError) as error:
        if len(groups) > 1:
            for group in groups:
                begin = max(group.first_row, first_row)
                rows = table.slice(begin - first_row, group.first_row + group.rows - begin)
                located(plan, begin, rows, work)
        if not isinstance(error, DataError):
            check_values(table, place)
        raise


class SlabNode(BaseNode[Slab]):  # type: ignore[misc]  # torchdata has no types
    """Slabs of an epoch in the order of (seed, epoch); rows inside a slab permuted by their own random numbers."""

    def __init__(self, loader: ParquetLoader) -> None:
        super().__init__()
        self._loader = loader
        self._pieces: Iterator[Slab] = iter(())
        self._count = 0

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        loader = self._loader
        encoder, capacity = loader.encoder, loader.pool.slab_rows

        def work(first_row: int, table: pa.Table, place: str) -> Slab:
            return loader.ordered(encoder.encode(first_row, table, place, capacity))

        lanes = loader.pool.lanes if loader.shuffle else 1
        self._pieces = decoded_pieces(
            loader.plan,
            loader.unit_order(),
            encoder.columns,
            capacity,
            work,
            lanes=lanes,
            threads=loader.threads,
        )
        self._count = 0

    def next(self) -> Slab:
        slab = next(self._pieces)
        self._count += 1
        return slab

    def get_state(self) -> dict[str, Any]:
        return {"slabs": self._count}


class BatchNode(BaseNode[Batch]):  # type: ignore[misc]  # torchdata has no types
    """Batches, each gathered from all slabs of the pool; a slab whose rows are used up is replaced."""

    def __init__(self, slabs: SlabNode, loader: ParquetLoader) -> None:
        super().__init__()
        self._source = slabs
        self._loader = loader
        self._live: list[Slab] = []
        self._exhausted = False
        self._filling = True
        self._count = 0

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._source.reset()
        self._live, self._exhausted, self._filling, self._count = [], False, True, 0

    def next(self) -> Batch:
        parts: list[Batch] = []
        missing = self._loader.batch_rows
        while missing:
            self._fill()
            if not self._live:
                break
            counts = self._shares(missing)
            drawn = [(slab, slab.draw(count)) for slab, count in zip(self._live, counts, strict=True) if count]
            parts.append(gather([slab for slab, _ in drawn], [pick for _, pick in drawn]))
            missing -= len(parts[-1])
            self._retire()
        if not parts:
            raise StopIteration
        self._count += 1
        return joined(parts)

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._count}

    def _fill(self) -> None:
        wanted = self._loader.pool.slabs if self._loader.shuffle else 1
        while len(self._live) < wanted and not self._exhausted:
            try:
                slab = self._source.next()
            except StopIteration:
                self._exhausted = True
                break
            if slab.left:
                self._live.append(slab)
            else:
                self._loader.encoder.release(slab)

    def _shares(self, batch_rows: int) -> list[int]:
        """Rows that each live slab gives: equal shares, short slabs made up for by the others.

        The first slabs are drawn unequally until one is used up, so that later ones end one after the other and
        decoding is spread over the epoch.
        """
        live = len(self._live)
        weights = [live - index if self._filling else 1 for index in range(live)]
        total = sum(weights)
        left = [slab.left for slab in self._live]
        counts = [min(left[i], batch_rows * weights[i] // total) for i in range(live)]
        missing = min(batch_rows, sum(left)) - sum(counts)
        while missing:
            index = max(range(live), key=lambda i: left[i] - counts[i])
            extra = min(missing, max(1, missing // live), left[index] - counts[index])
            counts[index] += extra
            missing -= extra
        return counts

    def _retire(self) -> None:
        used = [slab for slab in self._live if not slab.left]
        if used:
            self._filling = False
            self._live = [slab for slab in self._live if slab.left]
            for slab in used:
                self._loader.encoder.release(slab)


class ParquetLoader:
    """Batches of a plan's rows: every row once an epoch, in an order fixed by (plan, seed, epoch).

    Attributes:
        parts: parts of the split whose rows are drawn; None draws all.
        shuffle: False keeps the order of the plan.
        pool: bound on the rows held; part of what fixes the order.
    """

    def __init__(
        self,
        plan: Plan,
        encoder: RowEncoder,
        pool: PoolShape,
        *,
        batch_rows: int,
        seed: int = 0,
        shuffle: bool = True,
        parts: Collection[int] | None = None,
        threads: int = NUM_LANES,
    ) -> None:
        self.plan = plan
        self.encoder = encoder
        self.pool = pool
        self.batch_rows = batch_rows
        self.seed = seed
        self.shuffle = shuffle
        self.parts = None if parts is None else np.array(sorted(parts), np.int8)
        self.threads = threads
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Fix the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        yield from Loader(BatchNode(SlabNode(self), self))

    def unit_order(self) -> list[int]:
        """Units in the order of this epoch."""
        count = len(self.plan.units)
        if not self.shuffle:
            return list(range(count))
        return [int(index) for index in self._random(0).permutation(count)]

    def ordered(self, slab: Slab) -> Slab:
        """Fix which rows of a slab are drawn, and in which order."""
        rows = np.arange(len(slab.numbers), dtype=np.int64)
        if self.parts is not None:
            rows = rows[np.isin(slab.parts, self.parts)]
        if self.shuffle and len(slab.numbers):
            rows = self._random(1 + int(slab.numbers[0])).permutation(rows)
        slab.order = rows
        return slab

    def _random(self, stream: int) -> np.random.Generator:
        """Counter-based random numbers of their own for (seed, epoch, stream)."""
        key = np.random.SeedSequence([self.seed, self.epoch, stream]).generate_state(2, np.uint64)
        return np.random.Generator(np.random.Philox(key=key))
