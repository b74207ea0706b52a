"""How many rows equal another in all inputs, counted in one pass and a fixed amount of memory.

Copies of a row that are on both sides of a split let a model recognise what it was trained on: the held-out rows then
say nothing of new rows, and what is chosen by them is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_list, one_array
from mlclf.data.arrow.identities import value_hashes
from mlclf.data.arrow.lists import list_parts
from mlclf.data.arrow.row_hashes import mixed

MOST_HASHES = 1 << 18
"""Rows whose hashes are kept; of more rows a sample by content is, in which copies stay together."""

SAID_FROM = 0.01
"""Share of rows with a copy from which it is said."""

HEAD_ROWS, HEAD_COLUMNS = 8192, 256
LEAST_VALUES = 10
"""Of a column in which clusters are looked for; fewer are levels."""

_MISSING = np.uint64(0x8A5CD789635D2DFF)
_STEP = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class RepeatedRows:
    """Counts rows that are equal to another in all inputs.

    Rows are sampled by the hash of their first inputs, and those drawn are hashed whole, so that data of any size costs
    little more than that.

    Args:
        columns: the inputs, one or more.
        most: rows whose hashes are kept.
    """

    def __init__(self, columns: Sequence[str], most: int = MOST_HASHES) -> None:
        self._columns, self._most = list(columns), most
        self._first: list[str] | None = None
        self._drawn_of = np.uint64(0)  # a mask: rows whose first hash has none of its bits are drawn
        self._kept: list[tuple[Hashes, Hashes]] = []
        self._num_kept = 0
        self._head: list[pa.Table] = []
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table."""
        if self.rows < HEAD_ROWS:
            measured = [name for name in self._columns if pa.types.is_floating(table.schema.field(name).type)]
            self._head.append(table.select(measured[:HEAD_COLUMNS]).slice(0, HEAD_ROWS - self.rows))
        self.rows += table.num_rows
        if self._first is None:
            self._first = _most_telling(table.select(self._columns))
        first = row_hashes(table, self._first)
        drawn = (first & self._drawn_of) == 0
        if not drawn.all():
            first, table = first[drawn], table.filter(pa.array(drawn))
        self._kept.append((first, row_hashes(table, self._columns)))
        self._num_kept += len(first)
        while self._num_kept > self._most and self._drawn_of != np.uint64(2**64 - 1):
            self._draw_fewer()

    def _draw_fewer(self) -> None:
        self._drawn_of = self._drawn_of << np.uint64(1) | np.uint64(1)
        firsts, hashes = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        drawn = (firsts & self._drawn_of) == 0
        self._kept, self._num_kept = [(firsts[drawn], hashes[drawn])], int(drawn.sum())

    @property
    def share(self) -> float:
        """Share of the rows that are equal to another one; of a sample, where not all could be kept."""
        if not self._num_kept:
            return 0.0
        counts = np.unique(np.concatenate([hashes for _, hashes in self._kept]), return_counts=True)[1]
        return float(counts[counts > 1].sum()) / self._num_kept

    def shared_columns(self) -> list[str]:
        """Columns of measured values in which the same rows are equal, as where each row has those of its site.

        They are looked for among the first HEAD_ROWS rows: two columns or more that are no whole numbers, of which
        each value comes with one of the other, and twice on average.
        """
        names = [name for name in self._columns if all(name in table.column_names for table in self._head)]
        values = {name: np.concatenate([row_hashes(table, [name]) for table in self._head]) for name in names}
        repeated = {}
        for name, hashes in values.items():
            count = len(np.unique(hashes))
            if LEAST_VALUES <= count <= len(hashes) / 2 and not all(_is_whole(table[name]) for table in self._head):
                repeated[name] = count
        for first in sorted(repeated, key=lambda name: -repeated[name]):
            alike = [name for name in repeated if repeated[first] <= 1.02 * repeated[name]]
            pairs = {name: mixed(values[first] * _STEP ^ values[name]) for name in alike}
            found = [name for name in alike if len(np.unique(pairs[name])) <= 1.02 * repeated[first]]
            if len(found) > 1:
                return found
        return []

    def warnings(self) -> list[str]:
        """One line where more than SAID_FROM of the rows have a copy, or rows share what is measured; none else."""
        share, remedy = self.share, "if they belong together, name what they share with --group COLUMN"
        if share > SAID_FROM:
            about = "about " if self._drawn_of else ""
            found = f"{about}{round(share * self.rows):,} of {self.rows:,} rows ({share:.1%})"
            told = "held-out rows may be copies of rows trained on, and metrics then too good"
            return [f"{found} repeat another row in all inputs, so {told}: {remedy}"]
        shared = self.shared_columns()
        if not shared:
            return []
        shown = ", ".join(map(repr, shared[:3])) + (f" and {len(shared) - 3} more" if len(shared) > 3 else "")
        told = "held-out rows may be recognised by them, and metrics then too good"
        return [f"rows come in clusters of equal values of {shown}, so {told}: {remedy}"]


def row_hashes(table: pa.Table, columns: Sequence[str]) -> Hashes:
    """Hash of the values of some columns for each row: [n] uint64; nulls and NaN are alike."""
    hashes = np.full(table.num_rows, _STEP)
    for name in columns:
        hashes = mixed(hashes * _STEP ^ _value_hashes(one_array(table.column(name))))
    return hashes


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Whether a column of floats holds whole numbers only."""
    values = one_array(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = values[np.isfinite(values)]
    return bool((values == np.floor(values)).all())


def _most_telling(table: pa.Table) -> list[str]:
    """The three columns of most values in a table, by which rows are sampled."""
    counts = [len(np.unique(row_hashes(table, [name]))) for name in table.column_names]
    order = sorted(range(len(counts)), key=lambda index: -counts[index])
    return [table.column_names[index] for index in order[:3]]


def _value_hashes(array: pa.Array) -> Hashes:
    """[n] uint64, of an array of any type."""
    kind = array.type
    if is_list(kind):
        return _list_hashes(array)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        floats = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) + 0.0  # −0 becomes 0
        return np.where(np.isnan(floats), _MISSING, floats.view(np.uint64))
    return np.where(array.is_null(), _MISSING, value_hashes(array, 0))


def _list_hashes(array: pa.Array) -> Hashes:
    offsets, values = list_parts(array)
    lengths = np.diff(offsets)
    places = np.arange(len(values), dtype=np.uint64) - np.repeat(offsets[:-1], lengths).astype(np.uint64)
    inner = mixed(_value_hashes(values) ^ mixed(places + np.uint64(1)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(inner, dtype=np.uint64)])
    hashes = sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64)
    return np.where(array.is_null(), _MISSING, hashes)
