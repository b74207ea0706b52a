"""The stream of batches: spans → decode threads → pool of slabs → Batch, as torchdata nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torchdata.nodes import BaseNode, Loader

from mlclf.data.batch import Batch, joined, padded
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import Readers, Work
from mlclf.data.parquet.spans import Span, interleaved
from mlclf.data.sampling.batch_plan import Draw, Load, Round, Schedule
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.shuffle_order import row_order, unit_order
from mlclf.data.streaming.memory_budget import PoolShape
from mlclf.data.streaming.pool import Pick, Pool
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab import Slab
from mlclf.data.streaming.slab_cache import SlabCache, cache_key, check_origin, origin_of
from mlclf.errors import CheckpointError, ConfigError, CorruptDataError
from mlclf.machine.signals import look
from mlclf.machine.threads import cores_left_by


class BatchNode(BaseNode[Batch]):  # type: ignore[misc]  # torchdata has no types
    """The batches that are left of an epoch, each gathered from all slabs of the pool."""

    def __init__(self, stream: BatchStream) -> None:
        super().__init__()
        self._stream = stream
        self._batches: Iterator[Batch] | None = None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self.close()
        self._batches = self._stream.batches()

    def next(self) -> Batch:
        assert self._batches is not None
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._stream.state_dict()

    def close(self) -> None:
        """Stop the threads, where the epoch was left early."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]  # a generator


class HeldRows(Protocol):
    """All rows of a plan in some memory, from which batches are gathered instead of being read."""

    def batches(self, stream: BatchStream, skip: int) -> Iterator[Batch]:
        """The batches of a stream's epoch but the first `skip`."""


