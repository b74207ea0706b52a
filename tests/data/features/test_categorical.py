from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils import murmurhash3_32

from mlclf.data.arrow.identities import canonical
from mlclf.data.features.categorical import MISSING, OTHER, CategoricalColumn
from mlclf.data.features.tokens import TokensColumn
from mlclf.errors import DataError

WHERE = "a.parquet row group 0"


def fitted(column: Any, is_list: bool = False, max_levels: int = 100, hash_limit: int = 1000) -> CategoricalColumn:
    feature = (TokensColumn if is_list else CategoricalColumn)("s", max_levels, hash_limit, 16)
    for start in range(0, len(column), 5):
        feature.fit(pa.table({"s": column[start : start + 5]}), WHERE, None)
    feature.finish()
    return feature


def rows_of(feature: CategoricalColumn, column: Any) -> list[list[str]]:
    """Names of the ids of each row."""
    tokens = feature.encode_ids(pa.table({"s": column}), WHERE)
    names = feature.vocabulary_names()
    assert len(names) == feature.vocabulary_size
    assert tokens.values is None
    lengths = np.ones(len(column), np.int64) if tokens.lengths is None else tokens.lengths
    ends = np.cumsum(lengths)
    return [[names[i] for i in tokens.ids[end - size : end]] for end, size in zip(ends, lengths, strict=True)]


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_levels_as_by_scikit_learn(kind: pa.DataType) -> None:
    values = ["b", "a", "b", None, "c", "b", "a"]
    column = pa.array(values).cast(kind)
    feature = fitted(column)
    assert feature.levels == ("b", "a", "c")
    ids = feature.encode_ids(pa.table({"s": column}), WHERE).ids
    one_hot = np.eye(feature.vocabulary_size)[ids]
    encoder = OneHotEncoder(categories=[["b", "a", "c"]], handle_unknown="ignore", sparse_output=False)
    np.testing.assert_array_equal(one_hot[:, 2:], encoder.fit_transform(np.array(values, object)[:, None]))
    np.testing.assert_array_equal(one_hot[:, MISSING], [value is None for value in values])
    assert not one_hot[:, OTHER].any()
    new = pa.array(["z", None, "a"]).cast(kind)
    assert rows_of(feature, new) == [["s:other"], ["s:missing"], ["s=a"]]
    assert feature.counted() == ["column 's': 1 values are not in the vocabulary ('other')"]


def test_string_types_and_dictionaries_mix() -> None:
    feature = CategoricalColumn("s", 100, 1000, 16)
    parts = [["a", "b"], ["b", "c"], ["c", "a"], ["b", None]]
    for kind, part in zip(TEXTS, parts, strict=True):
        feature.fit(pa.table({"s": pa.array(part).cast(kind)}), WHERE, None)
    feature.finish()
    assert feature.levels == ("b", "a", "c")
    for kind, part in zip(TEXTS, parts, strict=True):
        expected = [["s:missing" if value is None else f"s={value}"] for value in part]
        assert rows_of(feature, pa.array(part).cast(kind)) == expected


def test_dictionaries_that_differ_from_chunk_to_chunk() -> None:
    chunks = pa.chunked_array([pa.array(part).dictionary_encode() for part in (["a", "b"], ["b", "a"], ["b", None])])
    feature = CategoricalColumn("s", 100, 1000, 16)
    feature.fit(pa.table({"s": chunks}), WHERE, None)
    feature.finish()
    assert rows_of(feature, chunks) == [["s=a"], ["s=b"], ["s=b"], ["s=a"], ["s=b"], ["s:missing"]]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (pa.array([2**53 + 1, 2**53, 2**53 + 1, None]), (str(2**53 + 1), str(2**53))),
        (pa.array([2**64 - 1, 1], pa.uint64()), ("1", str(2**64 - 1))),
        (pa.array([True, False, True]), ("1", "0")),
        (pa.array([1.0, 0.5, 1.0, float("nan")]), ("1", "0.5")),
        (pa.array([np.float16(1), np.float16(2)], pa.float16()), ("1", "2")),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ("1.5", "2")),
        (pa.array([0, 1], pa.date32()), ("1970-01-01", "1970-01-02")),
        (pa.array([1, 2], pa.duration("ms")), ("0.001 s", "0.002 s")),
    ],
)
def test_levels_of_other_types_are_their_canonical_text(values: pa.Array, levels: tuple[str, ...]) -> None:
    feature = fitted(values)
    assert feature.levels == levels
    expected = [[f"s={level}" for level in levels if level == text] or ["s:missing"]
                for text in canonical(values).to_pylist()]  # fmt: skip
    assert rows_of(feature, values) == expected


