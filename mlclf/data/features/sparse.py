"""Sparse rows: a list column of indices and one of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.lists import list_parts, null_inside
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.numeric import numeric_values
from mlclf.data.features.token_ids import TokenIds
from mlclf.errors import DataError
from mlclf.machine.tally import Tally

LARGEST_WIDTH = 1 << 31


@dataclass
class SparseColumn(FittedColumn):
    """A pair of list columns, indices and values; values are used as they are, never scaled or centred.

    Attributes:
        width: largest index of the training rows + 1.
        ignored: indices met by `encode_ids` that are beyond the width.
        missing: values met that are NaN; they count as 0.
    """

    role = "sparse"
    families: ClassVar[tuple[str, ...]] = ("integers", "empty")
    second_families: ClassVar[tuple[str, ...]] = ("floats", "integers", "empty")
    gives_ids = True
    smaller = "number its indices from 0 without gaps"

    values_name: str = ""
    width: int = 0
    ignored: Tally = field(default_factory=Tally)
    missing: Tally = field(default_factory=Tally)

    @classmethod
    def second_column(cls, name: str) -> str | None:
        """`values` for `indices`, and `X_values` for `X_indices`."""
        return name.removesuffix("indices") + "values" if name == "indices" or name.endswith("_indices") else None

    @classmethod
    def accepts(cls, column: FeatureColumn, family: str) -> bool:
        return column.values_column is not None

    @classmethod
    def row_bytes(cls, column: FeatureColumn, items: float) -> float:
        return 12 * items

    @classmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        assert column.values_column is not None
        return cls(column.name, column.values_column)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        _, ids, _ = self._parts(table, where)
        if len(ids):
            self.width = max(self.width, int(ids.max()) + 1)

    def finish(self) -> None:
        """Set the counts back: from here on they are of encoded rows."""
        self.missing.take()

    @property
    def vocabulary_size(self) -> int:
        return self.width

    def vocabulary_names(self) -> list[str]:
        return [f"{self.name}[{index}]" for index in range(self.width)]

    def warning(self) -> str | None:
        return None if self.width else f"column {self.name!r} has no index in any row; it is left out"

    def encode_ids(self, table: pa.Table, where: str) -> TokenIds:
        lengths, ids, values = self._parts(table, where)
        known = ids < self.width
        if not known.all():
            self.ignored.add((~known).sum())
            rows = np.repeat(np.arange(len(lengths)), lengths)[known]
            lengths = np.bincount(rows, minlength=len(lengths)).astype(np.int64)
            ids, values = ids[known], values[known]
        return TokenIds(lengths, ids, values)

    def counted(self) -> list[str]:
        beyond, missing = self.ignored.take(), self.missing.take()
        lines = []
        if beyond:
            lines.append(f"column {self.name!r}: {beyond:,} indices beyond {self.width:,} ignored")
        if missing:
            lines.append(f"column {self.values_name!r}: {missing:,} values are NaN and count as 0")
        return lines

    def _parts(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Lengths of the rows, and the indices and values of all of them."""
        offsets, indices = self._flat(table, self.name, where)
        value_offsets, values = self._flat(table, self.values_name, where)
        if not np.array_equal(offsets, value_offsets):
            row = int(np.flatnonzero(np.diff(offsets) != np.diff(value_offsets))[0])
            raise DataError(
                f"{where}: columns {self.name!r} and {self.values_name!r} must have lists of one length in each row, "
                f"found {np.diff(offsets)[row]} indices and {np.diff(value_offsets)[row]} values in one; "
                "write both from the same pairs"
            )
        if not len(indices):
            return np.diff(offsets), np.zeros(0, np.int64), np.zeros(0, np.float32)
        ids = indices.to_numpy(zero_copy_only=False)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= LARGEST_WIDTH:
            raise DataError(
                f"{where} column {self.name!r}: indices must be 0 or more and below {LARGEST_WIDTH:,}, "
                f"found {low if low < 0 else high}; number the inputs from 0 where the data is written"
            )
        return np.diff(offsets), ids.astype(np.int64), self._as_float32(values, where)

    def _as_float32(self, values: pa.Array, where: str) -> NDArray[np.float32]:
        """Values are used as they are, so what float32 cannot hold is refused."""
        place = f"{where} column {self.values_name!r}"
        floats = numeric_values(pa.chunked_array([values]), place)
        missing = np.isnan(floats)
        if missing.any():
            self.missing.add(missing.sum())
            floats = np.where(missing, 0, floats)
        with np.errstate(over="ignore"):
            narrow = floats.astype(np.float32)
        if np.isinf(narrow).any():
            found = float(floats[np.isinf(narrow)][0])
            raise DataError(
                f"{place}: sparse values must fit float32 (up to 3.4e38), found {found!r}; "
                "scale them where the data is written"
            )
        return narrow

    @staticmethod
    def _flat(table: pa.Table, name: str, where: str) -> tuple[NDArray[np.int64], pa.Array]:
        offsets, values = list_parts(one_array(table.column(name)))
        if values.null_count:
            raise DataError(null_inside(where, name))
        return offsets, values

    def state(self) -> dict[str, Any]:
        return {"values_name": self.values_name, "width": self.width}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(name, state["values_name"], state["width"])
