"""Stratified folds: each has its share of the rarer class of every label, by one pass over the labels.

Folds by chance would give one of them more positives of a rare label than another; its rows are then scored by a model
that saw fewer, and the other way round, so that scores of different folds are in the wrong order (Forman and Scholz,
Apples-to-Apples in Cross-Validation Studies, SIGKDD Explorations 2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.row_hashes import row_hashes
from mlclf.data.labels.label_columns import LabelColumns
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import decoded_pieces, located
from mlclf.data.passes.partial_passes import matching_units
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import RowFolds, Split
from mlclf.data.sampling.stratification import Stratifier
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.row_encoder import row_weights
from mlclf.data.where.condition import Where

MOST_ROWS = 1 << 22
"""Of more rows the folds are by hash alone: there a label has to be very rare to be shared unevenly."""

MOST_CELLS = 1 << 21
"""Cells that are kept, those of the rarest classes; the more frequent ones are shared evenly by chance."""

PIECE_CELLS, PIECE_ROWS = 1 << 24, 65_536
BLOCK_CELLS, BLOCK_ROWS = 1 << 20, 4096


def row_folds(
    plan: Plan, schema: Schema, split: Split, label_values: Mapping[str, int | None], where: Where | None
) -> RowFolds | None:
    """The folds that `split` asks for; None where a hash decides: with groups, and of more than MOST_ROWS rows.

    Rows are dealt out in the order of hash(seed, row number), so folds do not depend on how the files are cut.
    """
    if split.kind != "folds" or split.group is not None or plan.rows > MOST_ROWS:
        return None
    labelled = _LabelledRows(schema, label_values, Selection(split, where=where))
    pieces = decoded_pieces(
        plan,
        matching_units(plan, where),
        labelled.columns,
        max(64, min(PIECE_ROWS, PIECE_CELLS // len(schema.labels))),
        lambda first_row, table, place: (first_row, table),
        lanes=1,
        threads=1,
    )
    for first_row, table in pieces:
        located(plan, first_row, table, labelled.add)
    numbers = labelled.numbers()
    rows, labels = labelled.rarer_cells()
    folds = np.zeros(int(numbers.max(initial=-1)) + 1, np.int8)
    folds[numbers] = dealt_out(numbers, rows, labels, split)
    return RowFolds(folds)


def dealt_out(
    numbers: NDArray[np.int64], rows: NDArray[np.int64], labels: NDArray[np.int64], split: Split
) -> NDArray[np.int8]:
    """Fold of each row, so that each has its share of some cells: [n] int8.

    Args:
        numbers: [n], the rows' numbers in the plan; rows are dealt out in the order of hash(seed, number).
        rows, labels: [m], a pair for each cell: place of the row in `numbers`, label.
        split: number of folds, and seed.
    """
    order = np.argsort(row_hashes(numbers, split.seed), kind="stable")
    stratifier = Stratifier(np.full(split.num_folds, 1 / split.num_folds), split.seed)
    return stratifier.parts(rows, labels, len(numbers), order)


class _LabelledRows:
    """The rows of the pass and the cells of their rarest classes."""

    def __init__(self, schema: Schema, label_values: Mapping[str, int | None], selection: Selection) -> None:
        self._weight, self._selection = schema.weight, selection
        self._labels = make_labels(schema, label_values)
        self._cells = RareCells()
        self._numbers: list[NDArray[np.int64]] = []
        self._rows = 0
        self.columns = tuple(dict.fromkeys([*schema.labels, *filter(None, [schema.weight]), *selection.columns]))

    def add(self, first_row: int, table: pa.Table, place: str) -> None:
        """Add the rows of a table, which follow those before it."""
        numbers, table = self._selection.kept(first_row, table)
        counted = row_weights(table, self._weight, place) > 0
        if isinstance(self._labels, TagList):
            self._add_tags(self._labels, numbers, table, place, counted)
        else:
            self._add_columns(self._labels, numbers, table, place, counted)
        self._numbers.append(numbers)
        self._rows += len(numbers)

    def _add_columns(
        self,
        labels: LabelColumns,
        numbers: NDArray[np.int64],
        table: pa.Table,
        place: str,
        counted: NDArray[np.bool_],
    ) -> None:
        codes = labels.codes(table, place)
        for block in _blocks(numbers, max(64, BLOCK_CELLS // codes.shape[1])):
            self._cells.trim()
            some = codes[block]
            for code in (0, 1):
                flags = (some == code) & counted[block, None]
                keys = 2 * np.arange(codes.shape[1]) + code
                alive = np.flatnonzero(self._cells.count(keys, flags.sum(0)))
                rows, places = np.nonzero(flags[:, alive])
                self._cells.keep(self._rows + block.start + rows, keys[alive[places]])

    def _add_tags(
        self, labels: TagList, numbers: NDArray[np.int64], table: pa.Table, place: str, counted: NDArray[np.bool_]
    ) -> None:
        """Add the positives of tags; the negatives of a tag that most rows have are not counted."""
        rows, tags, _ = labels.pairs(table, place)
        ids = labels.numbered(tags)
        rows, keys = rows[counted[rows]], 2 * ids[counted[rows]] + 1
        for block in _blocks(numbers, BLOCK_ROWS):
            self._cells.trim()
            start, end = np.searchsorted(rows, [block.start, block.stop])
            found, counts = np.unique(keys[start:end], return_counts=True)
            alive = found[self._cells.count(found, counts)]
            kept = np.isin(keys[start:end], alive)
            self._cells.keep(self._rows + rows[start:end][kept], keys[start:end][kept])

    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the rows in the plan: [n]."""
        return np.concatenate([np.zeros(0, np.int64), *self._numbers])

    def rarer_cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows, from 0 in the order of `numbers`, and labels of the cells of each label's rarer class: [m], [m]."""
        return self._cells.rarer(both=isinstance(self._labels, LabelColumns))


