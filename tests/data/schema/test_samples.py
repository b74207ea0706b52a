from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema import samples as column_samples
from mlclf.data.schema.samples import free_texts, index_columns, is_free_text, list_width

RANDOM = np.random.default_rng(0)
NAMES = [f"name{index}" for index in range(30)]
TOWNS = ["rome", "oslo", "lima", "bonn"]
WORDS = [f"word{index}" for index in range(300)]


def sentences(rows: int, words: int = 12) -> list[str]:
    return [" ".join(RANDOM.choice(WORDS, words)) for _ in range(rows)]


def plan_of(folder: Path, *tables: dict[str, Any], row_group_size: int = 1000) -> Plan:
    for index, columns in enumerate(tables):
        pq.write_table(pa.table(columns), folder / f"{index}.parquet", row_group_size=row_group_size)
    return make_plan(str(folder))


FREE: dict[str, list[str]] = {
    "sentences": sentences(200),
    "some twice": sentences(200) + sentences(40)[:40] * 2,
    "titles": [f"{title}. {name} of {town}" for title in ("mr", "mrs") for name in NAMES for town in TOWNS],
    "addresses": [f"{number} main street, {10_000 + number}" for number in range(300)],
    "few documents": sentences(20, 400),
    "long and repeated": sentences(120) * 2,
}  # fmt: skip
NOT_FREE: dict[str, list[str]] = {
    "none": [],
    "few": sentences(50),
    "levels": ["rome", "oslo", "new york city"] * 100,
    "levels of words": sentences(20) * 30,
    "identifiers": [f"{number:08x}" for number in RANDOM.integers(0, 2**32, 500)],
    "uuids": [str(uuid.UUID(int=int.from_bytes(RANDOM.bytes(16), "big"), version=4)) for _ in range(2000)],
    "no words": ["?" * number for number in range(200)],
    "empty": [""] * 300,
}


@pytest.mark.parametrize("name", FREE)
def test_free_text_is_found(name: str) -> None:
    assert is_free_text(FREE[name])


@pytest.mark.parametrize("name", NOT_FREE)
def test_levels_and_identifiers_are_no_free_text(name: str) -> None:
    assert not is_free_text(NOT_FREE[name])


def test_text_is_looked_for_all_over_the_data(tmp_path: Path) -> None:
    levels = [f"user {number} of the shop number {number}" for number in range(1000)]
    begins = sentences(1000)
    table = {"text": sentences(5000), "sorted": begins + ["nothing to say here"] * 4000, "user": sorted(levels * 5)}
    plan = plan_of(tmp_path, table, {"other": [1]})
    assert free_texts(plan, ["text", "sorted", "user"]) == ["text"]
    assert free_texts(plan, []) == []


def test_what_cannot_be_read_is_left_to_others(tmp_path: Path) -> None:
    raw = pa.array([b"\xff\xfe"] * 200)
    broken = pa.Array.from_buffers(pa.string(), 200, raw.buffers())
    plan = plan_of(tmp_path, {"text": sentences(200), "broken": broken})
    assert free_texts(plan, ["text", "broken"]) == ["text"]
    path = tmp_path / "0.parquet"
    path.write_bytes(path.read_bytes()[:4] + b"\0" * 300 + path.read_bytes()[304:])
    assert free_texts(make_plan(str(path)), ["text"]) in ([], ["text"])


def test_large_rows_are_looked_at_in_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_samples, "SAMPLE_BYTES", 1 << 16)
    plan = plan_of(tmp_path, {"text": sentences(400, 500)}, row_group_size=400)
    tables = list(column_samples._sample(plan, ["text"]))
    assert sum(table.num_rows for table in tables) < 40
    assert free_texts(plan, ["text"]) == ["text"]


def test_the_width_is_that_of_the_first_list_with_elements(tmp_path: Path) -> None:
    kind = pa.list_(pa.float32())
    plan = plan_of(
        tmp_path,
        {"e": pa.nulls(3)},
        {"e": pa.array([None, []], kind), "x": [1, 2]},
        {"x": [1]},
        {"e": pa.array([None, [1.0, 2.0, 3.0]], pa.large_list(pa.float64())), "x": [1, 2]},
    )
    assert list_width(plan, "e") == 3
    nothing = make_plan(str(tmp_path / "1.parquet"))
    assert list_width(nothing, "e") == 0


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {"__index_level_1__"}),
        ({"pandas": json.dumps({"index_columns": ["id", "day"]})}, {"__index_level_1__", "id", "day"}),
        ({"pandas": json.dumps({"index_columns": [{"kind": "range", "start": 0}]})}, {"__index_level_1__"}),
        ({"pandas": json.dumps({"index_columns": "id"})}, {"__index_level_1__"}),
        ({"pandas": json.dumps(["index_columns"])}, {"__index_level_1__"}),
        ({"pandas": "{"}, {"__index_level_1__"}),
        ({"pandas": "[" * 100_000}, {"__index_level_1__"}),
    ],
)
def test_the_index_is_what_pandas_says(tmp_path: Path, metadata: dict[str, str], expected: set[str]) -> None:
    table = pa.table({"id": [1], "x": [1], "__index_level_1__": [2]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet")
    assert index_columns(make_plan(str(tmp_path)).shards) == expected
