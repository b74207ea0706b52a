"""Weighted mean and deviation of many columns in one pass, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Moments:
    """Running weighted mean and sum of squared deviations of W columns, missing values (NaN) left out.

    Parts are merged by the update of Chan, Golub and LeVeque (1979), which does not cancel: a constant of 1e8 has
    deviation 0.

    Attributes:
        weight, mean, squares: [W] float64.
        low, high: [W] float64, least and greatest value; NaN where there is none.
        missing: [W] int64, rows without a value (of any weight).
    """

    weight: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    missing: NDArray[np.int64]

    @classmethod
    def empty(cls, width: int) -> Moments:
        nothing = np.full(width, np.nan)
        return cls(
            np.zeros(width), np.zeros(width), np.zeros(width), nothing, nothing.copy(), np.zeros(width, np.int64)
        )

    def update(self, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> None:
        """Add rows: values [n, W] float64 with NaN for missing, weights [n] float64 or None for 1."""
        present = ~np.isnan(values)
        self.missing += len(values) - present.sum(0)
        complete = bool(present.all())
        cells = np.ones(values.shape[0]) if weights is None else weights
        if complete:
            totals = np.full(values.shape[1], cells.sum())
            filled = values
            cell_weights: NDArray[np.float64] = cells[:, None]
        else:
            filled = np.where(present, values, 0.0)
            cell_weights = cells[:, None] * present
            totals = cell_weights.sum(0)
        safe = np.maximum(totals, np.finfo(np.float64).tiny)
        low, high = self._extremes(values, complete)
        middle = low / 2 + high / 2
        middle = np.where(np.isnan(middle), 0.0, middle)
        shifted = filled - middle
        mean = middle + (shifted * cell_weights).sum(0) / safe
        with np.errstate(over="ignore"):
            deviations = filled - mean
            squares = (deviations * deviations * cell_weights).sum(0)
        self._merge(totals, mean, squares)
        self.low = np.fmin(self.low, low)
        self.high = np.fmax(self.high, high)

    @staticmethod
    def _extremes(values: NDArray[np.float64], complete: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not len(values):
            nothing = np.full(values.shape[1], np.nan)
            return nothing, nothing
        if complete:
            return values.min(0), values.max(0)
        return np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)

    def _merge(self, weight: NDArray[np.float64], mean: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        total = self.weight + weight
        share = weight / np.where(total > 0, total, 1.0)
        difference = np.where(weight > 0, np.where(self.weight > 0, mean - self.mean, mean), 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            between = np.where(self.weight > 0, difference * difference * self.weight * share, 0.0)
        self.mean = np.where(self.weight > 0, self.mean + difference * share, np.where(weight > 0, mean, self.mean))
        self.squares = self.squares + np.where(weight > 0, squares, 0.0) + between
        self.weight = total

    def deviation(self) -> NDArray[np.float64]:
        """Population deviation [W]; 1 where the column is constant or empty.

        Where squares overflow (values beyond 1e154), half the range stands in for the deviation.
        """
        result = np.sqrt(self.squares / np.where(self.weight > 0, self.weight, 1.0))
        result = np.where(np.isfinite(result), result, self.high / 2 - self.low / 2)
        return np.where((result > 0) & np.isfinite(result) & (self.high > self.low), result, 1.0)

    def constant(self) -> NDArray[np.bool_]:
        """[W] bool: no value, or only one."""
        return ~(self.high > self.low)