class BatchStream:
    """Batches of a plan's rows: every row once an epoch, in an order fixed by (plan, seed, epoch, pool).

    Several ranks share the slots of the pool: each decodes the slabs of its own slots, and the batches of all ranks,
    one after the other, are the batch that a single process would give. All ranks give as many batches of as many
    rows; rows of weight 0 fill up.

    Attributes:
        selection: the rows that are drawn.
        shuffle: False keeps the order of the plan.
        shape: bound on the rows held; part of what fixes the order.
        epoch: the order of the next iteration.
        held: where the rows are gathered from, if they are held somewhere; they are read otherwise.
        lost: what was found damaged while it was read, by place, and why.
    """

    def __init__(
        self,
        plan: Plan,
        encoder: RowEncoder,
        shape: PoolShape,
        *,
        batch_rows: int,
        seed: int = 0,
        shuffle: bool = True,
        selection: Selection | None = None,
        num_rows: int | None = None,
        skip_corrupt: bool = False,
        cache: Path | None = None,
        contents: Sequence[str] = (),
        threads: int = 2,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Make the stream; nothing is read yet.

        Args:
            num_rows: how many rows an epoch draws, where that is known; else it is counted when asked for.
            cache: a folder for encoded rows, which later epochs read in place of the files.
            contents: with a cache, a digest of each file of the plan; see `Contents`.
            skip_corrupt: rows that turn out to be damaged keep their places in the batches, with weight 0.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        self.plan, self.encoder, self.shape = plan, encoder, shape
        self.batch_rows, self.seed, self.shuffle, self.threads = batch_rows, seed, shuffle, threads
        self.selection = selection or Selection(encoder.split)
        self.rank, self.world_size = rank, world_size
        self.skip_corrupt = skip_corrupt
        self.held: HeldRows | None = None
        self.lost: dict[str, str] = {}
        self.cache = None
        if cache is not None:
            origin = origin_of(plan, contents, encoder, self.selection.where)
            check_origin(cache, plan, origin)
            self.cache = SlabCache(cache, cache_key(plan, contents, encoder, self.selection.where), origin)
        self.slots = shape.slabs if shuffle else 1
        self.epoch = 0
        self._start = 0
        self._given = 0
        self._num_rows = num_rows
        self._pool: Pool | None = None
        self._running: _Epoch | None = None

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, of all ranks."""
        if self._num_rows is None:
            self._num_rows = sum(map(self.selection.count, self.spans(range(len(self.plan.units)))))
        return self._num_rows

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_rows // self.batch_rows)

    def set_epoch(self, epoch: int) -> None:
        """Fix the order of the next iteration. It starts at its first batch, unless a state of it was loaded."""
        if epoch != self.epoch:
            self.epoch, self._start, self._given = epoch, 0, 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch; once a state was loaded, those after it. Ends an iteration that is under way."""
        node = BatchNode(self)
        try:
            yield from Loader(node)
        finally:
            node.close()

    def batches(self) -> Iterator[Batch]:
        """What `__iter__` gives, without torchdata around it."""
        if self._running is not None:
            self._running.close()
        self._given, self._start = self._start, 0
        if self.held is not None:
            yield from map(self._counted, self.held.batches(self, self._given))
            return
        epoch = self._running = _Epoch(self, self._given)
        try:
            with cores_left_by(min(self.threads, self.shape.lanes)):
                yield from map(self._counted, epoch.batches())
        finally:
            epoch.close()

    def _counted(self, batch: Batch) -> Batch:
        self._given += 1
        return batch

    def schedule(self) -> Schedule:
        """What the epoch draws, batch by batch, on all ranks."""
        order = unit_order(self.plan, self.seed, self.epoch, self.shuffle)
        return Schedule(self.spans(order), self.selection.count, self.slots, self.batch_rows)

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches were given, beside what fixes the order."""
        return {"epoch": self.epoch, "batch": self._given} | self._identity()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that `state` was taken at, whatever the number of threads and ranks then and now.

        Raises:
            CheckpointError: the data or a setting that fixes the order has changed; names which.
        """
        own = self._identity()
        changed = [name for name, value in own.items() if state.get(name) != value]
        if "plan" in changed:
            was, now = state.get("rows"), own["rows"]
            difference = f"it had {was:,} rows, has {now:,}" if was != now else "it has as many rows, of other contents"
            raise CheckpointError(
                f"the data has changed since the state was saved: {difference}; put it back, or start again"
            )
        if changed:
            listed = ", ".join(f"{name} was {state.get(name)!r}, is {own[name]!r}" for name in changed)
            raise CheckpointError(f"the order of the rows has changed since the state was saved: {listed}")
        self.epoch, self._start, self._given = int(state["epoch"]), int(state["batch"]), int(state["batch"])

    def _identity(self) -> dict[str, Any]:
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read, each once."""
        return tuple(dict.fromkeys([*self.encoder.columns, *self.selection.columns]))

    def spans(self, order: Sequence[int]) -> Iterator[Span]:
        """Spans of units in the order in which they enter the pool."""
        return interleaved(self.plan, order, self.shape.lanes if self.shuffle else 1, self.shape.rows_of)

    def owner(self, slot: int) -> int:
        """The rank whose pool a slot is in."""
        return slot * self.world_size // self.slots

    def is_mine(self, step: Load | Draw) -> bool:
        """Whether a step is this rank's."""
        return self.owner(step.slot) == self.rank

    def full_rows(self, rounds: Sequence[Round]) -> int:
        """Rows that a batch has on every rank: as many as that of the rank with the most."""
        rows = [0] * self.world_size
        for step in rounds:
            for draw in step.draws:
                rows[self.owner(draw.slot)] += draw.stop - draw.start
        return max(rows)

    def pool(self) -> Pool:
        """The memory, allocated once."""
        if self._pool is None:
            rows = max((min(unit.rows, self.shape.rows_of(unit)) for unit in self.plan.units), default=0)
            mine = sum(self.owner(slot) == self.rank for slot in range(self.slots))
            layout = self.encoder.layout
            layout = replace(layout, weighted=layout.weighted or self.skip_corrupt)
            self._pool = Pool(mine + self.shape.lanes, rows, layout)
        return self._pool

    def touch_memory(self) -> None:
        """Touch what an epoch will use of the pool, so that the first one is as fast as the others."""
        spans = islice(self.spans(range(len(self.plan.units))), self.slots + self.shape.lanes)
        pool = self.pool()
        pool.touch(sum(1 for _ in spans))
        self.encoder.features.touch_memory(pool.slab_rows, min(self.threads, self.shape.lanes))

    def encode(self, slab: Slab, first_row: int, table: pa.Table, place: str) -> Slab:
        """Fill a slab with the rows of a span."""
        numbers, table = self.selection.kept(first_row, table)
        self.encoder.encode(numbers, table, place, slab)
        return slab

    def ordered(self, slab: Slab, first_row: int) -> Slab:
        """Fix which rows of a filled slab are drawn in which order."""
        rows = np.arange(slab.base, slab.base + slab.rows, dtype=np.int64)
        parts = slab.arrays["parts"][: slab.rows] if "parts" in slab.arrays else None
        slab.order = self.drawn_order(rows, parts, first_row)
        return slab

    def drawn_order(self, rows: NDArray[np.int64], parts: NDArray[np.int8] | None, first_row: int) -> NDArray[np.int64]:
        """Those rows of a span [n] that are drawn, in the order in which they are: [m]."""
        if parts is not None:
            rows = rows[self.selection.chosen(parts)]
        return row_order(rows, self.seed, self.epoch, first_row) if self.shuffle else rows


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


class _Epoch:
    """One pass: what the schedule will draw, what is being decoded, what is in the pool."""

    def __init__(self, stream: BatchStream, skip: int) -> None:
        self._stream = stream
        self._pool = stream.pool()
        self._schedule = iter(stream.schedule())
        self._rounds: deque[list[Round]] = deque()
        self._loads: deque[Load] = deque()
        self._loading: dict[int, _Loading] = {}
        self._live: dict[int, Slab] = {}
        self._coming: deque[_Coming] = deque()
        self._held: dict[int, Slab] = {}
        self._is_closed = False
        self._skip(skip)
        self._readers: Readers[Slab | None] = Readers(
            stream.plan, stream.columns, stream.shape.rows_of, lanes=stream.shape.lanes, threads=stream.threads
        )
        self._gathering = ThreadPoolExecutor(1, thread_name_prefix="gather")

    def _skip(self, batches: int) -> None:
        """Pass over batches: of what they loaded, only slabs with rows left are read again."""
        live: dict[int, Load] = {}
        for _ in range(batches):
            rounds: list[Round] = next(self._schedule, [])
            for step in rounds:
                live |= {load.slab: load for load in step.loads}
                for draw in step.draws:
                    if draw.last:
                        del live[draw.slab]
        self._resumed = [load.slab for load in live.values() if self._stream.is_mine(load)]
        self._loads.extend(load for load in live.values() if self._stream.is_mine(load))

    def batches(self) -> Iterator[Batch]:
        """The batches that are left."""
        for slab in self._resumed:
            self._live[slab] = self._loaded(slab)
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
            self._simulate()
        return self._rounds.popleft() if self._rounds else []

    def _simulate(self) -> bool:
        """Ask the schedule for one more batch; False at its end."""
        rounds = next(self._schedule, None)
        if rounds is None:
            return False
        self._rounds.append(rounds)
        self._loads.extend(load for step in rounds for load in step.loads if self._stream.is_mine(load))
        return True

    def _started(self, rounds: Sequence[Round]) -> _Coming:
        """Start to gather a batch: the rows of each slot of the pool after those of the slot before."""
        if len(rounds) == 1 and self._stream.world_size == 1:
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
        whole.set_result(padded(joined(parts or [self._pool.gather([])]), self._stream.full_rows(rounds)))
        return _Coming(whole, [])

    def _picked(self, step: Round) -> tuple[list[tuple[int, Pick]], list[Slab]]:
        """What is drawn from the slots of this rank, and the slabs that are used up with it."""
        for load in filter(self._stream.is_mine, step.loads):
            self._live[load.slab] = self._loaded(load.slab)
        picks: list[tuple[int, Pick]] = []
        used_up = []
        for draw in filter(self._stream.is_mine, step.draws):
            slab = self._live[draw.slab]
            picks.append((draw.slot, (slab, slab.order[draw.start : draw.stop])))
            if draw.last:
                used_up.append(self._live.pop(draw.slab))
        return picks, used_up

    def _loaded(self, number: int) -> Slab:
        """The next slab of the schedule, waited for where it is still being decoded."""
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
            if not self._stream.skip_corrupt:
                raise
            place = self._stream.plan.locate(span.first_row)
            self._stream.lost.setdefault(place, str(error))
            loading.slab.fill_with_nothing(self._stream.selection.count(span), span.first_row, place)
            return loading.slab

    def _top_up(self) -> None:
        """Keep every lane busy, as far as there are free slabs."""
        while len(self._loading) < self._stream.shape.lanes:
            while not self._loads:
                if not self._simulate():
                    return
            slab = self._pool.acquire()
            if slab is None:
                return
            self._held[id(slab)] = slab
            load = self._loads.popleft()
            self._loading[load.slab] = _Loading(self._decoding(slab, load.span), slab, load.span)

    def _decoding(self, slab: Slab, span: Span) -> Future[Slab | None]:
        """Start to fill a slab; from the cache where its rows are there."""
        cache = self._stream.cache
        if cache is None or not cache.has(span):
            return self._readers.submit(span, self._work(slab, span))
        return self._readers.call(lambda: self._from_cache(cache, slab, span))

    def _from_cache(self, cache: SlabCache, slab: Slab, span: Span) -> Slab | None:
        plan = self._stream.plan
        plan.shards[plan.units[span.unit].shard].check()  # the rows are those of a file that is still the same
        return self._stream.ordered(slab, span.first_row) if cache.read(span, slab) else None

    def _work(self, slab: Slab, span: Span) -> Work[Slab | None]:
        stream = self._stream

        def work(first_row: int, table: pa.Table, place: str) -> Slab:
            stream.encode(slab, first_row, table, place)
            if stream.cache is not None and table.num_rows == span.rows:
                stream.cache.write(span, slab)
            return stream.ordered(slab, first_row)

        return work

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
