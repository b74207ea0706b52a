"""Which rows are drawn: those of some parts of the split, among those that `data.where` keeps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.parquet.planning import Plan
from mlclf.data.sampling.batch_plan import SPAN_ROWS, Span
from mlclf.data.sampling.splits import Split
from mlclf.data.where.condition import Where


class Census:
    """How many rows of each part of the split every block of a plan holds, as one pass over the data found.

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


@dataclass(frozen=True)
class Selection:
    """The rows that a loader draws.

    Attributes:
        split: the part of each row.
        parts: the parts drawn; None draws all.
        census: needed where more than a row's number decides.
        where: the condition of `data.where`.
    """

    split: Split
    parts: tuple[int, ...] | None = None
    census: Census | None = None
    where: Where | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that `where` needs."""
        return self.where.columns if self.where is not None else ()

    def kept(self, first_row: int, table: pa.Table) -> tuple[NDArray[np.int64], pa.Table]:
        """Numbers [n] and columns of the rows of a table that `where` keeps."""
        numbers = np.arange(first_row, first_row + table.num_rows, dtype=np.int64)
        if self.where is None:
            return numbers, table
        mask = self.where.mask(table)
        return (numbers, table) if mask.all() else (numbers[mask], table.filter(pa.array(mask)))

    def count(self, span: Span) -> int:
        """Rows of a span that are drawn, told without reading them."""
        if self.census is not None:
            return self.census.count(span, self.parts)
        if self.parts is None:
            return span.rows
        numbers = np.arange(span.first_row, span.first_row + span.rows, dtype=np.int64)
        return int(self.chosen(self.split.parts(numbers, None)).sum())

    def chosen(self, parts: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Which rows of given parts are drawn: [n] → [n]."""
        return np.ones(len(parts), np.bool_) if self.parts is None else np.isin(parts, self.parts)