class RareCells:
    """Cells by class, key 2·label for the negatives and 2·label + 1 for the positives, as far as there is room.

    Whenever there are more than MOST_CELLS, those of the most frequent classes are dropped until half of that is left.
    """

    def __init__(self, most: int = MOST_CELLS) -> None:
        self._most, self._held = most, 0
        self._counts = np.zeros(0, np.int64)
        self._common = np.zeros(0, np.bool_)
        self._rows: list[NDArray[np.int32]] = []
        self._keys: list[NDArray[np.int32]] = []

    def count(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Count cells of distinct classes; says whose are to be kept."""
        grown = max(len(self._counts), 2 * (int(keys.max(initial=-1)) // 2 + 1)) - len(self._counts)
        if grown:
            self._counts, self._common = np.pad(self._counts, (0, grown)), np.pad(self._common, (0, grown))
        self._counts[keys] += counts
        return np.asarray(~self._common[keys])

    def keep(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        """Keep counted cells."""
        self._rows.append(rows.astype(np.int32))
        self._keys.append(keys.astype(np.int32))
        self._held += len(rows)

    def trim(self) -> None:
        """Drop the most frequent classes where too much is held."""
        if self._held <= self._most:
            return
        counts = np.sort(self._counts[~self._common])
        fits = counts[np.cumsum(counts) <= self._most // 2]
        self._common |= self._counts > fits.max(initial=0)
        rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
        kept = ~self._common[keys]
        self._rows, self._keys, self._held = [rows[kept]], [keys[kept]], int(kept.sum())

    def rarer(self, *, both: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and labels of the cells of each label's rarer class; of its positives, unless `both` were counted."""
        self.trim()
        negatives, positives = self._counts[0::2], self._counts[1::2]
        chosen = np.zeros(len(self._counts), np.bool_)
        chosen[1::2] = (positives <= negatives) if both else True
        chosen[0::2] = ~chosen[1::2]
        chosen &= ~self._common
        rows = np.concatenate([np.zeros(0, np.int32), *self._rows]).astype(np.int64)
        keys = np.concatenate([np.zeros(0, np.int32), *self._keys]).astype(np.int64)
        kept = chosen[keys] if len(keys) else np.zeros(0, np.bool_)
        return rows[kept], keys[kept] // 2


def _blocks(numbers: NDArray[np.int64], num_rows: int) -> Iterator[slice]:
    """Rows of a table cut at the multiples of `num_rows` of their numbers, however the data comes in tables."""
    edges = np.flatnonzero(np.diff(numbers // num_rows)) + 1
    bounds = [0, *edges.tolist(), len(numbers)] if len(numbers) else []
    for start, end in pairwise(bounds):
        yield slice(start, end)
