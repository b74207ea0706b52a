"""How many rows of each unit belong to each part of the split."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.spans import SPAN_ROWS, Span


class Census:
    """Counts of rows by part of the split, for every block of a plan.

    A block is SPAN_ROWS consecutive rows of a unit, so it costs a byte for each part and 64 rows.
    """

    def __init__(self, plan: Plan, num_parts: int) -> None:
        blocks = [-(-unit.rows // SPAN_ROWS) for unit in plan.units]
        self._first_rows = np.array([unit.first_row for unit in plan.units], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(blocks)])
        self._counts = np.zeros((num_parts, int(self._starts[-1])), np.uint8)

    def add(self, numbers: NDArray[np.int64], parts: NDArray[np.int8]) -> None:
        """Count rows of one unit by their numbers in the plan [n] and their parts [n]."""
        if not len(numbers):
            return
        unit = int(np.searchsorted(self._first_rows, numbers[0], "right")) - 1
        blocks = self._starts[unit] + (numbers - self._first_rows[unit]) // SPAN_ROWS
        for part in np.unique(parts):
            mine = blocks[parts == part]
            first = int(mine[0])
            found = np.bincount(mine - first)
            self._counts[part, first : first + len(found)] += found.astype(np.uint8)

    @property
    def total(self) -> int:
        """Rows of all parts."""
        return int(self._counts.sum())

    def count(self, span: Span, parts: Collection[int] | None) -> int:
        """Rows of a span in some parts; None for all parts."""
        first = int(self._starts[span.unit] + (span.first_row - self._first_rows[span.unit]) // SPAN_ROWS)
        blocks = self._counts[:, first : first - (-span.rows // SPAN_ROWS)]
        return int((blocks if parts is None else blocks[list(parts)]).sum())
