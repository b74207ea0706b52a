"""One epoch of rows that are read: spans → decode threads → pool of slabs → batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mlclf.data.batch import Batch, joined, padded
from mlclf.data.parquet.readers import Readers, Work
from mlclf.data.parquet.spans import Span
from mlclf.data.sampling.batch_plan import Load, Round
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.pool import Pick, Pool
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab import Slab
from mlclf.data.streaming.slab_cache import SlabCache
from mlclf.errors import ConfigError, CorruptDataError
from mlclf.machine.signals import look

BATCHES_AHEAD = 2
"""Batches that are gathered while the one before is used."""


class _Loading(NamedTuple):
    """A slab that is being decoded."""

    decoded: Future[Slab | None]
    slab: Slab
    span: Span


@dataclass
class _Coming:
    """A batch that is being gathered, and the slabs that it uses up."""

    batch: Future[Batch]
    used_up: list[Slab]


@dataclass(frozen=True)
class Reading:
    """How rows are read into slabs.

    Attributes:
        encoder: fills a slab with the rows of a table.
        cache: encoded rows of earlier epochs, which are read in place of the files.
        skip_corrupt: rows that turn out to be damaged keep their places in the batches, with weight 0.
        threads: that decode.
        lost: what was found damaged while it was read, by place, and why.
    """

    encoder: RowEncoder
    cache: SlabCache | None = None
    skip_corrupt: bool = False
    threads: int = 2
    lost: dict[str, str] = field(default_factory=dict)


class Epoch:
    """One pass over the rows: what is still to be drawn, what is being decoded, what is in the pool."""

    def __init__(self, order: BatchOrder, reading: Reading, pool: Pool, skip: int) -> None:
        """Start to read, after the first `skip` batches of the epoch."""
        self._order, self._reading, self._pool = order, reading, pool
        self._drawn = iter(order.batches())
        self._rounds: deque[list[Round]] = deque()
        self._loads: deque[Load] = deque()
        self._loading: dict[int, _Loading] = {}
        self._live: dict[int, Slab] = {}
        self._coming: deque[_Coming] = deque()
        self._held: dict[int, Slab] = {}
        self._is_closed = False
        self._resumed = self._skip(skip)
        self._loads.extend(self._resumed)
        columns = tuple(dict.fromkeys([*reading.encoder.columns, *order.selection.columns]))
        self._readers: Readers[Slab | None] = Readers(
            order.plan, columns, order.shape.rows_of, lanes=order.shape.lanes, threads=reading.threads
        )
        self._gathering = ThreadPoolExecutor(1, thread_name_prefix="gather")

    def _skip(self, batches: int) -> list[Load]:
        """Pass over batches; returns the loads of slabs that have rows left, which are read again."""
        live: dict[int, Load] = {}
        for _ in range(batches):
            rounds: list[Round] = next(self._drawn, [])
            for step in rounds:
                live |= {load.slab: load for load in step.loads}
                for draw in step.draws:
                    if draw.last:
                        del live[draw.slab]
        return [load for load in live.values() if self._order.is_mine(load)]

    def batches(self) -> Iterator[Batch]:
        """The batches that are left."""
        for load in self._resumed:
            self._live[load.slab] = self._loaded(load.slab)
        while True:
            look()
            if self._is_closed:
                raise ConfigError("a newer iteration of this loader has ended this one; make a loader for each of them")
            while len(self._coming) <= BATCHES_AHEAD and (rounds := self._next_rounds()):
                self._coming.append(self._started(rounds))
                self._settle()
            if not self._coming:
                return
            coming = self._coming.popleft()
            batch = coming.batch.result()
            self._release(coming)
            yield batch

    def _next_rounds(self) -> list[Round]:
        if not self._rounds:
            self._look_ahead()
        return self._rounds.popleft() if self._rounds else []

    def _look_ahead(self) -> bool:
        """Look one batch ahead; False at the end."""
        rounds = next(self._drawn, None)
        if rounds is None:
            return False
        self._rounds.append(rounds)
        self._loads.extend(load for step in rounds for load in step.loads if self._order.is_mine(load))
        return True

    def _started(self, rounds: Sequence[Round]) -> _Coming:
        """Start to gather a batch: the rows of each slot of the pool after those of the slot before."""
        if len(rounds) == 1 and self._order.world_size == 1:
            picks, used_up = self._picked(rounds[0])
            return _Coming(self._gathering.submit(self._pool.gather, [pick for _, pick in picks]), used_up)
        by_slot: list[tuple[int, Batch]] = []
        for coming in self._coming:  # they may draw on slabs that this one uses up
            coming.batch.result()
        for step in rounds:  # slabs of a round take the place of those that the round before used up
            picks, used_up = self._picked(step)
            by_slot += [(slot, self._pool.gather([pick])) for slot, pick in picks]
            self._release(_Coming(Future(), used_up))
        parts = [batch for _, batch in sorted(by_slot, key=itemgetter(0))]
        whole: Future[Batch] = Future()
        whole.set_result(padded(joined(parts or [self._pool.gather([])]), self._order.full_rows(rounds)))
        return _Coming(whole, [])

    def _picked(self, step: Round) -> tuple[list[tuple[int, Pick]], list[Slab]]:
        """What is drawn from the slots of this rank, and the slabs that are used up with it."""
        for load in filter(self._order.is_mine, step.loads):
            self._live[load.slab] = self._loaded(load.slab)
        picks: list[tuple[int, Pick]] = []
        used_up = []
        for draw in filter(self._order.is_mine, step.draws):
            slab = self._live[draw.slab]
            picks.append((draw.slot, (slab, slab.order[draw.start : draw.stop])))
            if draw.last:
                used_up.append(self._live.pop(draw.slab))
        return picks, used_up

    def _loaded(self, number: int) -> Slab:
        """The next slab in the order, waited for where it is still being decoded."""
        self._top_up()
        if number not in self._loading:  # every free slab waits for batches to be gathered
            for coming in self._coming:
                coming.batch.result()
                self._release(coming)
            self._top_up()
        slab = self._decoded(self._loading.pop(number))
        self._top_up()
        return slab

    def _decoded(self, loading: _Loading) -> Slab:
        span = loading.span
        try:
            slab = loading.decoded.result()
            if slab is None:  # the cache had lost it
                slab = self._readers.submit(span, self._work(loading.slab, span)).result()
            assert slab is not None
            return slab
        except CorruptDataError as error:
            if not self._reading.skip_corrupt:
                raise
            place = self._order.plan.locate(span.first_row)
            self._reading.lost.setdefault(place, str(error))
            loading.slab.fill_with_nothing(self._order.selection.count(span), span.first_row, place)
            return loading.slab

    def _top_up(self) -> None:
        """Decode as many units as there are lanes and free slabs."""
        while len(self._loading) < self._order.shape.lanes:
            while not self._loads:
                if not self._look_ahead():
                    return
            slab = self._pool.acquire()
            if slab is None:
                return
            self._held[id(slab)] = slab
            load = self._loads.popleft()
            self._loading[load.slab] = _Loading(self._decoding(slab, load.span), slab, load.span)

    def _decoding(self, slab: Slab, span: Span) -> Future[Slab | None]:
        """Start to fill a slab; from the cache where its rows are there."""
        cache = self._reading.cache
        if cache is None or not cache.has(span):
            return self._readers.submit(span, self._work(slab, span))
        return self._readers.call(lambda: self._from_cache(cache, slab, span))

    def _from_cache(self, cache: SlabCache, slab: Slab, span: Span) -> Slab | None:
        plan = self._order.plan
        plan.shards[plan.units[span.unit].shard].check()  # the rows are those of a file that is still the same
        return self._ordered(slab, span.first_row) if cache.read(span, slab) else None

    def _work(self, slab: Slab, span: Span) -> Work[Slab | None]:
        reading = self._reading

        def work(first_row: int, table: pa.Table, place: str) -> Slab:
            numbers, kept = self._order.selection.kept(first_row, table)
            reading.encoder.encode(numbers, kept, place, slab)
            if reading.cache is not None and table.num_rows == span.rows:
                reading.cache.write(span, slab)
            return self._ordered(slab, first_row)

        return work

    def _ordered(self, slab: Slab, first_row: int) -> Slab:
        """Fix which rows of a filled slab are drawn in which order."""
        rows = np.arange(slab.base, slab.base + slab.rows, dtype=np.int64)
        parts = slab.arrays["parts"][: slab.rows] if "parts" in slab.arrays else None
        slab.order = self._order.of_span(rows, parts, first_row)
        return slab

    def _settle(self) -> None:
        """Let slabs that are used up be filled again."""
        for coming in self._coming:
            if coming.batch.done():
                self._release(coming)
        self._top_up()

    def _release(self, coming: _Coming) -> None:
        for slab in coming.used_up:
            del self._held[id(slab)]
            self._pool.release(slab)
        coming.used_up = []

    def close(self) -> None:
        """Stop the threads and give every slab back."""
        self._is_closed = True
        self._readers.close()
        self._gathering.shutdown(wait=True, cancel_futures=True)
        while self._held:
            self._pool.release(self._held.popitem()[1])
