"""Free text: words and word pairs, hashed, with tf-idf weights, rows of length 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_bytes, is_text, one_array, text_of_bytes
from mlclf.data.arrow.families import TEXTS
from mlclf.data.arrow.murmur import murmur3_32
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.token_ids import TokenIds
from mlclf.errors import DataError

WORD = r"[\pL\pN_]{2,}"
"""Of lowercase text: a run of two or more letters, digits and underscores of any script."""

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]

SPREAD = 16
"""Terms are hashed into so many times as many buckets as columns are kept, so that few share one."""

LEAST_DOCUMENTS = 2
"""A term of one training row says nothing about the others, and would only shorten its row."""


@dataclass
class TextColumn(FittedColumn):
    """A text a row, as its words and pairs of neighbouring words: hashed, with tf-idf weights, rows of length 1.

    Buckets are MurmurHash3 of the term; idf is scikit-learn's smooth one. Of the buckets that two training rows hold,
    those that most rows hold get a column; where no bucket is in two rows, all get one. A column without a word has
    none after `finish`, and gives no ids.

    Attributes:
        buckets: most columns that are kept, a power of two.
    """

    role = "text"
    families: ClassVar[tuple[str, ...]] = (*TEXTS, "null")
    gives_ids = True

    buckets: int = 0
    num_documents: int = 0
    kept: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    _idf: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    _document_counts: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    _places: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        return cls(column.name, options.hash_buckets)

    @classmethod
    def fitting_bytes(cls, options: EncodingOptions) -> int:
        return 8 * cls("", options.hash_buckets).space

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

    def encode_ids(self, table: pa.Table, where: str) -> TokenIds:
        if not len(self.kept):
            return super().encode_ids(table, where)
        offsets, ids, counts = self._counts(table, where)
        places = self._places[ids]
        has_column = places >= 0
        offsets = np.concatenate([[0], np.cumsum(has_column)])[offsets]
        ids, counts = places[has_column].astype(np.int64), counts[has_column]
        return TokenIds(np.diff(offsets), ids, tfidf(offsets, ids, counts, self._idf))

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
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        feature = cls(name, state["buckets"], state["num_documents"], arrays["kept"], arrays["idf"])
        feature._place()
        return feature


def hashed_counts(texts: pa.Array | pa.ChunkedArray, buckets: int) -> tuple[Int64s, Int64s, Float32s]:
    """Count the terms of each text by bucket: the lowest bits of MurmurHash3 of the term, seed 0.

    The terms are the words of the text, and its pairs of neighbouring words joined by one space. A null has none.
    Each distinct word and pair of the batch is hashed once. The number of rows that hold a bucket is
    ``np.bincount(ids, minlength=buckets)``, since no row names a bucket twice.

    Args:
        texts: [B] string, large_string or string_view, or a dictionary of them.
        buckets: a power of two, at most 2**31.

    Returns:
        offsets [B + 1] int64, ids [n] int64 in [0, buckets), ascending within each row, and counts [n] float32.

    Raises:
        ValueError: `buckets` is not a power of two.
        DataError: a text is not valid UTF-8, or `texts` is of another type.
    """
    if buckets < 1 or buckets & (buckets - 1) or buckets > 1 << 31:
        raise ValueError(f"buckets must be a power of two up to 2**31, got {buckets!r}")
    bounds, words = words_of(texts)
    num_rows, firsts = len(bounds) - 1, _first_of_pairs(bounds)
    word_hashes, pair_hashes = _hashes(words, firsts)
    word_rows = np.repeat(np.arange(num_rows, dtype=np.int64), np.diff(bounds))
    rows = np.concatenate([word_rows, word_rows[firsts]])
    cells = rows * buckets + (np.concatenate([word_hashes, pair_hashes]).astype(np.int64) & (buckets - 1))
    cells, counts = np.unique(cells, return_counts=True)
    offsets = np.searchsorted(cells, np.arange(num_rows + 1, dtype=np.int64) * buckets)
    return offsets.astype(np.int64, copy=False), cells & (buckets - 1), counts.astype(np.float32)


def idf(document_counts: NDArray[np.integer | np.floating], num_documents: int) -> Float32s:
    """Return scikit-learn's smooth inverse document frequency, ``ln((1 + n) / (1 + df)) + 1``.

    A bucket that no document holds gets the largest value, ``ln(1 + n) + 1``.

    Args:
        document_counts: [V] the number of documents that hold each bucket, each in [0, num_documents].
        num_documents: the number of documents counted.

    Returns:
        [V] float32, each at least 1.

    Raises:
        ValueError: a count is negative, larger than `num_documents`, or NaN.
    """
    df = np.asarray(document_counts, dtype=np.float64)
    outside = np.flatnonzero(~((df >= 0) & (df <= num_documents)))
    if outside.size:
        first = outside[0]
        raise ValueError(f"document counts must be in [0, {num_documents}], got {df[first]:g} for bucket {first}")
    return (np.log((1 + num_documents) / (1 + df)) + 1).astype(np.float32)


def tfidf(offsets: Int64s, ids: Int64s, counts: Float32s, idf: Float32s) -> Float32s:
    """Weight counts by `idf` and scale each row to length 1; a row without terms, or of zeros, stays as it is.

    Args:
        offsets: [B + 1] int64, bounds of the rows.
        ids: [n] int64, buckets.
        counts: [n] float32.
        idf: [V] float32, weight of each bucket.

    Returns:
        [n] float32, the values of `ids`.
    """
    values = counts * idf[ids].astype(np.float64)
    num_rows = len(offsets) - 1
    rows = np.repeat(np.arange(num_rows), np.diff(offsets))
    norms = np.sqrt(np.bincount(rows, weights=values * values, minlength=num_rows))
    norms[norms == 0] = 1
    return (values / norms[rows]).astype(np.float32)


def words_of(texts: pa.Array | pa.ChunkedArray) -> tuple[Int64s, pa.Array]:
    """Return the bounds [B + 1] int64 of the words of each text, and the words, large_string."""
    import polars as pl  # here, since the roles of columns are known without it

    array = _large_string(texts)
    try:
        lists = pl.Series(pl.from_arrow(array)).str.to_lowercase().str.extract_all(WORD).to_arrow()
    except pl.exceptions.PanicException as panic:  # derives from BaseException and would pass every handler
        raise DataError(f"text could not be split into words: {panic}; look for unusual characters") from None
    bounds = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), out=bounds[1:])
    return bounds, lists.flatten().cast(pa.large_string())


def _large_string(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return `texts` as one large_string array that polars can read: its UTF-8 is checked here."""
    kind = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
    if not is_text(kind):
        raise DataError(f"text must be strings, got {texts.type}; cast the column or give it another role")
    array = texts.cast(pa.large_string())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"text must be valid UTF-8: {error}; write the column again as UTF-8") from None
    return array


def _first_of_pairs(bounds: Int64s) -> Int64s:
    """Return the positions of the words that have a next word in their row."""
    has_next = np.ones(bounds[-1], dtype=bool)
    has_next[bounds[1:][np.diff(bounds) > 0] - 1] = False
    return np.flatnonzero(has_next)


def _hashes(words: pa.Array, firsts: Int64s) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the hash of each word and of each pair, computing that of each distinct one once."""
    encoded = words.dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    vocabulary = encoded.dictionary
    num_words = len(vocabulary)
    pairs = pa.array(codes[firsts] * num_words + codes[firsts + 1]).dictionary_encode()
    lefts, rights = np.divmod(pairs.dictionary.to_numpy(), max(num_words, 1))
    joined = _join(vocabulary.take(pa.array(lefts)), vocabulary.take(pa.array(rights)))
    return murmur3_32(vocabulary)[codes], murmur3_32(joined)[pairs.indices.to_numpy()]


def _join(lefts: pa.Array, rights: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(lefts, rights, pa.scalar(" ", pa.large_string()))
