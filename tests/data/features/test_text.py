from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.utils import murmurhash3_32

from mlclf.data.features.text import SPREAD, TextColumn
from mlclf.errors import DataError

WHERE = "a.parquet row group 0"
TRAIN = ["a red fox", "Red red fence", None, "", "the fox is red"]
NEW = ["fox fence unknown", None, "red"]
BUCKETS = 64


def fitted(column: pa.Array) -> TextColumn:
    feature = TextColumn("s", BUCKETS)
    for start in range(0, len(column), 2):
        feature.fit(pa.table({"s": column[start : start + 2]}), WHERE, None)
    feature.finish()
    return feature


def dense(feature: TextColumn, column: pa.Array) -> np.ndarray:
    tokens = feature.encode_ids(pa.table({"s": column}), WHERE)
    assert tokens.lengths is not None
    assert tokens.values is not None
    result = np.zeros((len(column), feature.space))
    result[np.repeat(np.arange(len(column)), tokens.lengths), feature.kept[tokens.ids]] = tokens.values
    return result


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_weights_as_by_scikit_learn(kind: pa.DataType) -> None:
    analyze = CountVectorizer(ngram_range=(1, 2)).build_analyzer()

    def counts(texts: list[str | None]) -> np.ndarray:
        result = np.zeros((len(texts), BUCKETS * SPREAD))
        for row, text in enumerate(texts):
            for term in analyze(text or ""):
                result[row, murmurhash3_32(term, 0, positive=True) % (BUCKETS * SPREAD)] += 1
        return result

    in_two = (counts(TRAIN) > 0).sum(0) >= 2
    expected = TfidfTransformer().fit(counts(TRAIN) * in_two).transform(counts(NEW) * in_two).toarray()
    found = dense(fitted(pa.array(TRAIN).cast(kind)), pa.array(NEW).cast(kind))
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32


def test_saved_and_restored() -> None:
    feature = fitted(pa.array(TRAIN))
    restored = TextColumn.restore("s", feature.state(), feature.arrays())
    np.testing.assert_array_equal(dense(restored, pa.array(NEW)), dense(feature, pa.array(NEW)))
    assert restored.vocabulary_names() == feature.vocabulary_names()
    assert len(set(restored.vocabulary_names())) == restored.vocabulary_size == 2  # red and fox, each in two rows


def test_the_most_frequent_buckets_are_kept() -> None:
    feature = TextColumn("s", 2)
    feature.fit(pa.table({"s": ["red two six", "two six", "six", "red"]}), WHERE, None)
    feature.finish()
    words = ("red", "two", "six", "two six")
    bucket = {word: murmurhash3_32(word, 0, positive=True) % (2 * SPREAD) for word in words}
    assert len(set(bucket.values())) == 4
    assert feature.kept.tolist() == sorted([bucket["six"], min(bucket["red"], bucket["two"], bucket["two six"])])


def test_where_no_word_is_in_two_rows_all_are_kept() -> None:
    feature = fitted(pa.array(["red fox", "grey"]))
    assert feature.vocabulary_size == 4  # with the pair


@pytest.mark.parametrize("column", [pa.nulls(3), pa.array([None, "", "?"])])
def test_a_column_without_words_is_dropped(column: pa.Array) -> None:
    feature = fitted(column)
    assert feature.warning() == "column 's' has no word in any row; it is left out"
    for one in (feature, TextColumn.restore("s", feature.state(), feature.arrays())):
        assert (one.vocabulary_size, one.vocabulary_names()) == (0, [])
        assert one.encode_ids(pa.table({"s": ["red fox"]}), WHERE).ids.tolist() == []


def test_a_shard_of_nulls() -> None:
    assert (dense(fitted(pa.array(TRAIN)), pa.nulls(2)) == 0).all()


def test_errors_name_the_place() -> None:
    buffers = [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    broken = pa.Array.from_buffers(pa.string(), 1, buffers)
    with pytest.raises(DataError, match=rf"^{re.escape(WHERE)} column 's': text must be valid UTF-8: .+$"):
        fitted(broken)
