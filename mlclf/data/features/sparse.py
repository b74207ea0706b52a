"""Sparse rows: a list column of indices and one of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.batch import Tokens
from mlclf.data.features.numeric import numeric_values
from mlclf.data.labels import list_parts, null_inside
from mlclf.errors import DataError


@dataclass
class SparseFeature:
    """A pair of list columns; values are used as they are, never scaled or centred.

    Attributes:
        width: largest index of the training rows + 1.
        ignored: indices met by `encode` that are beyond the width.
    """

    name: str
    values_name: str
    width: int = 0
    ignored: int = 0

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        _, ids, _ = self._parts(table, where)
        if len(ids):
            self.width = max(self.width, int(ids.max()) + 1)

    def finish(self) -> None:
        """Nothing is left to be worked out."""

    @property
    def vocabulary_size(self) -> int:
        return self.width

    def vocabulary_names(self) -> list[str]:
        return [f"{self.name}[{index}]" for index in range(self.width)]

    def warning(self) -> str | None:
        return None if self.width else f"column {self.name!r} has no index in any row; it is left out"

    def encode(self, table: pa.Table, where: str) -> Tokens:
        lengths, ids, values = self._parts(table, where)
        known = ids < self.width
        if not known.all():
            self.ignored += int((~known).sum())
            rows = np.repeat(np.arange(len(lengths)), lengths)[known]
            lengths = np.bincount(rows, minlength=len(lengths)).astype(np.int64)
            ids, values = ids[known], values[known]
        return Tokens(lengths, ids, values)

    def _parts(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        offsets, indices = self._flat(table, self.name, where)
        value_offsets, values = self._flat(table, self.values_name, where)
        if not np.array_equal(offsets, value_offsets):
            row = int(np.flatnonzero(offsets != value_offsets)[0]) - 1
            raise DataError(
                f"{where}: columns {self.name!r} and {self.values_name!r} must have lists of one length in each row, "
                f"they differ in row {row} of the piece; write both from the same pairs"
            )
        ids = indices.to_numpy(zero_copy_only=False).astype(np.int64) if len(indices) else np.zeros(0, np.int64)
        if len(ids) and ids.min() < 0:
            raise DataError(
                f"{where} column {self.name!r}: indices must be 0 or more, found {int(ids.min())}; "
                "count them from 0 where the data is written"
            )
        place = f"{where} column {self.values_name!r}"
        floats = numeric_values(pa.chunked_array([values]), place).astype(np.float32) if len(values) else ids
        if np.isnan(floats).any():
            raise DataError(null_inside(where, self.values_name))
        return np.diff(offsets), ids, floats.astype(np.float32)

    @staticmethod
    def _flat(table: pa.Table, name: str, where: str) -> tuple[NDArray[np.int64], pa.Array]:
        column = table.column(name)
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if pa.types.is_null(array.type):
            return np.zeros(len(array) + 1, np.int64), pa.array([], pa.int32())
        offsets, values = list_parts(array)
        if values.null_count:
            raise DataError(null_inside(where, name))
        return offsets, values

    def state(self) -> dict[str, Any]:
        return {"values_name": self.values_name, "width": self.width}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any]) -> SparseFeature:
        return cls(name, state["values_name"], state["width"])
