"""Which rows are drawn: those of some parts of the split, among those that `data.where` keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.parquet.spans import Span
from mlclf.data.sampling.census import Census
from mlclf.data.sampling.splits import Split
from mlclf.data.where.condition import Where


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
