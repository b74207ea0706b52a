"""Numeric columns: standardized, the mean where a value is missing, an indicator where one was missing in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import as_floats, one_array
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.moments import Moments
from mlclf.errors import DataError
from mlclf.machine.tally import Tally

LARGEST = float(np.finfo(np.float32).max)
SMALLEST_FLOAT32_DEVIATION = 1e-30
"""Below it the reciprocal comes near the end of float32."""


def numeric_values(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """The numbers of a column as `as_floats` gives them: [n] float32 or float64, NaN for null.

    Raises:
        DataError: a value is infinite.
    """
    values = as_floats(one_array(column))
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total):
        infinite = np.isinf(values)
        if infinite.any():
            raise DataError(
                f"{where}: values must be finite, found {int(infinite.sum())} infinite; "
                "replace them by null (missing) or by a number where the data is written, or leave the column out "
                "of a fit with --exclude"
            )
    return values


@dataclass
class NumericColumn(FittedColumn):
    """One number a row; numbers, booleans, dates and times alike.

    Dense inputs: the value, unless it is constant, then one indicator where anything was missing.

    Attributes:
        width: values a row.
        has_value: whether the values are inputs; known once fitted, as has_indicator is. What is constant is dropped.
        has_indicator: whether "is missing" is an input.
        filled: missing values that took the training mean.
        clipped: values that do not fit float32 after scaling, and became its largest.
    """

    role = "numeric"
    families: ClassVar[tuple[str, ...]] = ("number", "null")
    suggested_by: ClassVar[tuple[str, ...]] = families
    takes_splines = True

    name: str
    standardize: bool = True
    width: int = 1
    has_value: bool = False
    has_indicator: bool = False
    filled: Tally = field(default_factory=Tally)
    clipped: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.moments = Moments.empty(self.width)

    @classmethod
    def row_bytes(cls, column: FeatureColumn, items: float) -> float:
        return 4 * max(1, column.width)

    @classmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        return cls(column.name, options.standardize, max(1, column.width))

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        values = self._values(table, where)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            wide = values.astype(np.float64, copy=False)
        self.moments.update(wide.reshape(len(values), self.width), weights)

    def finish(self) -> None:
        self._settle(self.moments.deviation())

    def _settle(self, deviation: NDArray[np.float64]) -> None:
        """Fix what encoding needs."""
        moments = self.moments
        self._mean, self._deviation = moments.mean, deviation
        self.has_value = not bool(moments.constant().all())
        self.has_indicator = bool((moments.missing > 0).any()) and not bool(np.isnan(moments.low).all())

    def warning(self) -> str | None:
        if np.isnan(self.moments.low).all():
            return f"column {self.name!r} has no value in any row; it is left out"
        if not self.has_value:
            value = f"column {self.name!r} is constant ({self._constant()})"
            return f"{value}; only whether it is missing is used" if self.has_indicator else f"{value}; it is left out"
        return None

    def _constant(self) -> str:
        return f"{self.moments.low[0]:g}"

    def _value_names(self) -> list[str]:
        return [self.name]

    def dense_names(self) -> list[str]:
        names = self._value_names() if self.has_value else []
        return [*names, f"{self.name}:missing"] if self.has_indicator else names

    @property
    def num_dense(self) -> int:
        return self.num_values + self.has_indicator

    @property
    def num_values(self) -> int:
        return self.width if self.has_value else 0

    @property
    def scaling(self) -> tuple[float, float]:
        return float(self._mean[0]), float(self._deviation[0])

    def unscaled(self, value: float) -> float:
        mean, deviation = self.scaling
        return value * deviation + mean if self.standardize else value

    def is_float32_in(self, table: pa.Table) -> bool:
        column = table.column(self.name)
        is_one_input = self.has_value and not self.has_indicator and self.standardize
        return is_one_input and column.type == pa.float32() and not column.null_count and _is_safe(*self.scaling)

    def encode_dense(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        if not self._encode_complete(table, out):
            self._encode_carefully(table, where, out)

    def _encode_complete(self, table: pa.Table, out: NDArray[np.float32]) -> bool:
        """Encode in two passes what has nothing missing, infinite or too large; False where there may be such a value.

        Two passes over the values and one over their sum are a third of the work of looking at each kind of trouble.
        """
        column = table.column(self.name)
        if column.null_count or not (self.standardize and self.has_value):
            return False
        values, mean, deviation = as_floats(one_array(column)), self._mean[0], self._deviation[0]
        if values.dtype != np.float32:
            np.multiply(values - mean, 1 / deviation, out=out[0], casting="same_kind")
        elif _is_safe(mean, deviation):
            np.subtract(values, np.float32(mean), out=out[0])
            np.multiply(out[0], np.float32(1 / deviation), out=out[0])
        else:
            return False
        if not np.isfinite(np.add.reduce(out[0])):
            return False
        if self.has_indicator:
            out[-1] = 0
        return True

    def _encode_carefully(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        values = self._values(table, where).reshape(table.num_rows, self.width)
        missing = np.isnan(values)
        any_missing = bool(missing.any())
        if self.has_value:
            for index in range(self.width):
                self._scaled(values[:, index], index, out[index])
                if any_missing:
                    out[index][missing[:, index]] = self._fill(index)
            if any_missing:
                self.filled.add(missing.any(1).sum())
        if self.has_indicator:
            out[-1] = missing.any(1)

    def _fill(self, index: int) -> float:
        """The mean, after scaling."""
        return 0.0 if self.standardize else float(np.clip(self._mean[index], -LARGEST, LARGEST))

    def _scaled(self, values: NDArray[Any], index: int, out: NDArray[np.float32]) -> None:
        """(value − mean) ÷ deviation; in float64 unless float32 loses nothing that matters."""
        mean, deviation = self._mean[index], self._deviation[index]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if not self.standardize:
                np.copyto(out, values, casting="same_kind")
            elif values.dtype == np.float32 and _is_safe(mean, deviation):
                np.subtract(values, np.float32(mean), out=out)
                np.multiply(out, np.float32(1 / deviation), out=out)
            else:
                # Halves, because the difference of two doubles can be too large for one.
                halves = values.astype(np.float64, copy=False) / 2 - mean / 2
                np.copyto(out, halves / deviation * 2, casting="same_kind")
        if not np.isfinite(out).all():
            infinite = np.isinf(out)
            self.clipped.add(infinite.sum())
            out[infinite] = np.copysign(np.float32(LARGEST), out[infinite])

    def counted(self) -> list[str]:
        filled, clipped = self.filled.take(), self.clipped.take()
        lines = []
        if filled and not self.has_indicator:
            lines.append(f"{filled:,} missing values took the training mean (none was missing in training)")
        if clipped:
            lines.append(f"{clipped:,} values beyond float32 became its largest")
        return [f"column {self.name!r}: {line}" for line in lines]

    def _values(self, table: pa.Table, where: str) -> NDArray[Any]:
        """The numbers of a table, NaN where they are missing: [n], or [n, width]."""
        return numeric_values(table.column(self.name), f"{where} column {self.name!r}")

    def state(self) -> dict[str, Any]:
        return {"width": self.width, "standardize": self.standardize}

    def arrays(self) -> dict[str, NDArray[Any]]:
        moments = self.moments
        return {
            "mean": moments.mean,
            "deviation": self._deviation,
            "low": moments.low,
            "high": moments.high,
            "missing": moments.missing,
        }

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        column = cls(name, state["standardize"], state["width"])
        moments = column.moments
        moments.mean, moments.low, moments.high = arrays["mean"], arrays["low"], arrays["high"]
        moments.missing = arrays["missing"].astype(np.int64)
        column._settle(arrays["deviation"])
        return column


def _is_safe(mean: float, deviation: float) -> bool:
    """Whether float32 loses nothing that matters in (value − mean) ÷ deviation."""
    return abs(mean) <= 16 * deviation and deviation > SMALLEST_FLOAT32_DEVIATION
