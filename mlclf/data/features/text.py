"""Free text: words and word pairs, hashed, with tf-idf weights, rows of length 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array, text_of_bytes
from mlclf.data.arrow.identities import is_bytes
from mlclf.data.features.tfidf import hashed_counts, idf, tfidf
from mlclf.data.features.tokens import Tokens
from mlclf.errors import DataError

SPREAD = 16
"""Terms are hashed into so many times as many buckets as columns are kept, so that few share one."""

LEAST_DOCUMENTS = 2
"""A term of one training row says nothing about the others, and would only shorten its row."""


@dataclass
class TextFeature:
    """A column declared as text. Buckets are MurmurHash3 of the term; idf is scikit-learn's smooth one.

    Of the buckets that two training rows hold, those that most rows hold get a column; where no bucket is in two rows,
    all get one. A column without a word has none after `finish`, and gives no ids.

    Attributes:
        buckets: most columns that are kept, a power of two.
    """

    name: str
    buckets: int
    num_documents: int = 0
    kept: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    _idf: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    _document_counts: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    _places: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def space(self) -> int:
        """Buckets that terms are hashed into."""
        return min(self.buckets * SPREAD, 1 << 31)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        if not len(self._document_counts):
            self._document_counts = np.zeros(self.space, np.int32)
        _, ids, _ = self._counts(table, where)
        np.add.at(self._document_counts, ids, 1)
        self.num_documents += table.num_rows

    def finish(self) -> None:
        counts = self._document_counts
        found = np.flatnonzero(counts >= LEAST_DOCUMENTS)
        found = found if len(found) else np.flatnonzero(counts)
        if len(found) > self.buckets:
            found = np.sort(found[np.argsort(-counts[found], kind="stable")[: self.buckets]])
        self.kept = found.astype(np.int32)
        self._idf = idf(counts[found], self.num_documents)
        self._document_counts = np.zeros(0, np.int32)
        self._place()

    def _place(self) -> None:
        """Where the column of each bucket is; −1 for none."""
        self._places = np.full(self.space, -1, np.int32)
        self._places[self.kept] = np.arange(len(self.kept), dtype=np.int32)

    @property
    def vocabulary_size(self) -> int:
        return len(self.kept)

    def vocabulary_names(self) -> list[str]:
        return [f"{self.name}#{bucket}" for bucket in self.kept]

    def warning(self) -> str | None:
        return None if len(self.kept) else f"column {self.name!r} has no word in any row; it is left out"

    def encode(self, table: pa.Table, where: str) -> Tokens:
        if not len(self.kept):
            return Tokens(np.zeros(table.num_rows, np.int64), np.zeros(0, np.int64))
        offsets, ids, counts = self._counts(table, where)
        places = self._places[ids]
        has_column = places >= 0
        offsets = np.concatenate([[0], np.cumsum(has_column)])[offsets]
        ids, counts = places[has_column].astype(np.int64), counts[has_column]
        return Tokens(np.diff(offsets), ids, tfidf(offsets, ids, counts, self._idf))

    def counted(self) -> list[str]:
        """Nothing is repaired here: any text has its buckets."""
        return []

    def _counts(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        column = table.column(self.name)
        if is_bytes(column.type):
            column = pa.chunked_array([text_of_bytes(one_array(column), where, self.name)])
        try:
            texts = pc.cast(column, pa.string()) if pa.types.is_null(column.type) else column
            return hashed_counts(texts, self.space)
        except DataError as error:
            raise DataError(f"{where} column {self.name!r}: {error}") from error

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"idf": self._idf, "kept": self.kept}

    def state(self) -> dict[str, Any]:
        return {"buckets": self.buckets, "num_documents": self.num_documents}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> TextFeature:
        feature = cls(name, state["buckets"], state["num_documents"], arrays["kept"], arrays["idf"])
        feature._place()
        return feature