def test_ties_are_ordered_by_code_point_and_the_rarest_are_other() -> None:
    feature = fitted(pa.array(["é", "z", "Z", "q", "q"]), max_levels=3)
    assert feature.levels == ("q", "Z", "z")
    assert feature.warning() == "column 's': 1 rarest levels count as 'other'"
    assert rows_of(feature, pa.array(["é"])) == [["s:other"]]


def test_beyond_the_limit_levels_are_hashed() -> None:
    values = [f"v{i}" for i in range(40)]
    feature = fitted(pa.array([*values, None]), hash_limit=10)
    assert feature.warning() == "column 's' has more than 10 distinct values; it is hashed to 16 buckets"
    expected = [[f"s#{murmurhash3_32(value, 0, positive=True) % 16}"] for value in values]
    assert rows_of(feature, pa.array([*values, None])) == [*expected, ["s:missing"]]
    restored = type(feature).restore("s", feature.state(), {})
    assert rows_of(restored, pa.array(values)) == expected
    assert fitted(pa.array(values), hash_limit=40).buckets == 0


LIST_KINDS = [
    pa.list_(pa.string()),
    pa.large_list(pa.string_view()),
    pa.list_(pa.dictionary(pa.int32(), pa.string())),
]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.sampled_from(["a", "b", "c"]), max_size=4), max_size=12),
    kind=st.sampled_from(LIST_KINDS), skip=st.integers(0, 3), hashed=st.booleans(),
)  # fmt: skip
def test_token_lists(rows: list[list[str] | None], kind: pa.DataType, skip: int, hashed: bool) -> None:
    column = pa.array(rows, pa.list_(pa.string())).cast(kind).slice(skip)
    kept = rows[skip:]
    feature = fitted(column, is_list=True, hash_limit=1 if hashed else 100)
    counts = Counter(token for row in kept for token in row or [])
    if not counts:
        assert feature.warning() == "column 's' has no token in any row; it is left out"
        assert rows_of(feature, column) == [[]] * len(kept)
        return
    name = (lambda t: f"s#{murmurhash3_32(t, 0, positive=True) % 16}") if feature.buckets else (lambda t: f"s={t}")
    assert bool(feature.buckets) == (hashed and len(counts) > 1)
    if not feature.buckets:
        assert feature.levels == tuple(sorted(counts, key=lambda token: (-counts[token], token)))
    expected = [["s:missing"] if row is None else [name(token) for token in row] for row in kept]
    assert rows_of(feature, column) == expected
    assert rows_of(type(feature).restore("s", feature.state(), {}), column) == expected


def test_integer_tokens_are_exact() -> None:
    column = pa.array([[2**53 + 1, 2**53], [2**53 + 1], None])
    feature = fitted(column, is_list=True)
    big, small = f"s={2**53 + 1}", f"s={2**53}"
    assert rows_of(feature, column) == [[big, small], [big], ["s:missing"]]
    assert rows_of(feature, column.cast(pa.large_list(pa.uint64()))) == [[big, small], [big], ["s:missing"]]


@pytest.mark.parametrize(
    ("column", "warning"),
    [
        (pa.array([None, None], pa.string()), "column 's' has no value in any row; it is left out"),
        (pa.nulls(2), "column 's' has no value in any row; it is left out"),
        (pa.array(["a", "a"]), "column 's' is constant ('a'); it is left out"),
    ],
)
def test_columns_that_say_nothing_are_dropped(column: pa.Array, warning: str) -> None:
    feature = fitted(column)
    assert (feature.warning(), feature.vocabulary_size, feature.vocabulary_names()) == (warning, 0, [])
    for one in (feature, type(feature).restore("s", feature.state(), {})):
        assert rows_of(one, pa.array(["a", "b", None])) == [[], [], []]
        assert one.counted() == []


def test_one_level_and_missing_ones_say_something() -> None:
    feature = fitted(pa.array(["a", None]))
    assert feature.warning() is None
    assert rows_of(feature, pa.array(["a", None])) == [["s=a"], ["s:missing"]]


def test_shards_where_nothing_is_written() -> None:
    feature = fitted(pa.array([["a"], ["b"]]), is_list=True)
    assert rows_of(feature, pa.nulls(2)) == [["s:missing"], ["s:missing"]]
    assert rows_of(feature, pa.array([[], None], pa.list_(pa.null()))) == [[], ["s:missing"]]


def test_a_null_inside_a_list_is_refused() -> None:
    message = (
        f"{WHERE}: column 's' has a list with a null inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        fitted(pa.array([["a", None]]), is_list=True)
