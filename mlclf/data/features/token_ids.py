"""Ids of rows in a vocabulary: those of several columns beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class TokenIds:
    """Ids of n rows in a vocabulary, of one column or of several.

    Attributes:
        lengths: [n] int64, ids of each row, or None where each row has exactly one.
        ids: [sum of lengths] int64.
        values: [sum of lengths] float32, or None where all are 1.
    """

    lengths: NDArray[np.int64] | None
    ids: NDArray[np.int64]
    values: NDArray[np.float32] | None = None


def joined_ids(parts: Sequence[TokenIds], num_rows: int) -> TokenIds:
    """Put the ids of several columns beside each other, row by row, in column order."""
    if not parts:
        return TokenIds(np.zeros(num_rows, np.int64), np.zeros(0, np.int64))
    if len(parts) == 1 and parts[0].lengths is not None:
        return parts[0]
    if all(part.lengths is None and part.values is None for part in parts):
        ids = np.stack([part.ids for part in parts], axis=1).reshape(-1)
        return TokenIds(np.full(num_rows, len(parts), np.int64), ids)
    lengths = [np.ones(num_rows, np.int64) if part.lengths is None else part.lengths for part in parts]
    totals = np.sum(lengths, axis=0)
    starts = np.cumsum(totals) - totals
    ids = np.empty(int(totals.sum()), np.int64)
    values = np.ones(len(ids), np.float32) if any(part.values is not None for part in parts) else None
    for part, part_lengths in zip(parts, lengths, strict=True):
        targets = joined_ranges(starts, part_lengths)
        ids[targets] = part.ids
        if values is not None and part.values is not None:
            values[targets] = part.values
        starts = starts + part_lengths
    return TokenIds(totals, ids, values)


def joined_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers start, start + 1, … of each range, one range after the other: [sum of lengths] int64.

    >>> joined_ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    begins = np.repeat(starts - (ends - lengths), lengths)
    return np.asarray(np.arange(total) + begins, np.int64)
