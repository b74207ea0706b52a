"""Linear splines: an input for each knot of a numeric column, so that a linear model can follow curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlclf.data.features.numeric import LARGEST


@dataclass(frozen=True)
class LinearSplines:
    """H inputs more: how far an input is above a knot, 0 below it, standardized. The model stays linear in its inputs.

    With x itself among the inputs, a sum of them is any linear spline with these knots (Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, section 5.2).

    Attributes:
        inputs: [H] int64, which of the dense inputs each belongs to, not falling.
        knots: [H] float32, on the scale of that input, rising for each.
        mean, scale: [H] float32, so that (max(x − knot, 0) − mean) · scale has mean 0 and deviation 1 in training.
    """

    inputs: NDArray[np.int64]
    knots: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fitted(
        cls, values: Iterable[tuple[int, NDArray[np.float32]]], weights: NDArray[np.float64], count: int
    ) -> LinearSplines:
        """Up to so many knots for each input, at even quantiles of its values, or of distinct ones if these are few.

        Args:
            values: index among the dense inputs and values [n] of each input that gets knots, NaN where missing.
            weights: [n], row weights, by which mean and deviation are taken; quantiles are those of the rows.
        """
        found: list[tuple[int, float, float, float]] = []
        for index, column in values:
            for knot in quantile_knots(column[~np.isnan(column)], count):
                above = np.maximum(np.nan_to_num(column, nan=0.0) - knot, 0).astype(np.float64)
                mean = float(np.average(above, weights=weights))
                deviation = float(np.sqrt(np.average((above - mean) ** 2, weights=weights)))
                if deviation > 0:
                    found.append((index, float(knot), mean, 1 / deviation))
        inputs, *floats = np.array(found, np.float64).reshape(-1, 4).T
        return cls(inputs.astype(np.int64), *(each.astype(np.float32) for each in floats))

    def __len__(self) -> int:
        return len(self.inputs)

    def knots_of(self, index: int) -> list[float]:
        """The knots of one of the dense inputs, on its scale."""
        knots: list[float] = self.knots[self.inputs == index].tolist()
        return knots

    def fill(self, rows: NDArray[np.float32]) -> None:
        """Write the last H inputs of rows [n, D + H] float32 from the first D."""
        out = rows[:, rows.shape[1] - len(self) :]
        with np.errstate(over="ignore"):
            np.subtract(rows[:, self.inputs], self.knots, out=out)
            np.maximum(out, 0, out=out)
            np.subtract(out, self.mean, out=out)
            np.multiply(out, self.scale, out=out)
        np.minimum(out, LARGEST, out=out)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restore` takes."""
        return dict(vars(self))

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearSplines | None:
        """Splines from their arrays; None from none."""
        return cls(arrays["inputs"], arrays["knots"], arrays["mean"], arrays["scale"]) if arrays else None


def quantile_knots(values: NDArray[np.float32], count: int) -> Sequence[np.float32]:
    """Up to so many numbers between the least and the greatest value, rising."""
    distinct = np.unique(values)
    if len(distinct) < 3:
        return []
    steps = np.arange(1, count + 1) / (count + 1)
    for among in (values, distinct):
        knots = np.unique(np.quantile(among, steps, method="lower"))
        knots = knots[(knots > distinct[0]) & (knots < distinct[-1])]
        if len(knots) == count:
            break
    return list(knots)


def shortest(numbers: Sequence[float]) -> list[str]:
    """Numbers as text of as few digits as tell them apart, at least six."""
    for digits in range(6, 18):
        texts = [f"{number:.{digits}g}" for number in numbers]
        if len(set(texts)) == len(texts):
            break
    return texts
