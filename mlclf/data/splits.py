"""Which rows are held out: hash splits, folds, splits by time or group. A pure function of seed and row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.identities import value_hashes
from mlclf.data.times import time_values

TRAIN, CHOICE, DECISION = 0, 1, 2
"""Parts of a held-out split: rows trained on, rows that choose l2 and the stopping point, rows for thresholds."""


@dataclass(frozen=True, repr=False, eq=False)
class RowFolds:
    """Folds that were given to rows one by one: `folds` [n] int8, by the rows' numbers in the plan."""

    folds: NDArray[np.int8]

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.int8]:
        """Fold of each row, by number: [m] int8."""
        return self.folds[numbers]

    def __repr__(self) -> str:
        """What tells these folds from others, for the names of caches."""
        return f"RowFolds({hashlib.sha256(self.folds.tobytes()).hexdigest()})"


@dataclass(frozen=True)
class Split:
    """Assigns every row to a part.

    Attributes:
        kind: `none` (all rows in part `part`), `folds` (part = fold), or `held_out` (TRAIN, CHOICE, DECISION).
        fraction: share of the rows (or groups) held out.
        num_folds: folds of kind `folds`.
        row_folds: the folds of the rows; None where their hashes decide.
        seed: seed of the hash.
        group: column whose value, not the row number, is hashed.
        time: column by which the latest rows are held out.
        cut: with `time`, rows later than this value (in the units of `time_values`) are held out.
    """

    kind: str = "none"
    part: int = TRAIN
    fraction: float = 0.0
    num_folds: int = 0
    row_folds: RowFolds | None = None
    seed: int = 0
    group: str | None = None
    time: str | None = None
    cut: float | None = None

    @property
    def num_parts(self) -> int:
        return {"none": 1, "folds": self.num_folds, "held_out": 3}[self.kind]

    @property
    def by_number(self) -> bool:
        """Whether a row's number alone decides its part."""
        return self.kind == "none" or (self.group is None and self.time is None)

    def parts(self, numbers: NDArray[np.int64], table: pa.Table | None) -> NDArray[np.int8]:
        """Part of each row: [n] int8.

        Args:
            numbers: [n], the rows' numbers in the plan.
            table: their columns; None will do where the number alone decides.
        """
        if self.kind == "none":
            return np.full(len(numbers), self.part, np.int8)
        if self.row_folds is not None:
            return self.row_folds.of(numbers)
        if self.group is None:
            hashes = row_hashes(numbers, self.seed)
        else:
            assert table is not None
            hashes = group_hashes(table.column(self.group), self.seed)
        if self.kind == "folds":
            return (hashes % np.uint64(self.num_folds)).astype(np.int8)
        if self.time is not None:
            assert self.cut is not None
            assert table is not None
            held = time_values(table.column(self.time), self.time) > self.cut
        else:
            held = hashes < np.uint64(min(self.fraction, 1.0) * 2**64 * (1 - 2**-53))
        second = mixed(hashes ^ np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(63)
        return np.where(held, np.where(second == 0, CHOICE, DECISION), TRAIN).astype(np.int8)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): [n] uint64 → [n] uint64."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def row_hashes(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Hash of (seed, row number): [n] uint64."""
    with np.errstate(over="ignore"):
        start = mixed(np.array([seed], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return mixed((numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + start)


def group_hashes(column: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """Hash of (seed, value) for each row; equal values of whatever type, and nulls, hash alike: [n] uint64."""
    return mixed(value_hashes(column, seed))
