from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlclf.data.features.features import Features
from mlclf.data.schema.schema import FeatureColumn, Schema
from mlclf.errors import RunError

WHERE = "a.parquet row group 0"
SCHEMA = Schema(
    (
        FeatureColumn("x", "numeric"),
        FeatureColumn("s", "categorical"),
        FeatureColumn("c", "numeric"),
        FeatureColumn("e", "embedding", 2),
        FeatureColumn("t", "tokens"),
        FeatureColumn("indices", "sparse", 0, "values"),
        FeatureColumn("note", "text"),
    ),
    ("y",),
)
TABLE = pa.table(
    {
        "x": [1.0, None, 3.0, 4.0],
        "s": ["b", "a", None, "b"],
        "c": [7, 7, 7, 7],
        "e": pa.array([[0.0, 1.0], None, [1.0, 1.0], [2.0, 1.0]], pa.list_(pa.float32(), 2)),
        "t": [["u", "v"], None, [], ["v"]],
        "indices": [[0, 2], None, [1], []],
        "values": [[0.5, 2.0], None, [3.0], []],
        "note": ["red fox", None, "fox", ""],
    }
)


def fitted(standardize: bool = True) -> Features:
    features = Features.fresh(
        SCHEMA, standardize=standardize, vocabulary_levels=10, hash_limit=100, hash_buckets=8
    )  # fmt: skip
    for start in range(TABLE.num_rows):
        features.fit(TABLE.slice(start, 1), WHERE, None)
    assert features.finish() == ["column 'c' is constant (7); it is left out"]
    return features


def rows_of(features: Features, table: pa.Table) -> list[dict[str, float]]:
    """Each row as name → value, dense inputs and ids alike."""
    document = features.to_json()
    names, vocabulary = document["dense"], document["vocabulary"]
    assert (len(names), len(vocabulary)) == (features.num_dense, features.vocabulary_size)
    dense = np.full((table.num_rows + 2, features.num_dense), -9, np.float32)
    features.encode_dense(table, WHERE, dense)
    assert (dense[table.num_rows :] == -9).all()
    tokens = features.encode_tokens(table, WHERE)
    assert tokens.lengths is not None
    assert tokens.values is not None
    result = []
    end = 0
    for row in range(table.num_rows):
        start, end = end, end + int(tokens.lengths[row])
        found: dict[str, Any] = dict(zip(names, dense[row].tolist(), strict=True))
        for index, value in zip(tokens.ids[start:end], tokens.values[start:end].tolist(), strict=True):
            found[vocabulary[index]] = found.get(vocabulary[index], 0) + value
        result.append(found)
    return result


def test_all_roles_side_by_side() -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("note")} for row in rows_of(fitted(False), TABLE)]
    mean = pytest.approx(8 / 3)  # of 1, 3 and 4
    assert rows == [
        {"x": 1, "x:missing": 0, "e[0]": 0, "e[1]": 1, "e:missing": 0, "s=b": 1, "t=u": 1, "t=v": 1,
         "indices[0]": 0.5, "indices[2]": 2},
        {"x": mean, "x:missing": 1, "e[0]": 1, "e[1]": 1, "e:missing": 1, "s=a": 1, "t:missing": 1},
        {"x": 3, "x:missing": 0, "e[0]": 1, "e[1]": 1, "e:missing": 0, "s:missing": 1, "indices[1]": 3},
        {"x": 4, "x:missing": 0, "e[0]": 2, "e[1]": 1, "e:missing": 0, "s=b": 1, "t=v": 1},
    ]  # fmt: skip


def test_saved_and_restored() -> None:
    features = fitted()
    document = json.loads(json.dumps(features.to_json()))
    restored = Features.from_json(document, features.arrays())
    assert restored.to_json() == features.to_json()
    assert rows_of(restored, TABLE) == rows_of(features, TABLE)


def test_what_is_repaired_is_counted_once() -> None:
    features = fitted()
    new = TABLE.slice(0, 1).set_column(1, "s", pa.array(["zz"])).set_column(5, "indices", pa.array([[0, 9]]))
    rows_of(features, new)
    assert features.counted() == [
        "column 's': 1 values are not in the vocabulary ('other')",
        "column 'indices': 1 indices beyond 3 ignored",
    ]
    assert features.counted() == []


def test_a_damaged_document() -> None:
    features = fitted()
    document = features.to_json()
    del document["token_columns"][0]["levels"]
    message = "features.json is damaged (KeyError('levels')); fit the run again"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        Features.from_json(document, features.arrays())


def test_no_columns() -> None:
    features = Features([], [])
    assert (features.num_dense, features.vocabulary_size, features.finish()) == (0, 0, [])
    features.encode_dense(TABLE, WHERE, np.zeros((4, 0), np.float32))
    assert features.encode_tokens(TABLE, WHERE).ids.tolist() == []
