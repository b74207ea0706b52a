"""The stream of batches, epoch after epoch, as torchdata nodes: where it is, and where its rows come from."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from torchdata.nodes import BaseNode, Loader

from mlclf.data.batch import Batch
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.epoch import Epoch, Reading
from mlclf.data.streaming.pool import Pool
from mlclf.errors import CheckpointError
from mlclf.machine.threads import cores_left_by


class RowSource(Protocol):
    """Where the rows of batches come from: files, or some memory that holds all of them."""

    def batches(self, order: BatchOrder, skip: int) -> Generator[Batch, None, None]:
        """This rank's batches of an epoch, all but the first `skip`."""


class FileRows:
    """Rows that are read in each epoch: from their files, or from a cache of encoded rows.

    The memory of the pool is allocated by the first epoch and used again by the others, one at a time.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._pool: Pool | None = None
        self._running: Epoch | None = None

    def batches(self, order: BatchOrder, skip: int) -> Generator[Batch, None, None]:
        """Read an epoch; ends the one that is under way."""
        if self._running is not None:
            self._running.close()
        epoch = self._running = Epoch(order, self.reading, self.pool(order), skip)
        try:
            with cores_left_by(min(self.reading.threads, order.shape.lanes)):
                yield from epoch.batches()
        finally:
            epoch.close()

    def pool(self, order: BatchOrder) -> Pool:
        """The memory for an order, allocated once."""
        if self._pool is None:
            rows = max((min(unit.rows, order.shape.rows_of(unit)) for unit in order.plan.units), default=0)
            mine = sum(order.owner(slot) == order.rank for slot in range(order.slots))
            layout = self.reading.encoder.layout
            layout = replace(layout, weighted=layout.weighted or self.reading.skip_corrupt)
            self._pool = Pool(mine + order.shape.lanes, rows, layout)
        return self._pool

    def touch_memory(self, order: BatchOrder) -> None:
        """Touch what an epoch will use of the pool, so that the first one is as fast as the others."""
        spans = islice(order.spans(range(len(order.plan.units))), order.slots + order.shape.lanes)
        pool = self.pool(order)
        pool.touch(sum(1 for _ in spans))
        threads = min(self.reading.threads, order.shape.lanes)
        self.reading.encoder.features.touch_memory(pool.slab_rows, threads)


class BatchStream:
    """Batches of a plan's rows: every row once an epoch, in an order fixed by (plan, seed, epoch, pool).

    Attributes:
        order: of the next iteration.
        source: where the rows come from.
    """

    def __init__(self, order: BatchOrder, source: RowSource, num_rows: int | None = None) -> None:
        """Make the stream; nothing is read yet.

        Args:
            num_rows: how many rows an epoch draws, where that is known; else it is counted when asked for.
        """
        self.order, self.source = order, source
        self._num_rows = num_rows
        self._start = 0
        self._given = 0

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, of all ranks."""
        if self._num_rows is None:
            self._num_rows = self.order.num_rows()
        return self._num_rows

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_rows // self.order.batch_rows)

    def set_epoch(self, epoch: int) -> None:
        """Fix the order of the next iteration. It starts at its first batch, unless a state of it was loaded."""
        if epoch != self.order.epoch:
            self._go_to(epoch, 0)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch; once a state was loaded, those after it. Ends an iteration that is under way."""
        node = _BatchNode(self)
        try:
            yield from Loader(node)
        finally:
            node.close()

    def batches(self) -> Generator[Batch, None, None]:
        """What `__iter__` gives, without torchdata around it."""
        self._given, self._start = self._start, 0
        with closing(self.source.batches(self.order, self._given)) as batches:
            for batch in batches:
                self._given += 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its batches were given, beside what fixes the order."""
        return {"epoch": self.order.epoch, "batch": self._given} | self.order.identity()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that `state` was taken at, whatever the number of threads and ranks then and now.

        Raises:
            CheckpointError: the data or a setting that fixes the order has changed; names which.
        """
        own = self.order.identity()
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
        self._go_to(int(state["epoch"]), int(state["batch"]))

    def _go_to(self, epoch: int, batch: int) -> None:
        self.order = replace(self.order, epoch=epoch)
        self._start = self._given = batch


class _BatchNode(BaseNode[Batch]):  # type: ignore[misc]  # torchdata has no types
    """The batches that are left of an epoch."""

    def __init__(self, stream: BatchStream) -> None:
        super().__init__()
        self._stream = stream
        self._batches: Generator[Batch, None, None] | None = None

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
            self._batches.close()
