"""Positives and observed rows of each label, counted by part of the split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.labels.label_columns import NUM_CODES, LabelColumns
from mlclf.data.labels.label_encoder import Labels
from mlclf.data.labels.tags import TagList


@dataclass
class LabelCounts:
    """What one pass finds of the labels, by part of the split.

    Attributes:
        positives, totals: [num_parts, K] float64, weights of positive and of observed cells.
        positive_rows, rows: [num_parts, K] int64, the same unweighted.
    """

    positives: NDArray[np.float64]
    totals: NDArray[np.float64]
    positive_rows: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def zeros(cls, num_parts: int, num_labels: int) -> LabelCounts:
        shape = (num_parts, num_labels)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64))


class ColumnCounter:
    """Counts positive and observed cells of label columns, by part of the split."""

    def __init__(self, labels: LabelColumns, num_parts: int) -> None:
        self._labels = labels
        self._counts = LabelCounts.zeros(num_parts, len(labels.names))

    def add(self, table: pa.Table, where: str, weights: NDArray[np.float64], parts: NDArray[np.int8]) -> None:
        """Count the rows of a table: weights [n], parts [n]."""
        table = self._labels.spread(table, where)
        counts = self._counts
        num_parts = len(counts.rows)
        size = num_parts * NUM_CODES
        first_cells = parts.astype(np.int64) * NUM_CODES
        counted = None if np.all(weights == 1) else weights > 0
        for index, name in enumerate(self._labels.names):
            cells = first_cells + self._labels.encode_column(name, table, where)
            number = np.bincount(cells if counted is None else cells[counted], minlength=size)
            summed = number if counted is None else np.bincount(cells, weights, size)
            of_codes, by_weight = number.reshape(num_parts, NUM_CODES), summed.reshape(num_parts, NUM_CODES)
            counts.positives[:, index] += by_weight[:, 1]
            counts.totals[:, index] += by_weight[:, 0] + by_weight[:, 1]
            counts.positive_rows[:, index] += of_codes[:, 1]
            counts.rows[:, index] += of_codes[:, 0] + of_codes[:, 1]

    def finish(self) -> LabelCounts:
        return self._counts


class TagCounter:
    """Counts tags under their text; a row observes every tag, those that turn up later too.

    So the observed rows are one number for each part, whatever the tags, and nothing of size rows × tags exists.
    """

    def __init__(self, labels: TagList, num_parts: int) -> None:
        self._labels = labels
        self._found = LabelCounts.zeros(num_parts, 0)
        self._observed = LabelCounts.zeros(num_parts, 1)
        self._all_rows = np.zeros(0, np.int64)

    def add(self, table: pa.Table, where: str, weights: NDArray[np.float64], parts: NDArray[np.int8]) -> None:
        """Count the rows of a table: weights [n], parts [n]."""
        rows, tags, absent = self._labels.pairs(table, where)
        ids = self._labels.numbered(tags)
        self._grow(len(self._labels.numbers) - len(self._all_rows))
        self._all_rows += np.bincount(ids, minlength=len(self._all_rows))
        counted = weights > 0
        for part in np.unique(parts).tolist():
            chosen = parts == part
            observed = chosen & ~absent
            self._observed.totals[part] += weights[observed].sum()
            self._observed.rows[part] += (observed & counted).sum()
            mine = chosen[rows]
            size = len(self._all_rows)
            self._found.positives[part] += np.bincount(ids[mine], weights[rows[mine]], size)
            self._found.positive_rows[part] += np.bincount(ids[mine & counted[rows]], minlength=size)

    def _grow(self, added: int) -> None:
        found, pad = self._found, ((0, 0), (0, added))
        found.positives = np.pad(found.positives, pad)
        found.positive_rows = np.pad(found.positive_rows, pad)
        self._all_rows = np.pad(self._all_rows, (0, added))

    def finish(self) -> LabelCounts:
        """Give the label list its names, by falling count of rows, then by code point."""
        ids = self._labels.numbers
        names = sorted(ids, key=lambda tag: (-self._all_rows[ids[tag]], tag))
        self._labels.set_names(names)
        order = np.array([ids[name] for name in names], np.int64)
        return LabelCounts(
            self._found.positives[:, order],
            np.repeat(self._observed.totals, len(order), axis=1),
            self._found.positive_rows[:, order],
            np.repeat(self._observed.rows, len(order), axis=1),
        )


def make_counter(labels: Labels, num_parts: int) -> ColumnCounter | TagCounter:
    """The counter of a data set's labels."""
    return TagCounter(labels, num_parts) if isinstance(labels, TagList) else ColumnCounter(labels, num_parts)
