"""Hashes of rows and of groups: what splits and folds are drawn by."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.identities import value_hashes


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


def is_missing(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.bool_]:
    """Which hashes of `group_hashes` are of a null or NaN: [n] bool."""
    return np.asarray(hashes == _hash_of_missing(seed))


@cache
def _hash_of_missing(seed: int) -> np.uint64:
    found: np.uint64 = group_hashes(pa.chunked_array([pa.array([None], pa.string())]), seed)[0]
    return found


def identities_of(column: pa.ChunkedArray, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hashes of what rows belong together by: [n] int64; a row without a value stands alone, by its number [n]."""
    hashes = group_hashes(column, 0)
    return np.where(is_missing(hashes, 0), row_hashes(numbers, 0), hashes).view(np.int64)


def group_hashes(column: pa.ChunkedArray, seed: int) -> NDArray[np.uint64]:
    """Hash of (seed, value) for each row; equal values of whatever type, and nulls, hash alike: [n] uint64."""
    return mixed(value_hashes(column, seed))
