"""Labels of other files, held in memory and found by a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import decoded_pieces
from mlclf.decisions.score_files.columns import Place
from mlclf.decisions.score_files.keys import SHOWN_KEYS, Unmatched, key_values, shown_key
from mlclf.decisions.score_files.label_rows import TAGS, LabelReader, LabelRows
from mlclf.errors import DataError

_KEY_BYTES = 17
"""A key, its row and whether it was found."""


class JoinedLabels:
    """Labels by key: a bit for each cell (two where some are not observed), or the tags of each row.

    Attributes:
        key: the column.
        scores_alone: rows of scores whose key has no labels, as far as `note` has met them.
    """

    def __init__(self, plan: Plan, key: str, reader: LabelReader, budget_bytes: int) -> None:
        """Read all labels.

        Raises:
            DataError: a key is there twice, or the labels do not fit the budget.
        """
        self.key, self._plan, self._reader = key, plan, reader
        self.scores_alone = Unmatched()
        self._budget_bytes = budget_bytes
        self._num_labels = len(reader.label_names)
        self._blocks: list[_Block] = []
        self._check_budget(plan.rows * _KEY_BYTES + (0 if reader.style == TAGS else plan.rows * self._num_labels // 8))
        keys = self._read()
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        self._used = np.zeros(len(keys), bool)
        self._starts = np.cumsum([0, *(block.rows for block in self._blocks)])
        self._refuse_repeated(np.flatnonzero(self._sorted[1:] == self._sorted[:-1]))

    def _read(self) -> NDArray[np.int64]:
        keys, held = [], 0
        for values, absent, rows in decoded_pieces(
            self._plan,
            range(len(self._plan.units)),
            list(dict.fromkeys([self.key, *self._reader.columns])),
            max(64, min(65_536, (1 << 22) // self._num_labels)),
            placed(self._plan, self._read_piece),
            lanes=1,
        ):
            present = np.flatnonzero(~absent)
            self._blocks.append(_Block.of(rows.take(present) if absent.any() else rows, self._reader.style == TAGS))
            keys.append(values[present])
            held += self._blocks[-1].num_bytes + _KEY_BYTES * len(present)
            self._check_budget(held)
        return np.concatenate(keys)

    def _read_piece(self, table: pa.Table, place: Place, first_row: int) -> tuple[Any, Any, LabelRows]:
        return *key_values(table.column(self.key)), self._reader.read(table, place)

    def _check_budget(self, size: int) -> None:
        if size > self._budget_bytes:
            raise DataError(
                f"--label-data: the labels of {self._plan.rows:,} rows must fit {self._budget_bytes / 2**20:,.0f} MiB, "
                f"found at least {size / 2**20:,.0f} MiB; raise --memory-budget, name fewer labels with --labels, keep "
                "only rows that have scores, or write the labels beside the scores"
            )

    def _refuse_repeated(self, places: NDArray[np.int64]) -> None:
        if len(places):
            values = self._values_of(self._sorted[places[:1]])
            raise DataError(
                f"--label-data: key {self.key!r} must be distinct, found {shown_key(values[0])} more than once"
            )

    def _values_of(self, keys: NDArray[np.int64]) -> list[Any]:
        """The first few values of keys, as the files write them."""
        found: dict[Any, None] = {}
        pieces = decoded_pieces(
            self._plan, range(len(self._plan.units)), [self.key], 65_536, lambda first, table, place: table, lanes=1
        )
        for table in pieces:
            column = table.column(self.key)
            values, absent = key_values(column)
            chosen = np.flatnonzero(np.isin(values, keys) & ~absent)[:SHOWN_KEYS]
            found |= dict.fromkeys(one_array(column).take(pa.array(chosen)).to_pylist())
            if len(found) >= SHOWN_KEYS:
                break
        return list(found)[:SHOWN_KEYS]

    def find(self, column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices [m] of the keys of a column that have labels, and where those are, [m] for `rows`."""
        values, absent = key_values(column)
        if not len(self._sorted):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.searchsorted(self._sorted, values).clip(max=len(self._sorted) - 1)
        found = (self._sorted[places] == values) & ~absent
        return np.flatnonzero(found), self._order[places[found]]

    def note(self, column: pa.ChunkedArray, kept: NDArray[np.int64], rows: NDArray[np.int64], place: Place) -> None:
        """Remember what `find` returned for a column: which labels are used, which keys have none.

        Raises:
            DataError: a key of the scores is there twice.
        """
        alone = np.ones(len(column), bool)
        alone[kept] = False
        self.scores_alone.add(column, alone)
        again = self._used[rows]
        if not again.any():
            again = np.ones(len(rows), bool)
            again[np.unique(rows, return_index=True)[1]] = False
        if again.any():
            index = int(kept[np.flatnonzero(again)[0]])
            value = shown_key(one_array(column)[index].as_py())
            raise DataError(
                f"{place.row(index)}: key {self.key!r} of the scores must be distinct, found {value} more than once; "
                "keep one row of each key"
            )
        self._used[rows] = True

    def rows(self, rows: NDArray[np.int64]) -> LabelRows:
        """What is known of rows that `find` found."""
        if not len(rows):
            return self._blocks[0].take(rows, self._num_labels)
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(blocks, kind="stable")
        parts, start = [], 0
        numbers, counts = np.unique(blocks, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            inside = rows[order[start : start + count]] - self._starts[number]
            parts.append(self._blocks[number].take(inside, self._num_labels))
            start += count
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return _concatenated(parts).take(back) if len(parts) > 1 else parts[0].take(back)

    @property
    def unseen_tags(self) -> int:
        """Tags met that are not labels."""
        return self._reader.unseen_tags

    def labels_alone(self) -> Unmatched:
        """Rows of labels that no row of scores has asked for."""
        unused = self._sorted[~self._used[self._order]]
        nulls = self._plan.rows - len(self._sorted)
        if not len(unused) and not nulls:
            return Unmatched()
        return Unmatched(len(unused) + nulls, self._values_of(unused) if len(unused) else [None])


@dataclass
class _Block:
    """Consecutive rows of labels, packed.

    Attributes:
        positive: [rows, ⌈K/8⌉] uint8, a bit for each label; None with tags.
        observed: the same; None where all are.
        ids, offsets: the labels that hold, row by row, with tags.
        absent: [rows] bool, rows whose list of tags is null.
    """

    rows: int
    positive: NDArray[np.uint8] | None = None
    observed: NDArray[np.uint8] | None = None
    ids: NDArray[np.int32] | None = None
    offsets: NDArray[np.int64] | None = None
    absent: NDArray[np.bool_] | None = None
    weights: NDArray[np.float64] | None = None
    label_weights: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: LabelRows, tags: bool) -> _Block:
        assert rows.codes is not None
        codes = rows.codes.T
        weights = None if rows.label_weights is None else np.ascontiguousarray(rows.label_weights.T)
        block = cls(len(codes), weights=rows.weights, label_weights=weights, groups=rows.groups)
        if tags:
            where, ids = np.nonzero(codes == 1)
            block.ids = ids.astype(np.int32)
            block.offsets = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=len(codes)))])
            block.absent = (codes == UNOBSERVED).any(1)
        else:
            block.positive = np.packbits(codes == 1, axis=1)
            hidden = codes == UNOBSERVED
            block.observed = np.packbits(~hidden, axis=1) if hidden.any() else None
        return block

    @property
    def num_bytes(self) -> int:
        arrays = (getattr(self, name) for name in vars(self) if name != "rows")
        return sum(array.nbytes for array in arrays if array is not None)

    def take(self, rows: NDArray[np.int64], num_labels: int) -> LabelRows:
        """Some rows by index, unpacked."""
        return LabelRows(
            np.ascontiguousarray(self._codes(rows, num_labels).T),
            None if self.weights is None else self.weights[rows],
            None if self.label_weights is None else np.ascontiguousarray(self.label_weights[rows].T),
            None if self.groups is None else self.groups[rows],
        )

    def _codes(self, rows: NDArray[np.int64], num_labels: int) -> NDArray[np.uint8]:
        if self.positive is not None:
            codes = np.unpackbits(self.positive[rows], axis=1, count=num_labels)
            if self.observed is not None:
                codes[np.unpackbits(self.observed[rows], axis=1, count=num_labels) == 0] = UNOBSERVED
            return codes
        assert self.ids is not None
        assert self.offsets is not None
        assert self.absent is not None
        codes = np.zeros((len(rows), num_labels), np.uint8)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        ends = np.cumsum(lengths)
        inside = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        codes[np.repeat(np.arange(len(rows)), lengths), self.ids[np.repeat(self.offsets[rows], lengths) + inside]] = 1
        codes[self.absent[rows]] = UNOBSERVED
        return codes


def _concatenated(parts: Sequence[LabelRows]) -> LabelRows:
    columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    return LabelRows(**{name: None if own[0] is None else np.concatenate(own, -1) for name, own in columns.items()})


def placed(plan: Plan, work: Callable[[pa.Table, Place, int], Any]) -> Callable[[int, pa.Table, str], Any]:
    """Work of `decoded_pieces` that knows the row of the file: (table, place, number of the first row) → result."""
    starts, names, row = [], [], 0
    for shard in (shard for shard in plan.shards if shard.rows):
        starts.append(row)
        names.append(shard.source.name)
        row += shard.rows

    def done(first: int, table: pa.Table, place: str) -> Any:
        index = int(np.searchsorted(starts, first, side="right")) - 1
        return work(table, Place(place, first - starts[index], names[index]), first)

    return done
