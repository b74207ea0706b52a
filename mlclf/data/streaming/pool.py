"""The pool: memory for slabs of encoded rows, allocated once, bounded and reused."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mlclf.data.arrow.identities import joined_tables
from mlclf.data.batch import Batch, TokenIds
from mlclf.data.features.token_ids import joined_ranges
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.streaming.slab import RowLayout, Slab
from mlclf.machine.memory import Recycler

BATCH_ROWS_TOUCHED = 4096

NOTHING = np.zeros(0, np.int64)

Pick = tuple[Slab, NDArray[np.int64]]
"""A slab and indices into the pool's arrays."""


class Pool:
    """Hands out slabs of its memory, which is touched only when first used, so that small data takes little."""

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
        tables = [slab.keys.take(pa.array(pick - slab.base)) for slab, pick in picks if slab.keys is not None]
        return Batch(
            torch.from_numpy(self._taken("dense", index)),
            *self._tokens(picks, index),
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

    def _tokens(self, picks: Sequence[Pick], index: NDArray[np.int64]) -> TokenIds:
        width = self.layout.num_tokens
        if width is not None:
            ids = self._taken("tokens", index) if width else np.zeros(0, np.int32)
            offsets = torch.arange(0, (len(index) + 1) * width, width) if width else torch.zeros(len(index) + 1).long()
            return TokenIds(torch.from_numpy(ids.reshape(-1).astype(np.int64)), offsets, None)
        return _ragged(picks, len(index))


def _ragged(picks: Iterable[Pick], size: int) -> TokenIds:
    """The ids of the picked rows, whose numbers of ids differ."""
    lengths, ids, values = [], [], []
    for slab, pick in picks:
        assert slab.offsets is not None
        assert slab.ids is not None
        local = pick - slab.base
        starts = slab.offsets[local]
        lengths.append(slab.offsets[local + 1] - starts)
        where = joined_ranges(starts, lengths[-1])
        ids.append(slab.ids[where])
        if slab.values is not None:
            values.append(slab.values[where])
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum(np.concatenate([NOTHING, *lengths]), out=offsets[1:])
    joined = torch.from_numpy(np.concatenate([NOTHING, *ids]))
    weights = torch.from_numpy(np.concatenate(values)) if values else None
    return TokenIds(joined, torch.from_numpy(offsets), weights)
