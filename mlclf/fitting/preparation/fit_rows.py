"""FitRows: the rows of a fit, read from files for each pass or held in memory; and copied to a GPU."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from mlclf.data.batch import Batch
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.inspection.fit_memory import RESIDENT_SHARE
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import CHOICE
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.batch_stream import BatchStream, FileRows
from mlclf.data.streaming.epoch import Reading
from mlclf.data.streaming.slab_cache import open_cache
from mlclf.fitting.preparation.fit_data import FitData
from mlclf.progress import Progress
from mlclf.training.mini_batch.device_pool import HOST_ROW_BYTES, DevicePool, room_on

PASSING_ROWS = 16_384
"""Rows of a batch in a pass that keeps nothing: some such batches are on their way at a time."""


class FitRows(Protocol):
    """All rows of a fit, wherever they are."""

    @property
    def held(self) -> Sequence[Batch] | None:
        """All batches, where they are in memory; None where they are read for each pass."""

    def batches(self, parts: Sequence[int] | None = None) -> Iterable[Batch]:
        """Batches in the order of the plan, validation data last, that have all rows of some parts, or of all."""


@dataclass(frozen=True)
class ModelInputs:
    """The encoded rows that models are trained on, and the encoder that made them."""

    features: FeatureEncoder
    rows: FitRows


@dataclass(frozen=True)
class RowsInMemory:
    """Rows that were read once and are held."""

    held: Sequence[Batch]

    def batches(self, parts: Sequence[int] | None = None) -> Iterable[Batch]:
        """All batches, whatever the parts."""
        return self.held


class RowsInFiles:
    """Rows that are read for each pass, from files or from a cache of encoded rows."""

    held = None

    def __init__(self, data: FitData, cache: Path | None) -> None:
        """`cache` is a folder for encoded rows, which later passes read in place of the files; None for none."""
        self._data, self._cache = data, cache
        self._in_order: dict[tuple[int, ...] | None, BatchStream] = {}

    def stream(self, batch_rows: int, *, shuffle: bool = False, parts: Sequence[int] | None = None) -> BatchStream:
        """Epochs over the training data: the rows of some parts of the split, or all."""
        data, asked = self._data, self._data.asked
        chosen = None if parts is None else tuple(sorted(parts))
        selection = Selection(asked.split, chosen, data.statistics.census, asked.where)
        order = BatchOrder(asked.plan, selection, data.pool, batch_rows, asked.settings.training.seed, shuffle=shuffle)
        cache = None
        if self._cache is not None:
            cache = open_cache(self._cache, asked.plan, data.statistics.contents, data.encoder, asked.where)
        rows = FileRows(Reading(data.encoder, cache, asked.skip_corrupt, asked.threads))
        return BatchStream(order, rows, data.drawn_rows(parts))

    def batches(self, parts: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches in the order of the plan, then those of given validation data, as part CHOICE."""
        for stream in self._streams(PASSING_ROWS, parts):
            yield from stream

    def _streams(self, batch_rows: int, parts: Sequence[int] | None = None) -> Iterator[BatchStream]:
        asked, batch_rows = self._data.asked, min(batch_rows, self._data.chunk_rows)
        mine = None if parts is None else tuple(part for part in parts if self._data.statistics.rows.get(part))
        if mine is None or mine:
            if mine not in self._in_order:  # its memory is used again by whoever asks for the same rows next
                self._in_order.clear()
                self._in_order[mine] = self.stream(batch_rows, parts=mine)
            yield self._in_order[mine]
        if asked.valid_plan is not None and (parts is None or CHOICE in parts):
            encoder, shape = self._data.valid_encoder, replace(self._data.pool, slabs=1)
            selection = Selection(encoder.split, None, asked.valid_census, asked.where)
            order = BatchOrder(asked.valid_plan, selection, shape, batch_rows, shuffle=False)
            yield BatchStream(order, FileRows(Reading(encoder)))

    def in_memory(self) -> RowsInMemory:
        """Read all rows and hold them in memory."""
        held = [batch for stream in self._streams(self._data.chunk_rows) for batch in stream]
        self._in_order.clear()
        return RowsInMemory(held)

    def on_device(self, device: torch.device, rows: FitRows) -> Generator[Progress, None, DevicePool | None]:
        """Copy all `rows` to a GPU if they fit there, and tell the user; None if they do not, and for the CPU."""
        room, host_room = room_on(device), self._data.asked.budget // RESIDENT_SHARE
        if room is None:
            return None
        counts = [stream.num_rows for stream in self._streams(PASSING_ROWS)]
        num_rows = sum(counts)
        taken, host = int(num_rows * self._data.statistics.row_bytes), num_rows * HOST_ROW_BYTES
        if taken <= room and host <= host_room:
            pool = DevicePool(self._data.encoder.layout, num_rows, device, plan_rows=counts[0])
            for batch in rows.batches():
                pool.add(batch)
                yield Progress(f"rows to {device}", pool.num_rows, num_rows)
                if pool.peak_bytes > room:
                    break
            else:
                pool.close()
                yield Progress("training", note=f"all rows are held on {device}, in {_mib(pool.num_bytes)}")
                return pool
            taken = pool.peak_bytes
        yield Progress(
            "training",
            note=f"rows are copied to {device} batch by batch: to hold them all takes {_mib(taken)} there, of "
            f"{_mib(room)} that may be used, and {_mib(host)} here, of {_mib(host_room)}",
        )
        return None


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes >> 20):,} MiB"
