from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.features.sparse import LARGEST_WIDTH, SparseColumn
from mlclf.errors import DataError

WHERE = "a.parquet row group 0"
Pairs = list[tuple[int, float]] | None


def table_of(rows: list[Pairs], indices: pa.DataType, values: pa.DataType) -> pa.Table:
    return pa.table(
        {
            "indices": pa.array([row if row is None else [index for index, _ in row] for row in rows], indices),
            "values": pa.array([row if row is None else [value for _, value in row] for row in rows], values),
        }
    )


def fitted(table: pa.Table) -> SparseColumn:
    feature = SparseColumn("indices", values_name="values")
    feature.fit(table, WHERE, None)
    feature.finish()
    return feature


def dense(feature: SparseColumn, table: pa.Table) -> np.ndarray:
    tokens = feature.encode_ids(table, WHERE)
    assert tokens.lengths is not None
    assert tokens.values is not None
    result = np.zeros((table.num_rows, feature.width))
    np.add.at(result, (np.repeat(np.arange(table.num_rows), tokens.lengths), tokens.ids), tokens.values)
    return result


ROWS = st.lists(st.none() | st.lists(st.tuples(st.integers(0, 9), st.floats(-8, 8, width=16)), max_size=5), max_size=10)
KINDS = [
    (pa.list_(pa.int64()), pa.list_(pa.float64())),
    (pa.large_list(pa.int8()), pa.list_(pa.float32())),
    (pa.list_(pa.uint64()), pa.large_list(pa.float64())),
]


@settings(max_examples=60, deadline=None)
@given(train=ROWS, new=ROWS, kinds=st.sampled_from(KINDS), skip=st.integers(0, 3))
def test_rows_are_those_of_a_plain_matrix(
    train: list[Pairs], new: list[Pairs], kinds: tuple[Any, Any], skip: int
) -> None:
    feature = fitted(table_of(train, *kinds).slice(skip))
    seen = [index for row in train[skip:] for index, _ in row or []]
    assert feature.width == feature.vocabulary_size == len(feature.vocabulary_names()) == max(seen, default=-1) + 1
    expected = np.zeros((len(new), feature.width))
    beyond = 0
    for number, row in enumerate(new):
        for index, value in row or []:
            if index < feature.width:
                expected[number, index] += value
            else:
                beyond += 1
    np.testing.assert_array_equal(dense(feature, table_of(new, *kinds)), expected)
    lines = [f"column 'indices': {beyond:,} indices beyond {feature.width:,} ignored"] if beyond else []
    assert feature.counted() == lines
    restored = SparseColumn.restore("indices", feature.state(), {})
    np.testing.assert_array_equal(dense(restored, table_of(new, *kinds)), expected)


def test_a_shard_without_pairs() -> None:
    feature = fitted(table_of([[(2, 1.0)]], *KINDS[0]))
    empty = pa.array([[], None], pa.list_(pa.null()))
    for columns in ({"indices": pa.nulls(2), "values": pa.nulls(2)}, {"indices": empty, "values": empty}):
        assert dense(feature, pa.table(columns)).tolist() == [[0, 0, 0]] * 2
    nothing = fitted(pa.table({"indices": empty, "values": empty}))
    assert nothing.warning() == "column 'indices' has no index in any row; it is left out"


def test_nan_counts_as_nothing_and_is_counted() -> None:
    table = table_of([[(0, float("nan")), (1, 2.0)]], *KINDS[0])
    feature = fitted(table)
    assert dense(feature, table).tolist() == [[0, 2]]
    assert feature.counted() == ["column 'values': 1 values are NaN and count as 0"]


INSIDE = (
    f"{WHERE}: column '%s' has a list with a null inside; a whole list may be null (missing), "
    "its elements may not: drop or fill them where the data is written"
)
BOUNDS = (
    f"{WHERE} column 'indices': indices must be 0 or more and below {LARGEST_WIDTH:,}, found %d; number the inputs "
    "from 0 where the data is written"
)
REFUSED: list[tuple[list[Any], list[Any], str]] = [
    ([[1, None]], [[1.0, 1.0]], INSIDE % "indices"),
    ([[1, 2]], [[1.0, None]], INSIDE % "values"),
    ([[-1, 2]], [[1.0, 1.0]], BOUNDS % -1),
    ([[2**40]], [[1.0]], BOUNDS % 2**40),
    (
        [[1], [1, 2], [3]],
        [[1.0], [1.0], [1.0]],
        (
            f"{WHERE}: columns 'indices' and 'values' must have lists of one length in each row, "
            "found 2 indices and 1 values in one; write both from the same pairs"
        ),
    ),
    (
        [[1]],
        [[1e300]],
        (
            f"{WHERE} column 'values': sparse values must fit float32 (up to 3.4e38), found 1e+300; "
            "scale them where the data is written"
        ),
    ),
    (
        [[1]],
        [[float("inf")]],
        (
            f"{WHERE} column 'values': values must be finite, found 1 infinite; replace them by null (missing) "
            "or by a number where the data is written, or leave the column out of a fit with --exclude"
        ),
    ),
]


@pytest.mark.parametrize(("indices", "values", "message"), REFUSED)
def test_messages(indices: list[Any], values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        fitted(pa.table({"indices": indices, "values": values}))
