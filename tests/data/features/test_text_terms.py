from __future__ import annotations

import re
import sys
import unicodedata
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.utils import murmurhash3_32

from mlclf.data.features.text import hashed_counts, idf, tfidf, words_of
from mlclf.errors import DataError

# Both patterns see the same words here.
WORDS = ["red", "fox", "a", "Über", "stop_now", "x1", "12", "ГОД", "don't", "re-do", "猫犬", "_", "__", "e.g.", "Ⅷ½"]
TEXTS = st.lists(st.none() | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=12)
BUCKETS = 1 << 10


def by_row(offsets: npt.NDArray[np.int64], terms: pa.Array) -> list[list[str]]:
    values = terms.to_pylist()
    return [values[start:end] for start, end in pairwise(offsets.tolist())]


def dense(offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> object:
    return csr_matrix((values, ids, offsets), shape=(len(offsets) - 1, BUCKETS)).toarray()


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, kind=st.sampled_from([pa.string(), pa.large_string(), pa.string_view()]), skip=st.integers(0, 3))
def test_words_are_those_of_scikit_learn_in_its_order(texts: list[str | None], kind: pa.DataType, skip: int) -> None:
    analyze = CountVectorizer().build_analyzer()
    offsets, words = words_of(pa.array(texts, kind).slice(skip))
    assert offsets.dtype == np.int64
    assert words.type == pa.large_string()
    assert by_row(offsets, words) == [analyze(value or "") for value in texts[skip:]]


def test_terms_of_one_example() -> None:
    texts = pa.array(["A red, RED fox!", None, "", "x y z", "one"])
    offsets, words = words_of(texts)
    assert offsets.tolist() == [0, 3, 3, 3, 3, 4]
    assert words.to_pylist() == ["red", "red", "fox", "one"]
    offsets, ids, counts = hashed_counts(texts, BUCKETS)
    terms = {"red": 2, "fox": 1, "red red": 1, "red fox": 1}
    expected = {murmurhash3_32(term, 0, positive=True) % BUCKETS: count for term, count in terms.items()}
    assert dict(zip(ids[: offsets[1]].tolist(), counts[: offsets[1]].tolist(), strict=True)) == expected
    assert ids[offsets[1] :].tolist() == [murmurhash3_32("one", 0, positive=True) % BUCKETS]


def test_chunks_and_dictionaries_are_texts() -> None:
    texts = ["red fox", None, "fox"]
    expected = by_row(*words_of(pa.array(texts)))
    chunks = pa.chunked_array([texts[:1], texts[1:]])
    for array in (chunks, chunks.dictionary_encode(), pa.array(texts).dictionary_encode()):
        assert by_row(*words_of(array)) == expected


@pytest.mark.parametrize("texts", [[], [None], [None, "", "a"]])
def test_no_terms(texts: list[str | None]) -> None:
    array = pa.array(texts, pa.string())
    offsets, words = words_of(array)
    assert offsets.tolist() == [0] * (len(texts) + 1)
    assert words.to_pylist() == []
    offsets, ids, counts = hashed_counts(array, 8)
    assert offsets.tolist() == [0] * (len(texts) + 1)
    assert (ids.dtype, counts.dtype, len(ids), len(counts)) == (np.int64, np.float32, 0, 0)


def test_pattern_and_lowercase_are_those_of_scikit_learn_for_every_character() -> None:
    characters = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Cs")]
    assert len(characters) > 280_000
    series = pl.Series(characters)
    ours = series.str.contains(r"^[\pL\pN_]$").to_list()
    assert ours == [re.fullmatch(r"\w", c) is not None for c in characters]
    assert series.str.to_lowercase().to_list() == [c.lower() for c in characters]


def test_marks_end_a_word() -> None:
    decomposed = unicodedata.normalize("NFD", "détente")
    assert by_row(*words_of(pa.array([decomposed]))) == [["de", "tente"]]
    assert by_row(*words_of(pa.array(["ΣΊΣΥΦΟΣ"]))) == [["σίσυφος"]]


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
def test_hashed_counts_are_those_of_scikit_learn(texts: list[str | None]) -> None:
    offsets, ids, counts = hashed_counts(pa.array(texts, pa.string()), BUCKETS)
    analyze = CountVectorizer(ngram_range=(1, 2)).build_analyzer()
    expected = np.zeros((len(texts), BUCKETS))
    for row, value in enumerate(texts):
        for term in analyze(value or ""):
            expected[row, murmurhash3_32(term, seed=0, positive=True) % BUCKETS] += 1
    np.testing.assert_array_equal(dense(offsets, ids, counts), expected)
    for start, end in pairwise(offsets.tolist()):
        assert (np.diff(ids[start:end]) > 0).all()
    assert (offsets.dtype, ids.dtype, counts.dtype) == (np.int64, np.int64, np.float32)


