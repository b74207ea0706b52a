"""Numeric columns and embeddings: standardized, mean for missing, an indicator where anything was missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.features.moments import Moments
from mlclf.data.labels import null_inside
from mlclf.errors import DataError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def numeric_values(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """The numbers of a column, NaN for null: [n] float32 where the column is narrow, else float64.

    Dates, times and durations are seconds; booleans are 0 and 1.

    Raises:
        DataError: a value is infinite.
    """
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values = _as_floats(array)
    if values.size and not np.isfinite(values.sum(dtype=np.float64)):
        infinite = np.isinf(values)
        if infinite.any():
            raise DataError(
                f"{where}: values must be finite, found {int(infinite.sum())} infinite; "
                "replace them by null (missing) or by a number where the data is written, or leave the column out "
                "with --exclude"
            )
    return values


def _as_floats(array: pa.Array) -> NDArray[Any]:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_floating(kind):
        return np.asarray(array.to_numpy(zero_copy_only=False), np.float32 if kind.bit_width <= 32 else np.float64)
    if pa.types.is_boolean(kind):
        return np.asarray(pc.cast(array, pa.float32()).to_numpy(zero_copy_only=False))
    if pa.types.is_integer(kind):
        narrow = kind.bit_width <= 16
        target = pa.float32() if narrow else pa.float64()
        return np.asarray(pc.cast(array, target, safe=False).to_numpy(zero_copy_only=False))
    scale = 1.0
    if pa.types.is_temporal(kind):
        scale = _seconds_per_unit(kind)
        array = pc.cast(array, pa.int32() if kind.bit_width == 32 else pa.int64())
    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)) * scale


def _seconds_per_unit(kind: pa.DataType) -> float:
    if pa.types.is_date32(kind):
        return 86_400.0
    if pa.types.is_date64(kind):
        return 1e-3
    return SECONDS[kind.unit]


@dataclass
class NumericFeature:
    """A numeric column (width 1) or an embedding (width elements).

    Dense inputs: its elements that vary (all of them for an embedding), then one indicator where anything was missing.
    """

    name: str
    width: int
    is_embedding: bool
    moments: Moments
    standardize: bool = True
    filled: int = 0

    @classmethod
    def fresh(cls, name: str, width: int, standardize: bool) -> NumericFeature:
        return cls(name, max(1, width), width > 0, Moments.empty(max(1, width)), standardize)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        values = self._values(table, where)
        self.moments.update(values.astype(np.float64, copy=False).reshape(len(values), self.width), weights)

    @property
    def has_value(self) -> bool:
        """Whether the elements are inputs: a constant numeric column is dropped."""
        return self.is_embedding or not bool(self.moments.constant()[0])

    @property
    def has_indicator(self) -> bool:
        some = self.moments.missing > 0
        return bool(some.any()) and not np.isnan(self.moments.low).all()

    def dense_names(self) -> list[str]:
        names = []
        if self.has_value:
            names = [f"{self.name}[{index}]" for index in range(self.width)] if self.is_embedding else [self.name]
        return names + ([f"{self.name}:missing"] if self.has_indicator else [])

    @property
    def vocabulary_size(self) -> int:
        return 0

    def warning(self) -> str | None:
        """Why the column is dropped, if it is."""
        if np.isnan(self.moments.low).all():
            return f"column {self.name!r} has no value in any row; it is left out"
        if not self.has_value:
            return f"column {self.name!r} is constant ({self.moments.low[0]:g}); it is left out"
        return None

    def encode(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Write the dense inputs into `out` [width of the block, n] float32, a row for each input."""
        values = self._values(table, where)
        if self.is_embedding:
            self._encode_elements(values, out)
            return
        row = 0
        missing = np.isnan(values)
        any_missing = bool(missing.any())
        if self.has_value:
            self._scaled(values, 0, out[0])
            if any_missing:
                fill = 0.0 if self.standardize else self.moments.mean[0]
                out[0][missing] = fill
                self.filled += int(missing.sum())
            row = 1
        if self.has_indicator:
            out[row] = missing

    def _encode_elements(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        missing = np.isnan(values)
        any_missing = bool(missing.any())
        for index in range(self.width):
            self._scaled(values[:, index], index, out[index])
            if any_missing:
                out[index][missing[:, index]] = 0.0 if self.standardize else self.moments.mean[index]
        if any_missing:
            self.filled += int(missing.any(1).sum())
        if self.has_indicator:
            out[self.width] = missing.any(1)

    def _scaled(self, values: NDArray[Any], index: int, out: NDArray[np.float32]) -> None:
        """(value − mean) ÷ deviation; in float64 unless float32 loses nothing that matters."""
        with np.errstate(over="ignore", invalid="ignore"):
            if not self.standardize:
                np.copyto(out, np.clip(values, -3.4e38, 3.4e38), casting="same_kind")
                return
            mean, deviation = self._mean[index], self._deviation[index]
            if values.dtype == np.float32 and abs(mean) <= 16 * deviation:
                np.subtract(values, np.float32(mean), out=out)
                np.multiply(out, np.float32(1 / deviation), out=out)
            else:
                np.divide(values.astype(np.float64, copy=False) - mean, deviation, out=out, casting="same_kind")

    def finish(self) -> None:
        self._mean = self.moments.mean
        self._deviation = self.moments.deviation()

    def _values(self, table: pa.Table, where: str) -> NDArray[Any]:
        column = table.column(self.name)
        place = f"{where} column {self.name!r}"
        if not self.is_embedding:
            return numeric_values(column, place)
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if pa.types.is_null(array.type):
            return np.full((len(array), self.width), np.nan)
        present = ~array.is_null().to_numpy(zero_copy_only=False)
        inside = array.flatten()
        if inside.null_count:
            raise DataError(null_inside(where, self.name))
        values = numeric_values(pa.chunked_array([inside]), place).reshape(-1, self.width)
        if present.all():
            return values
        result = np.full((len(array), self.width), np.nan, values.dtype)
        result[present] = values
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        moments = self.moments
        return {
            "mean": moments.mean,
            "deviation": moments.deviation(),
            "low": moments.low,
            "high": moments.high,
            "missing": moments.missing,
        }

    @classmethod
    def restore(cls, name: str, width: int, standardize: bool, state: Mapping[str, NDArray[Any]]) -> NumericFeature:
        feature = cls.fresh(name, width, standardize)
        moments = feature.moments
        moments.mean, moments.low, moments.high = state["mean"], state["low"], state["high"]
        moments.missing = state["missing"].astype(np.int64)
        feature._mean, feature._deviation = state["mean"], state["deviation"]
        return feature
