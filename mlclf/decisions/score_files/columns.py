"""Columns of Parquet files that hold a number for each row and label: wide, or one column of lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import as_floats, is_list, one_array, transpose
from mlclf.data.arrow.families import family
from mlclf.data.arrow.lists import list_parts
from mlclf.errors import DataError
from mlclf.machine.memory import Recycler

PROBABILITY, LOGIT = "probability", "logit"
KIND_KEY = b"mlclf_score_kind"
"""Metadata of a Parquet schema by which a file says what its scores are."""

LOSS_CLIP = 1e-7
"""Probabilities are held this far from 0 and 1 where a log-loss is taken from them."""

LARGEST_LOGIT = 1e4
"""Logits are held within it; a float32 probability is 0 or 1 long before."""

LARGEST_RANKS = {PROBABILITY: 800.0, LOGIT: 8e307}
"""What an infinite logit counts as, and that of a probability of 0 or 1; the least that is neither has -744."""

LARGEST_FILE_LOGIT = 30.0
"""The logit that a probability of exactly 1 counts as; 0 counts as its negative."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a table come from.

    Attributes:
        text: the file and row groups.
        first_row: the number of the first row in its file.
        file: the name of the file.
    """

    text: str
    first_row: int
    file: str

    def __str__(self) -> str:
        return self.text

    def row(self, index: int) -> str:
        """Name one row of the table."""
        return f"{self.file} row {self.first_row + index}"


@dataclass(frozen=True)
class CellColumns:
    """Where a number for each of K labels stands: in K columns, or in one column of lists of K.

    Attributes:
        names: K columns in the order of the labels, or one of lists.
        num_labels: K.
    """

    names: tuple[str, ...]
    num_labels: int
    is_list: bool = False

    def floats(self, table: pa.Table, place: Place, kind: type[np.floating[Any]], memory: Recycler) -> NDArray[Any]:
        """The numbers, NaN for null: [K, n] of `kind`, contiguous, in memory that comes back once nobody has them.

        Raises:
            DataError: a list does not have K elements.
        """
        out = memory.array((self.num_labels, table.num_rows), kind)
        if self.is_list:
            rows = list_rows(one_array(table.column(self.names[0])), self.num_labels, place, self.names[0])
            flat = memory.array((table.num_rows, self.num_labels), kind)
            flat[:] = as_floats(rows).reshape(flat.shape)
            transpose(flat, out)
            return out
        with np.errstate(over="ignore"):  # beyond float32 is infinite there too
            for index, name in enumerate(self.names):
                out[index] = _column_floats(table.column(name))
        return out

    def name_of(self, index: int) -> str:
        """Where the numbers of one label stand, for messages."""
        return f"column {self.names[0]!r} element {index}" if self.is_list else f"column {self.names[index]!r}"


def _column_floats(column: pa.ChunkedArray) -> NDArray[Any]:
    if column.num_chunks == 1 and pa.types.is_float32(column.type) and not column.null_count:
        return np.asarray(column.chunk(0).to_numpy())
    return as_floats(one_array(column))


def list_rows(array: pa.Array, size: int, place: Place, name: str) -> pa.Array:
    """The elements of lists of `size`, one after the other, nulls for a null list: [n · size].

    Raises:
        DataError: a list has another length; names the file and the row.
    """
    offsets, values = list_parts(array)
    lengths = np.diff(offsets)
    absent = np.asarray(array.is_null())
    bad = (lengths != size) & ~absent
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{place.row(row)} column {name!r}: a list must have {size:,} elements, one for each label, "
            f"found {int(lengths[row]):,}; write one for each label, in the order of the labels"
        )
    if not absent.any():
        return values
    indices = np.repeat(np.cumsum(~absent) - 1, size) * size + np.tile(np.arange(size), len(array))
    return values.take(pa.array(indices, mask=np.repeat(absent, size)))


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column, or the lists of one, can hold numbers."""
    kind = kind.value_type if is_list(kind) else kind
    return family(kind) in ("number", "null") and not pa.types.is_temporal(kind)


def read_scores(
    table: pa.Table, columns: CellColumns, kind: str, place: Place, memory: Recycler
) -> NDArray[np.float32]:
    """The scores of a table as they are in the file: [K, n] float32.

    Raises:
        DataError: a score is null or NaN, or a probability is outside [0, 1].
    """
    return checked_scores(columns.floats(table, place, np.float32, memory), columns, kind, place)


def checked_scores(scores: NDArray[np.float32], columns: CellColumns, kind: str, place: Place) -> NDArray[np.float32]:
    """The scores [K, n], if they are ones; see `read_scores`."""
    if not scores.size:
        return scores
    low, high = scores.min(1), scores.max(1)  # NaN where there is one
    bad = ~((low >= 0) & (high <= 1)) if kind == PROBABILITY else np.isnan(low)
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise DataError(f"{place} {columns.name_of(index)}: {_score_problem(scores[index])}")
    return scores


def _score_problem(scores: NDArray[np.float32]) -> str:
    missing = int(np.isnan(scores).sum())
    if missing:
        return f"scores must be numbers, found {missing} null or NaN; drop these rows or score them again"
    outside = scores[(scores < 0) | (scores > 1)]
    return f"probabilities must be in [0, 1], found {float(outside[0])!r}; if these are logits, say --score-kind logit"


def file_logits(
    scores: NDArray[np.float32], kind: str, limit: float | None = None, memory: Recycler | None = None
) -> NDArray[np.float32]:
    """Finite logits of scores of either kind, element by element, not falling: float32 of any shape.

    The logarithm is taken in float64, in which neighbours in float32 never change places.

    Args:
        scores: float32; probabilities within [0, 1], or logits.
        limit: the largest logit; None is LARGEST_FILE_LOGIT for probabilities, LARGEST_LOGIT for logits.
        memory: where the logits of probabilities are to be.
    """
    limit = (LARGEST_LOGIT if kind == LOGIT else LARGEST_FILE_LOGIT) if limit is None else limit
    if kind == LOGIT:
        within = not scores.size or bool(scores.max() <= limit and scores.min() >= -limit)
        return scores if within else np.clip(scores, -limit, limit)
    logits: NDArray[np.float32] = (memory or Recycler(0)).array(scores.shape, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for index in np.ndindex(scores.shape[:-1]):  # row by row, so that float64 stays in the processor's cache
            odds = scores[index].astype(np.float64)
            np.divide(odds, 1 - odds, out=odds)
            np.log(odds, out=odds)
            logits[index] = np.clip(odds, -limit, limit, out=odds)
    return logits


def rank_logits(scores: NDArray[np.floating[Any]], kind: str) -> NDArray[np.float64]:
    """Finite logits of scores as they are, element by element, not falling: float64 of any shape.

    Scores in float32 that differ have different ones, and so have logits in float64. Probabilities in float64 have from
    a relative difference of 1e-14 on.

    Args:
        scores: float32 or float64; probabilities (beyond [0, 1] they count as its ends), or logits.
    """
    wide = scores.astype(np.float64)
    if kind == PROBABILITY:
        np.clip(wide, 0, 1, out=wide)
        with np.errstate(divide="ignore"):
            wide = np.log(wide) - np.log1p(-wide)
    return np.clip(wide, -LARGEST_RANKS[kind], LARGEST_RANKS[kind], out=wide)