@pytest.mark.parametrize("word", ["red", "fox", "hen", "owl", "cat", "dog"])
def test_a_bucket_is_that_of_scikit_learn_or_its_mirror_image(word: str) -> None:
    # scikit-learn takes the absolute value of the signed hash where the lowest bits of the unsigned one are ours.
    vectorizer = HashingVectorizer(n_features=BUCKETS, norm=None, alternate_sign=False)
    theirs = int(vectorizer.transform([word]).indices[0])
    is_negative = murmurhash3_32(word, seed=0) < 0
    assert hashed_counts(pa.array([word]), BUCKETS)[1].tolist() == [-theirs % BUCKETS if is_negative else theirs]


def test_one_bucket_and_the_most_buckets() -> None:
    offsets, ids, counts = hashed_counts(pa.array(["aa bb", "cc"]), 1)
    assert (offsets.tolist(), ids.tolist(), counts.tolist()) == ([0, 1, 2], [0, 0], [3, 1])
    _, ids, _ = hashed_counts(pa.array(["aa", "bb"] * 3), 1 << 31)
    assert len(set(ids.tolist())) == 2


@pytest.mark.parametrize("buckets", [0, -2, 3, 1 << 32])
def test_buckets_are_a_power_of_two(buckets: int) -> None:
    with pytest.raises(ValueError, match=rf"^buckets must be a power of two up to 2\*\*31, got {buckets}$"):
        hashed_counts(pa.array(["a"]), buckets)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
def test_tfidf_is_that_of_scikit_learn(texts: list[str | None]) -> None:
    values = ["red fox", *texts]  # scikit-learn refuses an empty vocabulary
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), dtype=np.float64)
    theirs = vectorizer.fit_transform([value or "" for value in values]).toarray()
    buckets = 1 << 31  # wide enough that no two terms of these words meet
    offsets, ids, counts = hashed_counts(pa.array(values, pa.string()), buckets)
    distinct, places = np.unique(ids, return_inverse=True)
    assert len(distinct) == len(vectorizer.vocabulary_)
    weights = idf(np.bincount(places), len(values))
    ours = tfidf(offsets, places, counts, weights)
    assert (weights.dtype, ours.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(np.sort(weights), np.sort(vectorizer.idf_), rtol=1e-7)  # rounding to float32
    for row in range(len(values)):
        expected = np.sort(theirs[row][theirs[row] > 0])
        np.testing.assert_allclose(np.sort(ours[offsets[row] : offsets[row + 1]]), expected, rtol=3e-7)


def test_a_row_of_zeros_stays_zero() -> None:
    values = tfidf(np.array([0, 1, 1, 3]), np.array([0, 0, 1]), np.ones(3, np.float32), np.array([0, 2], np.float32))
    assert values.tolist() == [0, 0, 1]


def test_idf_of_an_unseen_bucket_is_the_largest() -> None:
    np.testing.assert_allclose(idf(np.array([0, 1, 9]), 9), np.log([10, 5, 1]) + 1, rtol=1e-7)


@pytest.mark.parametrize(("count", "shown"), [(-1, "-1"), (10, "10"), (np.nan, "nan")])
def test_document_counts_are_in_range(count: float, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^document counts must be in \[0, 9\], got {shown} for bucket 1$"):
        idf(np.array([0, count]), 9)


def test_text_that_is_not_utf8_is_refused() -> None:
    bounds = pa.py_buffer(np.array([0, 1, 3], dtype=np.int32).tobytes())
    array = pa.Array.from_buffers(pa.string(), 2, [None, bounds, pa.py_buffer(b"a\xff\xfe")])
    message = "text must be valid UTF-8: Invalid UTF8 sequence at string index 1; write the column again as UTF-8"
    with pytest.raises(DataError, match=f"^{message}$"):
        hashed_counts(array, 4)


@pytest.mark.parametrize("array", [pa.array([1]), pa.array([1]).dictionary_encode()], ids=["int", "dictionary"])
def test_other_types_are_refused(array: pa.Array) -> None:
    message = f"text must be strings, got {array.type}; cast the column or give it another role"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        hashed_counts(array, 4)


def test_a_panic_of_polars_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> None:
        raise pl.exceptions.PanicException("boom")

    monkeypatch.setattr(pl, "Series", panic)
    message = "text could not be split into words: boom; look for unusual characters"
    with pytest.raises(DataError, match=f"^{message}$"):
        hashed_counts(pa.array(["a"]), 4)
