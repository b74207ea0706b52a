"""Labels as lists of tags: each tag of the vocabulary is a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.lists import tag_texts
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.machine.tally import Tally


@dataclass
class TagList:
    """Labels that are one list column of tags: every tag of the rows that were counted is a label.

    Attributes:
        column: name of the list column.
        names: [K], the tags, by falling count, then by code point; empty until `set_names`.
        unseen: tags met by `encode` that are not among the names, once for each row.
        numbers: each tag met by `numbered`, with its number in the order in which they turned up.
    """

    column: str
    names: tuple[str, ...] = ()
    unseen: Tally = field(default_factory=Tally)
    numbers: dict[str, int] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)

    @property
    def unseen_tags(self) -> int:
        return int(self.unseen)

    def set_names(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._ids = {name: index for index, name in enumerate(self.names)}

    def encode(self, table: pa.Table, where: str, out: NDArray[np.uint8]) -> bool:
        """Fill out[n, K] with the codes of every cell; a null list is UNOBSERVED for every label.

        Returns whether all are observed.
        """
        rows, tags, absent = self.pairs(table, where)
        out[:] = 0
        encoded = tags.dictionary_encode()
        lookup = np.array([self._ids.get(tag, -1) for tag in encoded.dictionary.to_pylist()] or [-1], np.int64)
        ids = lookup[encoded.indices.to_numpy(zero_copy_only=False)]
        known = ids >= 0
        if not known.all():
            self.unseen.add((~known).sum())
        out[rows[known], ids[known]] = 1
        out[absent] = UNOBSERVED
        return not absent.any()

    def numbered(self, tags: pa.Array) -> NDArray[np.int64]:
        """The number of each tag, in the order in which they turned up: [m]; names are not needed yet."""
        encoded = tags.dictionary_encode()
        numbers = [self.numbers.setdefault(tag, len(self.numbers)) for tag in encoded.dictionary.to_pylist()]
        return np.asarray(np.array(numbers or [0], np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])

    def positives(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and numbers of the tags that they have, in this order: [m], [m]."""
        rows, tags, _ = self.pairs(table, where)
        numbers = self.numbered(tags)
        order = np.lexsort((numbers, rows))
        return rows[order], numbers[order]

    def notes(self) -> list[str]:
        """Lines on how labels are written: tags stand for themselves."""
        return []

    def pairs(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.bool_]]:
        """Rows and tags, each pair once however often a row repeats it: [m], [m]; and which lists are null: [n]."""
        array = one_array(table.column(self.column))
        offsets, tags = tag_texts(array, where, self.column)
        rows = np.repeat(np.arange(len(array)), np.diff(offsets))
        if len(tags):
            encoded = tags.dictionary_encode()
            cells = rows * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
            first = np.unique(cells, return_index=True)[1]
            rows, tags = rows[first], tags.take(pa.array(first))
        return rows, tags, array.is_null().to_numpy(zero_copy_only=False)
