"""Free text: words and word pairs, hashed, with tf-idf weights, rows of length 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.batch import Tokens
from mlclf.data.text import hashed_counts, idf, tfidf
from mlclf.errors import DataError


@dataclass
class TextFeature:
    """A column declared as text. Buckets are MurmurHash3 of the term; idf is scikit-learn's smooth one.

    A column without a word has no bucket after `finish`, and gives no ids.
    """

    name: str
    buckets: int
    num_documents: int = 0
    document_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _idf: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if not len(self.document_counts):
            self.document_counts = np.zeros(self.buckets, np.int64)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        _, ids, _ = self._counts(table, where)
        self.document_counts += np.bincount(ids, minlength=self.buckets)
        self.num_documents += table.num_rows

    def finish(self) -> None:
        if not self.document_counts.any():
            self.buckets = 0
        self._idf = idf(self.document_counts, self.num_documents)

    @property
    def vocabulary_size(self) -> int:
        return self.buckets

    def vocabulary_names(self) -> list[str]:
        return [f"{self.name}#{bucket}" for bucket in range(self.buckets)]

    def warning(self) -> str | None:
        return None if self.buckets else f"column {self.name!r} has no word in any row; it is left out"

    def encode(self, table: pa.Table, where: str) -> Tokens:
        if not self.buckets:
            return Tokens(np.zeros(table.num_rows, np.int64), np.zeros(0, np.int64))
        offsets, ids, counts = self._counts(table, where)
        return Tokens(np.diff(offsets), ids, tfidf(offsets, ids, counts, self._idf))

    def counted(self) -> list[str]:
        """Nothing is repaired here: any text has its buckets."""
        return []

    def _counts(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        try:
            column = table.column(self.name)
            texts = pc.cast(column, pa.string()) if pa.types.is_null(column.type) else column
            return hashed_counts(texts, self.buckets)
        except DataError as error:
            raise DataError(f"{where} column {self.name!r}: {error}") from error

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"idf": self._idf}

    def state(self) -> dict[str, Any]:
        return {"buckets": self.buckets, "num_documents": self.num_documents}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> TextFeature:
        feature = cls(name, state["buckets"], state["num_documents"])
        feature._idf = arrays["idf"]
        return feature
