"""RowEncoder: an Arrow table → a slab of encoded rows, with everything that a row carries."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.batch import Slab
from mlclf.data.features.numeric import LARGEST, numeric_values
from mlclf.data.features.table import Features
from mlclf.data.labels import UNOBSERVED, Labels
from mlclf.data.schema import Schema
from mlclf.data.splits import Split
from mlclf.errors import DataError


@dataclass
class RowEncoder:
    """Turns tables into slabs. Safe to call from several threads, each with its own table.

    Attributes:
        labels: None where the data has no labels (or they are not wanted): every cell is then UNOBSERVED.
        key_columns: columns carried along as they are.
    """

    schema: Schema
    features: Features
    labels: Labels | None
    num_labels: int
    split: Split = field(default_factory=Split)
    weight: str | None = None
    key_columns: tuple[str, ...] = ()
    _free: deque[NDArray[np.float32]] = field(default_factory=deque)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read, each once."""
        label_columns = self.schema.labels if self.labels is not None else ()
        others = [self.weight, self.split.group, self.split.time, *self.key_columns]
        names = [*self.schema.feature_columns, *label_columns, *(name for name in others if name)]
        return tuple(dict.fromkeys(names))

    def encode(self, first_row: int, table: pa.Table, place: str, capacity: int) -> Slab:
        """Encode a table whose first row has the number `first_row` into a slab of at least `capacity` rows."""
        num_rows = table.num_rows
        dense = self._buffer(max(capacity, num_rows))
        self.features.encode_dense(table, place, dense)
        tokens = self.features.encode_tokens(table, place)
        lengths = tokens.lengths if tokens.lengths is not None else np.ones(num_rows, np.int64)
        offsets = np.zeros(num_rows + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if self.labels is None:
            codes = np.full((num_rows, self.num_labels), UNOBSERVED, np.uint8)
        else:
            codes = self.labels.encode(table, place)
        return Slab(
            dense=dense,
            ids=tokens.ids,
            offsets=offsets,
            values=tokens.values,
            codes=codes,
            weights=row_weights(table, self.weight, place).astype(np.float32),
            parts=self.split.parts(first_row, table),
            numbers=np.arange(first_row, first_row + num_rows, dtype=np.int64),
            order=np.arange(num_rows, dtype=np.int64),
            place=place,
            keys=table.select(list(self.key_columns)) if self.key_columns else None,
        )

    def release(self, slab: Slab) -> None:
        """Give the memory of a used-up slab back."""
        self._free.append(slab.dense)

    def _buffer(self, capacity: int) -> NDArray[np.float32]:
        try:
            buffer = self._free.popleft()
            if len(buffer) >= capacity:
                return buffer
        except IndexError:
            pass
        return np.zeros((capacity, self.features.num_dense), np.float32)


def row_weights(table: pa.Table, column: str | None, place: str) -> NDArray[np.float64]:
    """Weights of the rows: [n] float64, 1 without a weight column.

    Raises:
        DataError: a weight is missing, negative or not finite.
    """
    if column is None:
        return np.ones(table.num_rows)
    where = f"{place} column {column!r}"
    weights = numeric_values(table.column(column), where).astype(np.float64)
    bad = ~(weights >= 0)
    if bad.any():
        first = float(weights[bad][0])
        raise DataError(
            f"{where}: row weights must be 0 or more, found {'null' if np.isnan(first) else first} "
            f"in {int(bad.sum())} rows; fill or drop them where the data is written"
        )
    large = weights > LARGEST
    if large.any():
        raise DataError(
            f"{where}: row weights must be 0 or more and fit float32 (up to 3.4e38), found {float(weights[large][0])} "
            f"in {int(large.sum())} rows; scale them where the data is written"
        )
    return weights
