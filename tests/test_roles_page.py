"""What docs/roles.md says of columns and labels is what a schema makes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.config.loading import load_run_file
from mlclf.data.features import categorical as vocabulary
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema import samples as column_samples
from mlclf.data.schema.finding import find_schema

PAGE = (Path(__file__).parents[1] / "docs" / "roles.md").read_text()

COLUMNS: dict[str, tuple[str, list[Any], str | None, tuple[str, ...]]] = {
    "number": ("integers, floats, decimals, booleans, dates, times", [1, 2], "numeric", ("categorical",)),
    "string": ("strings", ["a", "b"], "categorical", ("text", "categorical")),
    "bytes": ("bytes", [b"a", b"b"], None, ("categorical", "text")),
    "tokens": ("lists of strings or of integers", [[1, 2], [3, 4]], "tokens", ("embedding",)),
    "floats": ("lists of floats or of booleans", [[0.5], [1.5]], None, ("embedding",)),
    "struct": ("structs, maps, lists of lists", [{"a": 1}, {"a": 2}], None, ()),
}


def plan_of(folder: Path, columns: dict[str, Any]) -> Plan:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return make_plan(str(folder))


@pytest.mark.parametrize("name", COLUMNS)
def test_roles_are_those_of_the_table(tmp_path: Path, name: str) -> None:
    words, values, default, declared = COLUMNS[name]
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {words} |"))
    assert all(f"`{role}`" in row for role in (*declared, *filter(None, [default])))
    assert ("left out" in row) == (default is None)
    plan = plan_of(tmp_path, {name: values, "x": [1, 2], "y": [0, 1]})
    found = {column.name: column.role for column in find_schema(plan, ["y"]).features}
    assert found.get(name) == default
    for role in declared:
        found = {column.name: column.role for column in find_schema(plan, ["y"], roles={name: role}).features}
        assert found[name] == role
    assert name not in find_schema(plan, ["y"], roles={name: "ignore"}).feature_columns


def test_commands_can_be_read() -> None:
    sets = re.findall(r"--set '([^']+)'", PAGE) + re.findall(r"--set (data\.\S+?)`", PAGE)
    assert len(sets) == 3
    settings = load_run_file(None, sets).settings
    assert settings.features.roles == {"zip": "categorical", "note": "text"}
    assert settings.data.label_values == {"left": 0, "stayed": 1, "unknown": None}
    assert settings.data.label_lists == "tags"


def test_numbers_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"Up to {column_samples.SAMPLE_ROWS:,} rows from eight row groups are looked at" in text
    assert column_samples.SAMPLE_GROUPS == 8
    assert (column_samples.DISTINCT_SHARE, column_samples.LONG_DISTINCT_SHARE) == (0.9, 0.5)
    assert (column_samples.LONG_WORDS, column_samples.SHARED_SHARE) == (5, 1 / 3)
    assert vocabulary.IDENTIFIER_SHARE == 19 / 20
