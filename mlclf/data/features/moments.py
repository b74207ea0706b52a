"""Weighted mean and deviation of many columns in one pass, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST_UNIT = -1000
"""Exponent of the unit of a column that has not varied yet."""


@dataclass
class Moments:
    """Running weighted mean and sum of squared deviations of W columns, missing values (NaN) left out.

    Parts are merged by the update of Chan, Golub and LeVeque (1979), which does not cancel: a constant of 1e8 has
    deviation 0. Squares are kept in a unit of each column's own, a power of two near its range, so that they neither
    overflow (1e300) nor vanish (1e-300).

    Attributes:
        weight, mean: [W] float64.
        squares: [W] float64, in units of ``4 ** exponent``.
        exponent: [W] int64.
        low, high: [W] float64, least and greatest value; NaN where there is none.
        missing: [W] int64, rows without a value (of any weight).
    """

    weight: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    exponent: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    missing: NDArray[np.int64]

    @classmethod
    def empty(cls, width: int) -> Moments:
        nothing = np.full(width, np.nan)
        return cls(
            weight=np.zeros(width),
            mean=np.zeros(width),
            squares=np.zeros(width),
            exponent=np.full(width, SMALLEST_UNIT, np.int64),
            low=nothing,
            high=nothing.copy(),
            missing=np.zeros(width, np.int64),
        )

    def update(self, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> None:
        """Add rows: values [n, W] float64 with NaN for missing, weights [n] float64 or None for 1."""
        if not len(values):
            return
        low, high = values.min(0), values.max(0)
        if weights is None and np.isfinite(low).all() and np.isfinite(high).all():
            self._add_complete(values, low, high)
            return
        self._extend(np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0))
        middle = self._middle()
        # Half the values and half the middle: their difference cannot overflow.
        with np.errstate(invalid="ignore"):  # a signalling NaN
            offsets = (values / 2 - middle / 2) * np.ldexp(1.0, 1 - self.exponent)
        present = ~np.isnan(values)
        self.missing += len(values) - present.sum(0)
        cells = present if weights is None else weights[:, None] * present
        offsets[~present] = 0.0
        totals = cells.sum(0, dtype=np.float64)
        safe = np.where(totals > 0, totals, 1.0)
        mean = (offsets * cells).sum(0) / safe
        squares = ((offsets - mean) ** 2 * cells).sum(0)
        self._merge(totals, middle, mean, squares)

    def _add_complete(self, values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Add rows of weight 1 in which nothing is missing, in a third of the time."""
        self._extend(low, high)
        middle = self._middle()
        offsets = values * 0.5
        offsets -= middle / 2
        offsets *= np.ldexp(1.0, 1 - self.exponent)
        mean = offsets.mean(0)
        offsets -= mean
        squares = np.einsum("nw,nw->w", offsets, offsets)
        self._merge(np.full(values.shape[1], float(len(values))), middle, mean, squares)

    def _extend(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Take in the least and greatest of new values."""
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        self._widen()

    def _middle(self) -> NDArray[np.float64]:
        return np.nan_to_num(self.low / 2 + self.high / 2)

    def _widen(self) -> None:
        """Raise the unit of each column to the power of two above half its range."""
        with np.errstate(invalid="ignore"):
            half = np.nan_to_num(self.high / 2 - self.low / 2)
        exponent = np.maximum(self.exponent, np.where(half > 0, np.frexp(half)[1], SMALLEST_UNIT))
        self.squares = np.ldexp(self.squares, 2 * np.maximum(self.exponent - exponent, -1100))
        self.exponent = exponent

    def _merge(
        self,
        weight: NDArray[np.float64],
        middle: NDArray[np.float64],
        mean: NDArray[np.float64],
        squares: NDArray[np.float64],
    ) -> None:
        """Add rows whose mean is `mean` units from `middle`."""
        known, new = self.weight > 0, weight > 0
        total = self.weight + weight
        share = weight / np.where(total > 0, total, 1.0)
        apart = np.where(known, self.mean / 2 - middle / 2, 0.0)
        before = np.where(known, np.ldexp(apart, 1 - self.exponent), mean)
        difference = np.where(new, mean - before, 0.0)
        between = np.where(known, difference * difference * self.weight * share, 0.0)
        self.mean = np.where(known | new, middle + np.ldexp(before + difference * share, self.exponent), self.mean)
        self.squares = self.squares + np.where(new, squares, 0.0) + between
        self.weight = total

    def deviation(self) -> NDArray[np.float64]:
        """Population deviation [W]; 1 where the column is constant or empty."""
        result = np.ldexp(np.sqrt(self.squares / np.where(self.weight > 0, self.weight, 1.0)), self.exponent)
        return np.where((result > 0) & ~self.constant(), result, 1.0)

    def constant(self) -> NDArray[np.bool_]:
        """[W] bool: no value, or only one."""
        return ~(self.high > self.low)
