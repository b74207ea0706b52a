"""Counting scored cells into bins of their logit: the inner loop of histograms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlclf.decisions.histograms.lazy_bins import Filled
from mlclf.machine.workers import on_threads

LIMIT = 30.0
"""The bins are uniform on ±LIMIT."""

MOST_ROWS = 2**31 - 1
"""As many as can be counted in 32 bits."""

BLOCK_CELLS = 1 << 18
"""Cells that are counted at once: so many that threads seldom wait for the interpreter, in temporaries of few MiB."""

_UNSHARED_CELLS = 1 << 15
"""The most cells of an operation that torch does not share among its threads, which are slow to wait for."""

_DEVICE_BLOCK_CELLS = 1 << 22
_PARALLEL_CELLS = 1 << 21
_TRANSPOSED_ROWS = 64
_FEW = 8


class Bins(NamedTuple):
    """The bins of K labels, filled in place; or V sets of bins side by side, of which a row is counted in one."""

    counts: Tensor  # [K, 2, T] int32 or float64: negatives, positives
    squares: Tensor | None  # [K, 2, T] float64
    least: Tensor  # [K, T] float32 or float64, as the logits are
    greatest: Tensor  # [K, T]
    sets: int = 1  # V; each has T / V bins
    filled: Filled | None = None  # which ends have been set to those of empty bins; None = all

    def of(self, labels: slice) -> Bins:
        squares = None if self.squares is None else self.squares[labels]
        filled = None if self.filled is None else self.filled.of(labels)
        return Bins(self.counts[labels], squares, self.least[labels], self.greatest[labels], self.sets, filled)


class CellsByLabel(NamedTuple):
    """n scored rows, label by label."""

    logits: Tensor  # [K, n] float32 or float64
    labels: Tensor  # [K, n] bool, or uint8 of 0 and 1
    seen: Tensor | None  # [K, n] bool, False where a cell does not count
    weights: Tensor | None  # [n] or [K, n] float64
    first_bins: Tensor | None = None  # [n] int32, where the bins of the row's set begin; None = at 0

    def of(self, labels: slice, rows: slice) -> CellsByLabel:
        seen, weights = self.seen, self.weights
        if weights is not None:
            weights = weights[rows] if weights.dim() == 1 else weights[labels, rows]
        return CellsByLabel(
            self.logits[labels, rows],
            self.labels[labels, rows],
            None if seen is None else seen[labels, rows],
            weights,
            None if self.first_bins is None else self.first_bins[rows],
        )


def by_label(values: Tensor) -> Tensor:
    """Return [K, n], contiguous, of [n, K]; without a copy where that is how it is stored."""
    turned = values.t()
    if turned.is_contiguous():
        return turned
    if values.is_cuda:
        return turned.contiguous()
    copy = torch.empty(turned.shape, dtype=values.dtype)
    for start in range(0, len(values), _TRANSPOSED_ROWS):  # blocks that the cache holds: twice as fast as in one go
        rows = slice(start, start + _TRANSPOSED_ROWS)
        copy[:, rows] = turned[:, rows]
    return copy


def true_places(flags: Tensor) -> Tensor:
    """Where flags [n] bool are True, [m] int64, rising."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(flags.numpy()))  # half the time of torch's
    return flags.nonzero()[:, 0]


def bin_of(logits: Tensor, num_bins: int) -> Tensor:
    """The bin of each logit, by its float32, int64 of their shape; it never falls as that rises. That of NaN is 0."""
    places = (logits.float() + LIMIT) * (num_bins / (2 * LIMIT))
    return places.clamp_(0, num_bins - 1).nan_to_num_(nan=0.0).long()


