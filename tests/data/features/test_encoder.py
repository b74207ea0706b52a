from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn
from mlclf.data.features.splines import LinearSplines
from mlclf.errors import RunError

WHERE = "a.parquet row group 0"
COLUMNS = (
    FeatureColumn("x", "numeric"),
    FeatureColumn("s", "categorical"),
    FeatureColumn("c", "numeric"),
    FeatureColumn("e", "embedding", 2),
    FeatureColumn("t", "tokens"),
    FeatureColumn("indices", "sparse", 0, "values"),
    FeatureColumn("note", "text"),
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


def fitted(standardize: bool = True) -> FeatureEncoder:
    features = FeatureEncoder.fresh(COLUMNS, EncodingOptions(standardize, 10, 100, 8))
    for start in range(TABLE.num_rows):
        features.fit(TABLE.slice(start, 1), WHERE, None)
    assert features.finish() == ["column 'c' is constant (7); it is left out"]
    return features


def rows_of(features: FeatureEncoder, table: pa.Table) -> list[dict[str, float]]:
    """Each row as name → value, dense inputs and ids alike."""
    document = features.to_json()
    names, vocabulary = document["dense"], document["vocabulary"]
    assert (len(names), len(vocabulary)) == (features.num_dense, features.vocabulary_size)
    dense = np.full((table.num_rows + 2, features.num_dense), -9, np.float32)
    features.encode_dense(table, WHERE, dense)
    assert (dense[table.num_rows :] == -9).all()
    tokens = features.encode_ids(table, WHERE)
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
    restored = FeatureEncoder.from_json(document, features.arrays())
    assert restored.to_json() == features.to_json()
    assert rows_of(restored, TABLE) == rows_of(features, TABLE)


FORMAT_2 = {
    "format_version": 2,
    "dense": ["x", "x:missing", "e[0]", "e[1]", "e:missing", "x above 2.66667"],
    "vocabulary": ["s:missing", "s:other", "s=b", "s=a", "t:missing", "t:other", "t=v", "t=u",
                   "indices[0]", "indices[1]", "indices[2]", "note#105"],
    "dense_columns": [{"name": "x", "width": 0, "standardize": True}, {"name": "c", "width": 0, "standardize": True},
                      {"name": "e", "width": 2, "standardize": True}],
    "token_columns": [
        {"name": "s", "kind": "LevelFeature", "levels": ["b", "a"], "buckets": 0, "is_list": False,
         "is_constant": False},
        {"name": "t", "kind": "LevelFeature", "levels": ["v", "u"], "buckets": 0, "is_list": True,
         "is_constant": False},
        {"name": "indices", "kind": "SparseFeature", "values_name": "values", "width": 3},
        {"name": "note", "kind": "TextFeature", "buckets": 8, "num_documents": 4}],
}  # fmt: skip
"""What `fitted()` with one knot was written as before columns had roles in `features.json`."""


def test_what_was_written_with_names_of_classes_is_read() -> None:
    now = fitted()
    now.splines = LinearSplines(
        *(np.array([value], kind) for value, kind in ((0, int), (0, "f4"), (0.3, "f4"), (2, "f4")))
    )
    names = {"columns.0.": "dense.0.", "columns.1.": "dense.1.", "columns.2.": "dense.2.", "columns.6.": "tokens.3.",
             "splines.knots": "hinges.at", "splines.": "hinges."}  # fmt: skip
    arrays = {}
    for name, array in now.arrays().items():
        new = next(new for new in sorted(names, reverse=True, key=len) if name.startswith(new))
        arrays[names[new] + name.removeprefix(new)] = array
    assert {"dense.2.mean", "tokens.3.idf", "hinges.at", "hinges.scale"} <= arrays.keys()
    before = FeatureEncoder.from_json(FORMAT_2, arrays)
    assert before.to_json() == now.to_json()
    assert rows_of(before, TABLE) == rows_of(now, TABLE)


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
    del document["columns"][3]["levels"]
    message = "features.json is damaged (KeyError('levels')); fit the run again"
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        FeatureEncoder.from_json(document, features.arrays())


def test_no_columns() -> None:
    features = FeatureEncoder([])
    assert (features.num_dense, features.vocabulary_size, features.finish()) == (0, 0, [])
    features.encode_dense(TABLE, WHERE, np.zeros((4, 0), np.float32))
    assert features.encode_ids(TABLE, WHERE).ids.tolist() == []
