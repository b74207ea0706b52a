"""Which rows are held out: hash splits, folds, splits by time or group. A pure function of seed and row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.row_hashes import group_hashes, is_missing, mixed, row_hashes
from mlclf.data.arrow.times import time_values

TRAIN, CHOICE, DECISION = 0, 1, 2
"""Parts of a held-out split: rows trained on, rows that choose l2 and the stopping point, rows for thresholds."""

HALVES = 3
"""Instead of a part: a group whose rows are held out, half for CHOICE and half for DECISION."""


@dataclass(frozen=True, repr=False, eq=False)
class GroupParts:
    """Parts that were given to groups: `parts` [G] int8 of the groups of `hashes` [G] uint64, which rise."""

    hashes: NDArray[np.uint64]
    parts: NDArray[np.int8]

    def of(self, hashes: NDArray[np.uint64], others: NDArray[np.int8]) -> NDArray[np.int8]:
        """Part of each row by the hash of its group [n]; rows of no known group have that of `others` [n]."""
        if not len(self.hashes):
            return others
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[places] == hashes, self.parts[places], others)

    def __repr__(self) -> str:
        """What tells these parts from others, for the names of caches."""
        return f"GroupParts({hashlib.sha256(self.hashes.tobytes() + self.parts.tobytes()).hexdigest()})"


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
    """Which part of the split every row belongs to.

    Attributes:
        kind: `none` (all rows in part `part`), `folds` (part = fold), or `held_out` (TRAIN, CHOICE, DECISION).
        fraction: share of the rows (or groups) held out.
        num_folds: folds of kind `folds`.
        row_folds: the folds of the rows; None where their hashes decide.
        seed: seed of the hash.
        group: column whose value, not the row number, is hashed; a row without a group is one of its own.
        group_parts: the parts of the groups; None where their hashes decide.
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
    group_parts: GroupParts | None = None
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
        hashes = groups = row_hashes(numbers, self.seed)
        if self.group is not None:
            assert table is not None
            groups = group_hashes(table.column(self.group), self.seed)
            hashes = np.where(is_missing(groups, self.seed), hashes, groups)
        if self.kind == "folds":
            folds = (hashes % np.uint64(self.num_folds)).astype(np.int8)
            return folds if self.group_parts is None else self.group_parts.of(groups, folds)
        if self.time is not None:
            assert self.cut is not None
            assert table is not None
            held = time_values(table.column(self.time), self.time) > self.cut
        else:
            return self._held_out_groups(numbers, hashes, groups)
        return np.where(held, _halves(hashes), TRAIN).astype(np.int8)

    def _held_out_groups(
        self, numbers: NDArray[np.int64], hashes: NDArray[np.uint64], groups: NDArray[np.uint64]
    ) -> NDArray[np.int8]:
        parts = held_out_parts(hashes, self.fraction)
        if self.group_parts is None:
            return parts
        parts = self.group_parts.of(groups, parts)
        return np.where(parts == HALVES, _halves(row_hashes(numbers, self.seed)), parts)


def held_out_parts(hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.int8]:
    """TRAIN, CHOICE or DECISION by hash, so that a fraction is held out: [n] int8."""
    held = hashes < np.uint64(min(fraction, 1.0) * 2**64 * (1 - 2**-53))
    return np.where(held, _halves(hashes), TRAIN).astype(np.int8)


def _halves(hashes: NDArray[np.uint64]) -> NDArray[np.int8]:
    """CHOICE or DECISION, by other bits than those that hold rows out: [n] int8."""
    second = mixed(hashes ^ np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(63)
    return np.where(second == 0, CHOICE, DECISION).astype(np.int8)
