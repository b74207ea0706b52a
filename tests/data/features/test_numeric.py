from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler

from mlclf.data.features.embedding import EmbeddingColumn
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn
from mlclf.data.features.numeric import LARGEST, NumericColumn, numeric_values
from mlclf.errors import DataError

WHERE = "a.parquet row group 0"
FLOAT32 = pa.float32()


def fitted(column: Any, width: int = 0, standardize: bool = True) -> NumericColumn:
    role = EmbeddingColumn if width else NumericColumn
    feature = role.fresh(FeatureColumn("x", role.role, width), EncodingOptions(standardize, 0, 0, 0))
    for start in range(0, len(column), 7):
        feature.fit(pa.table({"x": column[start : start + 7]}), WHERE, None)
    feature.finish()
    return feature


def encoded(feature: NumericColumn, column: Any) -> np.ndarray:
    """Rows × inputs."""
    out = np.full((len(feature.dense_names()), len(column)), np.nan, np.float32)
    feature.encode_dense(pa.table({"x": column}), WHERE, out)
    return out.T


KINDS = [pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.timestamp("ms")]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("missing", [False, True])
def test_standardized_as_by_scikit_learn(kind: pa.DataType, missing: bool) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2 if kind == pa.bool_() else 100, 50)
    absent = (rng.random(50) < 0.2) & missing
    column = pa.array([None if gone else int(value) for value, gone in zip(numbers, absent, strict=True)])
    column = pa.array([None if v is None else bool(v) for v in column.to_pylist()]) if kind == pa.bool_() else (
        column.cast(pa.int64()).cast(kind, safe=False))  # fmt: skip
    raw = np.where(absent, np.nan, numbers / (1000 if pa.types.is_temporal(kind) else 1))
    expected = np.nan_to_num(StandardScaler().fit_transform(raw[:, None]), nan=0.0)  # the mean
    feature = fitted(column)
    assert feature.dense_names() == (["x", "x:missing"] if missing else ["x"])
    found = encoded(feature, column)
    np.testing.assert_allclose(found[:, :1], expected, atol=2e-6)  # float32 of numbers below 10
    if missing:
        np.testing.assert_array_equal(found[:, 1], absent)
    restored = NumericColumn.restore("x", feature.state(), feature.arrays())
    np.testing.assert_array_equal(encoded(restored, column), found)
    assert restored.dense_names() == feature.dense_names()


def test_values_beyond_float32_are_scaled_first() -> None:
    column = pa.array([1e300, 3e300, None, 5e300])
    found = encoded(fitted(column), column)
    np.testing.assert_allclose(found[:, 0], [-np.sqrt(1.5), 0, 0, np.sqrt(1.5)], rtol=1e-6)


def test_large_offsets_keep_their_digits() -> None:
    column = pa.array(1e8 + np.arange(50.0))
    expected = (np.arange(50) - 24.5) / np.arange(50).std()
    np.testing.assert_allclose(encoded(fitted(column), column)[:, 0], expected, atol=1e-6)
    wide = pa.array(10**9 + np.arange(50))
    np.testing.assert_allclose(encoded(fitted(wide), wide)[:, 0], expected, atol=1e-6)


def test_mean_squares_beyond_float32() -> None:
    column = pa.array(np.array([1e30, -1e30, 1e30, -1e30], np.float32))
    np.testing.assert_allclose(encoded(fitted(column), column)[:, 0], [1, -1, 1, -1], rtol=1e-6)
    tiny = pa.array(np.array([1e-40, 3e-40], np.float32))
    np.testing.assert_allclose(encoded(fitted(tiny), tiny)[:, 0], [-1, 1], rtol=1e-4)  # subnormal: few digits


@pytest.mark.parametrize(
    ("column", "names", "warning"),
    [
        (pa.array([None, None], pa.float64()), [], "column 'x' has no value in any row; it is left out"),
        (pa.array([float("nan")] * 2), [], "column 'x' has no value in any row; it is left out"),
        (pa.nulls(2), [], "column 'x' has no value in any row; it is left out"),
        (pa.array([1e8] * 9, pa.float32()), [], "column 'x' is constant (1e+08); it is left out"),
        (pa.array([2, None]), ["x:missing"], "column 'x' is constant (2); only whether it is missing is used"),
        (pa.array([2, 3]), ["x"], None),
    ],
)
def test_columns_that_say_nothing_are_dropped(column: Any, names: list[str], warning: str | None) -> None:
    feature = fitted(column)
    assert (feature.dense_names(), feature.warning()) == (names, warning)
    assert encoded(feature, column).shape == (len(column), len(names))


