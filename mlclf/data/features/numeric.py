"""Numeric columns and embeddings: standardized, mean for missing, an indicator where anything was missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import as_floats, one_array
from mlclf.data.arrow.lists import null_inside
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
class NumericFeature:
    """A numeric column (width 1) or an embedding (width elements).

    Dense inputs: the elements, unless all are constant, then one indicator where anything was missing.

    Attributes:
        has_value: whether the elements are inputs; known once fitted, as has_indicator is. What is constant is dropped.
        has_indicator: whether "is missing" is an input.
        filled: missing values that took the training mean.
        clipped: values that do not fit float32 after scaling, and became its largest.
    """

    name: str
    width: int
    is_embedding: bool
    moments: Moments
    standardize: bool = True
    has_value: bool = False
    has_indicator: bool = False
    filled: Tally = field(default_factory=Tally)
    clipped: Tally = field(default_factory=Tally)

    @classmethod
    def fresh(cls, name: str, width: int, standardize: bool) -> NumericFeature:
        return cls(name, max(1, width), width > 0, Moments.empty(max(1, width)), standardize)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        values = self._values(table, where)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            wide = values.astype(np.float64, copy=False)
        self.moments.update(wide.reshape(len(values), self.width), weights)

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
            value = f"column {self.name!r} is constant ({self.moments.low[0]:g}{', …' if self.is_embedding else ''})"
            return f"{value}; only whether it is missing is used" if self.has_indicator else f"{value}; it is left out"
        return None

    def encode(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Write the dense inputs into `out` [width of the block, n] float32, a row for each input."""
        if not self.is_embedding and self._encode_plain(table, out):
            return
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

    @property
    def mean(self) -> float:
        """The mean of a plain column in training."""
        return float(self._mean[0])

    @property
    def deviation(self) -> float:
        """The deviation of a plain column in training."""
        return float(self._deviation[0])

    def unscaled(self, value: float) -> float:
        """The value of a plain column whose input is `value`."""
        return value * self.deviation + self.mean if self.standardize else value

    def is_plain_in(self, table: pa.Table) -> bool:
        """Whether the column is one input of float32 without nulls, which scaling in float32 does not harm."""
        column = table.column(self.name)
        plain = self.has_value and not self.has_indicator and not self.is_embedding and self.standardize
        return plain and column.type == pa.float32() and not column.null_count and _is_safe(self.mean, self.deviation)

    def _encode_plain(self, table: pa.Table, out: NDArray[np.float32]) -> bool:
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
        """What encoding repaired since it was last asked."""
        filled, clipped = self.filled.take(), self.clipped.take()
        lines = []
        if filled and not self.has_indicator:
            lines.append(f"{filled:,} missing values took the training mean (none was missing in training)")
        if clipped:
            lines.append(f"{clipped:,} values beyond float32 became its largest")
        return [f"column {self.name!r}: {line}" for line in lines]

    def finish(self) -> None:
        self._settle(self.moments.deviation())

    def _settle(self, deviation: NDArray[np.float64]) -> None:
        """Fix what encoding needs."""
        moments = self.moments
        self._mean, self._deviation = moments.mean, deviation
        self.has_value = not bool(moments.constant().all())
        self.has_indicator = bool((moments.missing > 0).any()) and not bool(np.isnan(moments.low).all())

    def _values(self, table: pa.Table, where: str) -> NDArray[Any]:
        column = table.column(self.name)
        place = f"{where} column {self.name!r}"
        if not self.is_embedding:
            return numeric_values(column, place)
        array = one_array(column)
        if pa.types.is_null(array.type):
            return np.full((len(array), self.width), np.nan)
        present = ~array.is_null().to_numpy(zero_copy_only=False)
        if not pa.types.is_fixed_size_list(array.type):
            lengths = pc.list_value_length(array).drop_null()
            wrong = lengths.filter(pc.not_equal(lengths, self.width))
            if len(wrong):
                raise DataError(
                    f"{place}: every list of an embedding must have {self.width} elements, as the first one has, found "
                    f"one of {wrong[0].as_py()}; make them of one length, a whole list null where it is missing"
                )
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
        feature._settle(state["deviation"])
        return feature


def _is_safe(mean: float, deviation: float) -> bool:
    """Whether float32 loses nothing that matters in (value − mean) ÷ deviation."""
    return abs(mean) <= 16 * deviation and deviation > SMALLEST_FLOAT32_DEVIATION
