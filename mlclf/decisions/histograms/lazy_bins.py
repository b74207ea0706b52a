"""Memory for bins that takes pages only where logits fall: most labels leave most bins of a histogram empty."""

from __future__ import annotations

import math
import mmap
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_BYTES = 1 << 20
"""Smaller arrays are not worth it."""

PAGE_BINS = 1024
"""Bins of four bytes in a page of memory."""


def is_lazy(shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether an array of numbers of 4 bytes or more is worth being lazy, and can be."""
    return device.type == "cpu" and sys.platform == "linux" and 4 * math.prod(shape) >= LEAST_BYTES


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose pages are taken when they are written to."""
    memory = mmap.mmap(-1, dtype.itemsize * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # a huge page would hold the bins of several labels, and so be taken whole
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class Filled:
    """For each label the bins from one up to another whose ends have been set to what an empty bin has.

    Attributes:
        ranges: [k, 2] int64, the first of them and the one after the last.
    """

    def __init__(self, ranges: NDArray[np.int64]) -> None:
        self.ranges = ranges

    def of(self, labels: slice) -> Filled:
        """Those of some labels; what is filled there is so here."""
        return Filled(self.ranges[labels])

    def extend(self, least: Tensor, greatest: Tensor, low: Tensor, high: Tensor) -> None:
        """Fill the ends [k, T] so far that bins from `low` to `high`, [k] integers, are among the filled ones."""
        num_bins = least.shape[1]
        for label, (first, last) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            start, stop = self.ranges[label].tolist()
            begin = max(0, first) // PAGE_BINS * PAGE_BINS
            end = min(num_bins, (last // PAGE_BINS + 1) * PAGE_BINS)
            if start <= begin and end <= stop:
                continue
            if start == stop:
                start = stop = begin
            for new in (slice(min(begin, start), start), slice(stop, max(end, stop))):
                least[label, new], greatest[label, new] = torch.inf, -torch.inf
            self.ranges[label] = min(begin, start), max(end, stop)

    def window(self, labels: slice, num_bins: int) -> slice:
        """Bins beyond which those labels have none, with an empty one above if there is any."""
        ranges = self.ranges[labels]
        ranges = ranges[ranges[:, 0] < ranges[:, 1]]
        if not len(ranges):
            return slice(0, 1)
        return slice(int(ranges[:, 0].min()), min(num_bins, int(ranges[:, 1].max()) + 1))

    def has(self, labels: slice, bins: slice | Tensor) -> bool:
        """Whether the ends of all these bins, a slice or [t] int64 that rise, have been filled for all those labels."""
        if isinstance(bins, Tensor):
            bins = slice(int(bins[0]), int(bins[-1]) + 1) if len(bins) else slice(0, 0)
        ranges = self.ranges[labels]
        return bool((ranges[:, 0] <= bins.start).all() and (bins.stop <= ranges[:, 1]).all())

    def known(self, labels: slice, bins: slice | Tensor) -> Tensor:
        """[k, t] bool, whether the ends of a bin, one of a slice or of [t] int64, have been filled."""
        start, stop = (torch.from_numpy(column)[:, None] for column in self.ranges[labels].T)
        places = bins if isinstance(bins, Tensor) else torch.arange(bins.start, bins.stop)
        return (places >= start) & (places < stop)
