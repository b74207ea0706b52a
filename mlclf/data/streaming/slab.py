"""A slab: encoded rows in row-major arrays, and the layout of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowLayout:
    """What an encoded row holds.

    Attributes:
        num_dense, num_labels: D and K.
        num_tokens: ids of every row, where all rows have as many; None where their number differs.
        weighted, parted: whether rows have weights, and parts of a split.
        numbered: whether some rows are left out, so that those of a slab do not follow each other.
        grouped: whether rows have groups.
    """

    num_dense: int
    num_labels: int
    num_tokens: int | None = None
    weighted: bool = False
    parted: bool = False
    numbered: bool = False
    grouped: bool = False

    @property
    def row_bytes(self) -> float:
        """Bytes of an encoded row, without ids of rows that differ in number."""
        return float(ORDER_BYTES + sum(array.nbytes for array in self.arrays(1).values()))

    def arrays(self, rows: int) -> dict[str, NDArray[Any]]:
        """Memory for `rows` rows by field; nothing is touched yet."""
        kinds: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "dense": ((self.num_dense,), np.float32),
            "codes": ((self.num_labels,), np.uint8),
        }
        if self.num_tokens is not None:
            kinds["tokens"] = ((self.num_tokens,), np.int32)
        if self.numbered:
            kinds["numbers"] = ((), np.int64)
        if self.grouped:
            kinds["groups"] = ((), np.int64)
        if self.weighted:
            kinds["weights"] = ((), np.float32)
        if self.parted:
            kinds["parts"] = ((), np.int8)
        return {name: np.empty((rows, *shape), kind) for name, (shape, kind) in kinds.items()}


@dataclass
class Slab:
    """Encoded rows in a part of the pool's memory.

    Attributes:
        base: index of its first row in the pool's arrays.
        arrays: by field, views of [slab_rows, …]; the first `rows` rows are filled.
        offsets, ids, values: [rows + 1] int64, [n] int32, [n] float32 or None: the ids of rows that differ in number.
        first_row: number of the first row in the plan.
        complete: whether every label of every row is observed.
        order: [m] int64, indices into the pool's arrays of the rows that are drawn, in the order in which they are.
        keys: key columns of the rows, where asked for.
        place: file and row groups, for messages.
    """

    base: int
    arrays: dict[str, NDArray[Any]]
    rows: int = 0
    first_row: int = 0
    offsets: NDArray[np.int64] | None = None
    ids: NDArray[np.int32] | None = None
    values: NDArray[np.float32] | None = None
    complete: bool = True
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: pa.Table | None = None
    place: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows that are filled."""
        ragged = [array for array in (self.offsets, self.ids, self.values) if array is not None]
        rows = sum(array[: self.rows].nbytes for array in self.arrays.values()) + ORDER_BYTES * self.rows
        return rows + sum(array.nbytes for array in ragged)

    def numbers(self, pick: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers in the plan of rows that are picked by their indices in the pool: [n] → [n]."""
        if "numbers" in self.arrays:
            return np.asarray(self.arrays["numbers"][pick - self.base])
        return pick + (self.first_row - self.base)

    def fill_with_nothing(self, rows: int, first_row: int, place: str) -> None:
        """Fill with rows of weight 0 in place of some that cannot be read; all are drawn in order."""
        self.clear()
        for array in self.arrays.values():
            array[:rows] = 0
        if "numbers" in self.arrays:
            self.arrays["numbers"][:rows] = np.arange(first_row, first_row + rows)
        self.rows, self.first_row, self.place, self.complete = rows, first_row, place, True
        self.order = np.arange(self.base, self.base + rows, dtype=np.int64)
        self.offsets, self.ids = np.zeros(rows + 1, np.int64), np.zeros(0, np.int32)

    def clear(self) -> None:
        """Forget what is not in the pool's own memory."""
        self.offsets = self.ids = self.values = self.keys = None


ORDER_BYTES = 8