def count_cells(bins: Bins, scored: CellsByLabel) -> tuple[Tensor, Tensor]:
    """Add cells to their bins; return the positive rows and the rows counted of each label, [K] int64.

    Logits that count must be finite. Labels are counted one after the other, on as many threads as torch has.
    """
    num_labels = len(scored.logits)
    device = scored.logits.device
    workers = 1 if scored.logits.is_cuda or scored.logits.numel() < _PARALLEL_CELLS else torch.get_num_threads()
    if workers == 1:
        return _count_labels(bins, scored, slice(0, num_labels))
    step = -(-num_labels // workers)
    parts = [slice(start, min(start + step, num_labels)) for start in range(0, num_labels, step)]
    found = on_threads(lambda part: _count_labels(bins, scored, part), parts, workers)
    positives, rows = (torch.cat(column).to(device) for column in zip(*found, strict=True))
    return positives, rows


def _count_labels(bins: Bins, scored: CellsByLabel, labels: slice) -> tuple[Tensor, Tensor]:
    size = min(_block_cells(scored.logits.device), scored.logits.numel())
    counter = _BlockCounter(size, bins)
    positives = torch.zeros(labels.stop - labels.start, dtype=torch.int64, device=scored.logits.device)
    rows = torch.zeros_like(positives)
    for part, part_rows in _blocks(labels, scored.logits.shape[1], counter.size, bins.least.shape[1]):
        inner = slice(part.start - labels.start, part.stop - labels.start)
        block = scored.of(part, part_rows)
        positives[inner] += counter.count(bins.of(part), block)
        rows[inner] += block.logits.shape[1] if block.seen is None else block.seen.sum(1)
    return positives, rows


def _block_cells(device: torch.device) -> int:
    if device.type != "cpu":
        return _DEVICE_BLOCK_CELLS
    return BLOCK_CELLS if torch.get_num_threads() == 1 else min(BLOCK_CELLS, _UNSHARED_CELLS)


def _blocks(labels: slice, num_rows: int, size: int, num_bins: int) -> Iterator[tuple[slice, slice]]:
    """Slices of labels and rows of at most `size` cells, and of few enough labels for 32-bit places."""
    rows = -(-num_rows // -(-num_rows // size))  # equal blocks, since a short one costs as much as a long one
    step = max(1, min(size // rows, (2**31 - 1) // (2 * num_bins)))
    for first in range(labels.start, labels.stop, step):
        for start in range(0, num_rows, rows):
            yield slice(first, min(first + step, labels.stop)), slice(start, min(start + rows, num_rows))


class _BlockCounter:
    """Counts blocks of cells; keeps its temporaries between them."""

    def __init__(self, size: int, bins: Bins) -> None:
        device = bins.least.device
        self.size = size
        self.num_bins = bins.least.shape[1]
        self.scaled = torch.empty(size, device=device)
        self.half = self.scaled.view(torch.int32)  # is needed when that no longer is
        self.place = torch.empty(size, dtype=torch.int32, device=device)
        self.index = torch.empty(size, dtype=torch.int64, device=device)
        self.ones = torch.ones(size, dtype=bins.counts.dtype, device=device)

    def count(self, bins: Bins, block: CellsByLabel) -> Tensor:
        """Add a block [k, n] to the bins of its k labels; return the positive rows of each, [k] int32."""
        shape, cells = block.logits.shape, block.logits.numel()
        scaled, place, half = (part[:cells].view(shape) for part in (self.scaled, self.place, self.half))
        own_bins = self.num_bins // bins.sets
        torch.add(block.logits.float(), LIMIT, out=scaled)
        place.copy_(scaled.mul_(own_bins / (2 * LIMIT)).clamp_(0, own_bins - 1))
        if block.first_bins is not None:
            place.add_(block.first_bins)
        if bins.filled is not None:
            bins.filled.extend(bins.least, bins.greatest, place.amin(1), place.amax(1))
        if shape[0] > 1:
            place.add_(self._first(shape[0]))
        kept = None if block.seen is None else true_places(block.seen.reshape(-1))
        self._extend_ends(bins, place, block.logits, kept)
        half.copy_(block.labels)
        if block.seen is not None:
            half.mul_(block.seen)
        positives = half.sum(1, dtype=torch.int32)
        place.add_(half.mul_(self.num_bins))
        if shape[0] > 1:
            place.add_(self._first(shape[0]))
        weights = None if block.weights is None else block.weights.expand(shape).reshape(-1)
        self._add(bins, place, weights, kept)
        return positives

    def _first(self, num_labels: int) -> Tensor:
        labels = torch.arange(num_labels, dtype=torch.int32, device=self.place.device)
        return labels[:, None] * self.num_bins

    def _index(self, place: Tensor, kept: Tensor | None) -> Tensor:
        index = self.index[: place.numel()].copy_(place.view(-1))
        return index if kept is None else index[kept]  # a hidden logit may be NaN, and its place anything

    def _extend_ends(self, bins: Bins, place: Tensor, logits: Tensor, kept: Tensor | None) -> None:
        index, values = self._index(place, kept), logits.reshape(-1)
        values = values if kept is None else values[kept]
        extend = _extend_on_device if index.is_cuda else _extend
        extend(bins.least.view(-1), index, values, "amin")
        extend(bins.greatest.view(-1), index, values, "amax")

    def _add(self, bins: Bins, place: Tensor, weights: Tensor | None, kept: Tensor | None) -> None:
        index = self._index(place, kept)
        if weights is None:
            weights = self.ones[: len(index)]
        elif kept is not None:
            weights = weights[kept]
        bins.counts.view(-1).scatter_add_(0, index, weights)
        if bins.squares is not None:
            bins.squares.view(-1).scatter_add_(0, index, weights * weights)


def _extend(ends: Tensor, place: Tensor, logits: Tensor, reduction: str) -> None:
    ends.scatter_reduce_(0, place, logits, reduction)


def _extend_on_device(ends: Tensor, place: Tensor, logits: Tensor, reduction: str) -> None:
    """Extend the ends of bins; once these have seen much, reading them is cheap beside writing them atomically."""
    known = ends[place]
    outside = logits < known if reduction == "amin" else logits > known
    few = outside.nonzero()[:, 0]
    if len(few) * _FEW > len(logits):
        _extend(ends, place, logits, reduction)
    elif len(few):
        _extend(ends, place[few], logits[few], reduction)
