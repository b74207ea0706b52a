"""Text → words and pairs of words → hashed counts → tf-idf."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.arrow.murmur import murmur3_32
from mlclf.errors import DataError

WORD = r"[\pL\pN_]{2,}"  # lowercase text; a run of letters, digits and underscores of any script

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


def tokenize(texts: pa.Array | pa.ChunkedArray) -> tuple[Int64s, pa.Array]:
    """Return the terms of each text: its words in order, then its pairs of neighbouring words joined by one space.

    Words are the runs of two or more letters, digits and underscores of the lowercase text. A null has no terms.

    >>> offsets, terms = tokenize(pa.array(["A red, RED fox"]))
    >>> terms.to_pylist()
    ['red', 'red', 'fox', 'red red', 'red fox']

    Args:
        texts: [B] string, large_string or string_view, or a dictionary of them.

    Returns:
        offsets [B + 1] int64, and terms [offsets[-1]] large_string; row b holds ``terms[offsets[b]:offsets[b + 1]]``.

    Raises:
        DataError: a text is not valid UTF-8, or `texts` is of another type.
    """
    bounds, words = _words(texts)
    firsts = _first_of_pairs(bounds)
    pairs = _join(words.take(pa.array(firsts)), words.take(pa.array(firsts + 1)))
    offsets, places = _interleave(bounds, firsts)
    order = np.empty(len(places), dtype=np.int64)
    order[places] = np.arange(len(places))
    return offsets, pa.concat_arrays([words, pairs]).take(pa.array(order))


def hashed_counts(texts: pa.Array | pa.ChunkedArray, buckets: int) -> tuple[Int64s, Int64s, Float32s]:
    """Count the terms of `tokenize` by bucket: the lowest bits of MurmurHash3 of the term, seed 0.

    Each distinct word and pair of the batch is hashed once. The number of rows that hold a bucket is
    ``np.bincount(ids, minlength=buckets)``, since no row names a bucket twice.

    Args:
        texts: [B] text, as for `tokenize`.
        buckets: a power of two, at most 2**31.

    Returns:
        offsets [B + 1] int64, ids [n] int64 in [0, buckets), ascending within each row, and counts [n] float32.

    Raises:
        ValueError: `buckets` is not a power of two.
        DataError: as for `tokenize`.
    """
    if buckets < 1 or buckets & (buckets - 1) or buckets > 1 << 31:
        raise ValueError(f"buckets must be a power of two up to 2**31, got {buckets!r}")
    bounds, words = _words(texts)
    num_rows, firsts = len(bounds) - 1, _first_of_pairs(bounds)
    word_hashes, pair_hashes = _hashes(words, firsts)
    word_rows = np.repeat(np.arange(num_rows, dtype=np.int64), np.diff(bounds))
    rows = np.concatenate([word_rows, word_rows[firsts]])
    cells = rows * buckets + (np.concatenate([word_hashes, pair_hashes]).astype(np.int64) & (buckets - 1))
    cells, counts = np.unique(cells, return_counts=True)
    offsets = np.searchsorted(cells, np.arange(num_rows + 1, dtype=np.int64) * buckets)
    return offsets.astype(np.int64, copy=False), cells & (buckets - 1), counts.astype(np.float32)


def idf(document_counts: npt.NDArray[np.integer | np.floating], num_documents: int) -> Float32s:
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


def _words(texts: pa.Array | pa.ChunkedArray) -> tuple[Int64s, pa.Array]:
    """Return the bounds [B + 1] int64 of the words of each text, and the words, large_string."""
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
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
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


def _interleave(bounds: Int64s, firsts: Int64s) -> tuple[Int64s, Int64s]:
    """Return the bounds [B + 1] of words and pairs together, and the place of each word and then of each pair."""
    num_words = np.diff(bounds)
    num_pairs = np.maximum(num_words - 1, 0)
    offsets = np.concatenate([[0], np.cumsum(num_words + num_pairs)])
    pair_bounds = offsets - bounds
    rows = np.repeat(np.arange(len(num_words)), num_words)
    word_places = np.arange(bounds[-1]) + pair_bounds[rows]
    pair_places = np.arange(len(firsts)) + bounds[rows[firsts] + 1]
    return offsets, np.concatenate([word_places, pair_places])


def _hashes(words: pa.Array, firsts: Int64s) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
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
