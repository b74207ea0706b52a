"""What is known of rows beside their scores: labels, weights of rows and of cells, groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array, transpose
from mlclf.data.arrow.lists import bits_of
from mlclf.data.labels.label_columns import UNOBSERVED, LabelColumns
from mlclf.data.labels.tags import TagList
from mlclf.data.streaming.row_encoder import row_weights
from mlclf.decisions.cells.cells import value_identities
from mlclf.decisions.score_files.columns import CellColumns, Place, list_rows
from mlclf.errors import DataError
from mlclf.machine.memory import Recycler

COLUMNS, VALUES, TAGS = "columns", "values", "tags"
"""How labels are written: a column each, a list of K values of 0, 1 or null, or a list of the tags that hold."""


@dataclass
class LabelRows:
    """n rows.

    Attributes:
        codes: [K, n] uint8 of 0, 1 and UNOBSERVED; None where the labels are elsewhere.
        weights: [n] float64; None where all are 1, or elsewhere.
        label_weights: [K, n] float64; the same.
        groups: [n] int64, identities of the groups; None without them, or where they are elsewhere.
    """

    codes: NDArray[np.uint8] | None = None
    weights: NDArray[np.float64] | None = None
    label_weights: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None

    def joined_with(self, other: LabelRows) -> LabelRows:
        """The same rows, with what `other` knows of them."""
        return LabelRows(**{name: getattr(other, name) if own is None else own for name, own in vars(self).items()})

    def take(self, rows: NDArray[np.int64]) -> LabelRows:
        """Some of the rows, by index."""
        return LabelRows(**{name: None if own is None else own[..., rows] for name, own in vars(self).items()})


@dataclass
class LabelReader:
    """Reads what one kind of file knows of its rows.

    Attributes:
        label_names: [K].
        style: COLUMNS, VALUES, TAGS, or None where the labels are in other files.
        label_columns: K columns, or the one of lists.
        weight, label_weights, group: columns of this file; None without them.
    """

    label_names: tuple[str, ...]
    style: str | None = None
    label_columns: tuple[str, ...] = ()
    weight: str | None = None
    label_weights: CellColumns | None = None
    group: str | None = None
    _values: LabelColumns = field(default_factory=lambda: LabelColumns(()))
    _tags: TagList | None = None
    _memory: Recycler = field(default_factory=Recycler, repr=False)

    def __post_init__(self) -> None:
        if self.style == TAGS:
            self._tags = TagList(self.label_columns[0])
            self._tags.set_names(self.label_names)

    @property
    def columns(self) -> list[str]:
        """Columns to be read, each once."""
        others = [*self.label_columns, *(self.label_weights.names if self.label_weights else ())]
        return list(dict.fromkeys([*others, *(name for name in (self.weight, self.group) if name)]))

    @property
    def unseen_tags(self) -> int:
        """Tags met that are not labels."""
        return self._tags.unseen_tags if self._tags is not None else 0

    def read(self, table: pa.Table, place: Place) -> LabelRows:
        """What the file says of the rows of a table.

        Raises:
            DataError: a label or a weight is not one, or a list is of another length.
        """
        return LabelRows(
            None if self.style is None else self._codes(table, place),
            None if self.weight is None else row_weights(table, self.weight, str(place)),
            None if self.label_weights is None else self.label_weights.floats(table, place, np.float64, self._memory),
            None if self.group is None else value_identities(table.column(self.group)).numpy(),
        )

    def _codes(self, table: pa.Table, place: Place) -> NDArray[np.uint8]:
        codes: NDArray[np.uint8] = self._memory.array((len(self.label_names), table.num_rows), np.uint8)
        if self.style == COLUMNS:
            for index, name in enumerate(self.label_columns):
                fast = _plain_codes(table.column(name))
                codes[index] = self._values.encode_column(name, table, str(place)) if fast is None else fast
            return codes
        rows = np.empty((table.num_rows, len(self.label_names)), np.uint8)
        if self._tags is not None:
            self._tags.encode(table, str(place), rows)
        else:
            name = self.label_columns[0]
            values = list_rows(one_array(table.column(name)), len(self.label_names), place, name)
            rows[:] = self._values.encode_column(name, pa.table({name: values}), str(place)).reshape(rows.shape)
        transpose(rows, codes)
        return codes


def _plain_codes(column: pa.ChunkedArray) -> NDArray[np.uint8] | None:
    """The codes of a column of booleans or bytes of 0 and 1, none missing: [n] uint8; None for any other."""
    if column.null_count:
        return None
    kind = column.type
    if pa.types.is_boolean(kind):
        return bits_of(one_array(column))
    if pa.types.is_int8(kind) or pa.types.is_uint8(kind):
        values = one_array(column).to_numpy().view(np.uint8)
        return values if values.max(initial=0) <= 1 else None
    return None


def check_label_weights(rows: LabelRows, columns: CellColumns, place: Place) -> None:
    """Refuse weights of cells that are not numbers from 0 up; where a label is not observed its weight becomes 0.

    Raises:
        DataError: a weight is null, NaN, negative or infinite where the label is observed.
    """
    weights, codes = rows.label_weights, rows.codes
    assert weights is not None
    assert codes is not None
    low, high = weights.min(1, initial=0.0), weights.max(1, initial=0.0)
    for index in np.flatnonzero(~((low >= 0) & (high < np.inf))).tolist():
        unseen = codes[index] == UNOBSERVED
        weights[index][unseen] = 0
        bad = ~((weights[index] >= 0) & (weights[index] < np.inf))
        if bad.any():
            first = float(weights[index][bad][0])
            raise DataError(
                f"{place} {columns.name_of(index)}: weights must be 0 or more, found "
                f"{'null or NaN' if np.isnan(first) else first} in {int(bad.sum())} rows where the label is observed; "
                "fill them where the data is written"
            )