def test_missing_values_of_new_data_take_the_mean_and_are_counted() -> None:
    feature = fitted(pa.array([1.0, 3.0]))
    assert encoded(feature, pa.array([None, 1.0, float("nan")])).tolist() == [[0.0], [-1.0], [0.0]]
    assert feature.counted() == ["column 'x': 2 missing values took the training mean (none was missing in training)"]
    assert feature.counted() == []
    plain = fitted(pa.array([1.0, 3.0]), standardize=False)
    assert encoded(plain, pa.array([None, 1.0])).tolist() == [[2.0], [1.0]]


@pytest.mark.parametrize("standardize", [True, False])
def test_new_values_that_do_not_fit_are_clipped_and_counted(standardize: bool) -> None:
    feature = fitted(pa.array([1.0, 3.0]), standardize=standardize)
    found = encoded(feature, pa.array([1e300, -1.7e308, None, 3.0]))[:, 0]
    assert found[:2].tolist() == [LARGEST, -LARGEST]
    assert np.isfinite(found).all()
    assert feature.counted()[-1] == "column 'x': 2 values beyond float32 became its largest"


def test_not_standardized() -> None:
    column = pa.array([1, None, 4], pa.int32())
    assert encoded(fitted(column, standardize=False), column).tolist() == [[1, 0], [2.5, 1], [4, 0]]


def embedding(rows: list[list[float] | None], kind: pa.DataType = FLOAT32) -> pa.Array:
    return pa.array(rows, pa.list_(kind, 3))


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8()], ids=str)
@pytest.mark.parametrize("skip", [0, 1])
def test_embeddings_with_null_rows(kind: pa.DataType, skip: int) -> None:
    number = np.float16 if kind == pa.float16() else int if kind == pa.int8() else float
    rows = [[number(i), number(2 * i % 5), number(7)] if i % 4 else None for i in range(20)]
    column = embedding(rows, kind).slice(skip)
    raw = np.array([[np.nan] * 3 if row is None else [float(v) for v in row] for row in rows[skip:]])
    feature = fitted(column, width=3)
    assert feature.dense_names() == ["x[0]", "x[1]", "x[2]", "x:missing"]
    found = encoded(feature, column)
    np.testing.assert_allclose(found[:, :3], np.nan_to_num(StandardScaler().fit_transform(raw)), atol=1e-6)
    np.testing.assert_array_equal(found[:, 3], np.isnan(raw[:, 0]))
    restored = EmbeddingColumn.restore("x", feature.state(), feature.arrays())
    np.testing.assert_array_equal(encoded(restored, column), found)


def test_embeddings_that_say_nothing() -> None:
    for column, warning in (
        (embedding([None, None]), "column 'x' has no value in any row; it is left out"),
        (pa.nulls(2), "column 'x' has no value in any row; it is left out"),
        (embedding([[1.0, 2.0, 3.0]] * 2), "column 'x' is constant (1, …); it is left out"),
    ):
        feature = fitted(column, width=3)
        assert (feature.dense_names(), feature.warning()) == ([], warning)


def test_messages() -> None:
    infinite = (
        f"{WHERE} column 'x': values must be finite, found 2 infinite; replace them by null (missing) or by a number "
        "where the data is written, or leave the column out of a fit with --exclude"
    )
    for column, width in (
        (pa.array([1.0, float("inf"), float("-inf"), None, float("nan")]), 0),
        (pa.array([np.float16("inf"), np.float16("-inf")], pa.float16()), 0),
        (pa.array([float("inf"), float("inf")], pa.float32()), 0),
        (embedding([[1.0, float("inf"), float("inf")]]), 3),
    ):
        with pytest.raises(DataError, match=f"^{re.escape(infinite)}$"):
            fitted(column, width)
    inside = (
        f"{WHERE}: column 'x' has a list with a null inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )
    with pytest.raises(DataError, match=f"^{re.escape(inside)}$"):
        fitted(embedding([[1.0, None, 2.0]]), 3)


def test_sums_may_overflow_where_values_do_not() -> None:
    column = pa.chunked_array([[1.7e308, 1.7e308]])
    np.testing.assert_array_equal(numeric_values(column, WHERE), [1.7e308, 1.7e308])
