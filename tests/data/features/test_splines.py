"""Linear splines: where their knots lie, what the inputs above them are; rows of files get what rows in memory get."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn
from mlclf.data.features.numeric import LARGEST
from mlclf.data.features.splines import LinearSplines, quantile_knots, shortest

WHERE = "a.parquet row group 0"


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        (np.arange(101), 3, [25, 50, 75]),
        (np.arange(101), 1, [50]),
        (floats(0, 1), 3, []),
        (floats(4), 3, []),
        (floats(), 3, []),
        (floats(1, 1, 1, 2, 3, 3), 3, [2]),
        (np.append(np.zeros(900), np.arange(101)), 3, [25, 50, 75]),  # quantiles of all are 0, the least
        (np.append(np.full(900, 9), np.arange(10)), 2, [3, 6]),
    ],
)
def test_knots_are_quantiles_inside_the_values(values: np.ndarray, count: int, expected: list[float]) -> None:
    assert [float(knot) for knot in quantile_knots(values.astype(np.float32), count)] == expected


def test_the_inputs_are_standardized_by_weight() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(500, 2)).astype(np.float32), rng.integers(0, 4, 500).astype(float)
    splines = LinearSplines.fitted([(0, x[:, 0]), (1, x[:, 1])], weights, 4)
    assert splines.inputs.tolist() == [0] * 4 + [1] * 4
    rows = np.concatenate([x, np.zeros((500, 8), np.float32)], 1)
    splines.fill(rows)
    assert (rows[:, :2] == x).all()
    np.testing.assert_allclose(np.average(rows[:, 2:], axis=0, weights=weights), 0, atol=1e-6)
    np.testing.assert_allclose(np.average(rows[:, 2:] ** 2, axis=0, weights=weights), 1, rtol=1e-5)
    for number, (index, at) in enumerate(zip(splines.inputs, splines.knots, strict=True)):
        above = np.maximum(x[:, index].astype(float) - at, 0)
        assert np.corrcoef(above, rows[:, 2 + number])[0, 1] == pytest.approx(1)


def test_missing_values_place_no_knot_and_count_as_the_mean() -> None:
    x = floats(np.nan, np.nan, np.nan, -2, -1, 0, 1, 2)
    splines = LinearSplines.fitted([(0, x)], np.ones(8), 1)
    assert splines.knots.tolist() == [0]
    assert float(splines.mean[0]) == pytest.approx(3 / 8)


def test_extreme_values_stay_finite() -> None:
    splines = LinearSplines.fitted([(0, np.linspace(-1, 1, 99, dtype=np.float32))], np.ones(99), 3)
    rows = np.zeros((2, 4), np.float32)
    rows[:, 0] = LARGEST, -LARGEST
    splines.fill(rows)
    assert np.isfinite(rows).all()
    assert (rows[0, 1:] == LARGEST).all()


def test_rows_of_a_table_get_what_rows_in_memory_get() -> None:
    columns = FeatureColumn("age", "numeric"), FeatureColumn("e", "embedding", 2), FeatureColumn("fee", "numeric")
    rng = np.random.default_rng(1)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=600)), 2)
    age = pa.array(rng.integers(18, 90, 300), mask=rng.random(300) < 0.1)
    table = pa.table({"age": age, "e": embedding, "fee": pa.array(rng.lognormal(size=300).astype(np.float32))})
    features = FeatureEncoder.fresh(columns, EncodingOptions(True, 9, 9, 8))
    features.fit(table, WHERE, None)
    features.finish()
    assert list(features.spline_inputs()) == [("age", 0, 1), ("fee", 4, None)]
    lines = np.zeros((300, 5), np.float32)
    features.encode_dense(table, WHERE, lines)
    values = ((index, lines[:, index]) for _, index, _ in features.spline_inputs())
    features.splines = LinearSplines.fitted(values, np.ones(300), 2)
    expected = np.concatenate([lines, np.zeros((300, 4), np.float32)], 1)
    features.splines.fill(expected)

    document = features.to_json()
    assert document["dense"][:5] == ["age", "age:missing", "e[0]", "e[1]", "fee"]
    knots = [float(name.split(" above ")[1]) for name in document["dense"][5:]]
    assert [name.split(" above ")[0] for name in document["dense"][5:]] == ["age", "age", "fee", "fee"]
    np.testing.assert_allclose(knots[2:], np.quantile(table["fee"], [1 / 3, 2 / 3], method="lower"), rtol=1e-4)
    assert 18 < knots[0] < knots[1] < 90

    restored = FeatureEncoder.from_json(document, features.arrays())
    assert restored.to_json() == document
    for each in (features, restored):
        rows = np.full((302, 9), -9, np.float32)
        each.encode_dense(table, WHERE, rows)
        assert (rows[:300] == expected).all()
        assert (rows[300:] == -9).all()


def test_knots_are_written_as_shortly_as_tells_them_apart() -> None:
    assert shortest([37.00000012, 41.5]) == ["37", "41.5"]
    assert shortest([1_356_998_400.0, 1_357_002_000.0]) == ["1.356998e+09", "1.357002e+09"]
