"""Bins of the logit: how many there are, what they hold, and where their middle is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BYTES_PER_BIN = 16
"""Two int32 counts and two float32 ends. Weights other than 1 make it 24, with their squares 40; float64 ends add 8."""

BUDGET_BYTES = 1000 * 65_536 * BYTES_PER_BIN
SLICE_BYTES = 64 << 20
SLICE_CELLS = 1 << 22
_FEW_ROWS = 64


def bins_for(num_labels: int, budget_bytes: int = BUDGET_BYTES, ends: torch.dtype = torch.float32) -> int:
    """Return how many bins a label gets: 65,536, halved until all labels fit the budget, never below 256.

    The default budget, 1.05 GB, gives 65,536 bins to 1,000 labels and 1,024 to 50,000.
    """
    num_bins, bin_bytes = 65_536, BYTES_PER_BIN + 2 * (ends.itemsize - torch.float32.itemsize)
    while num_bins > 256 and num_labels * num_bins * bin_bytes > budget_bytes:
        num_bins //= 2
    return num_bins


def row_slices(num_rows: int, num_labels: int) -> Iterator[slice]:
    """Yield slices of rows of about four million cells, so that temporaries stay small whatever the batch."""
    step = max(1, SLICE_CELLS // max(1, num_labels))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


class Counts:
    """Sums of weights [K, T], read as float64: ``counts[labels]`` widens only the part that is asked for."""

    def __init__(self, stored: Tensor) -> None:
        self.stored = stored
        self.shape, self.device = stored.shape, stored.device

    def __getitem__(self, part: Any) -> Tensor:
        return self.stored[part].double()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float64]:
        return np.asarray(self.stored.cpu().numpy(), dtype=dtype or np.float64)


def middle_of(values_of: Callable[[Tensor], Tensor], least: Tensor, greatest: Tensor) -> Tensor:
    """Float64, the middle of the values of the least and the greatest logit of bins; that of 0 in an empty bin."""
    low, high = (values_of(end.nan_to_num(posinf=0.0, neginf=0.0)).double() for end in (least, greatest))
    return (low + high) / 2


def take_bins(values: Tensor, bins: Tensor) -> Tensor:
    """Values [..., T] at some bins [t] int64: [..., t]."""
    if values.shape[:-1].numel() > _FEW_ROWS:
        return values[..., bins]
    rows = [row.index_select(0, bins) for row in values.reshape(-1, values.shape[-1])]  # ten times as fast in a row
    return torch.stack(rows).view(*values.shape[:-1], len(bins))
