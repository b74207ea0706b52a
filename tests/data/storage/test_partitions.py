"""Columns of folders have types that write their values as the folders do, and keep them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.storage.partitions import folder_type, folder_type_of_format_1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["7", "-12", "0", None], "int64"),
        (["9" * 18], "int64"),
        (["9" * 19], "string"),
        (["007", "12"], "string"),
        (["01001"], "string"),
        (["-0"], "string"),
        (["+7"], "string"),
        (["7 "], "string"),
        (["٧"], "string"),
        (["2024-01-31", "9999-12-31", None], "date32[day]"),
        (["2024-02-30"], "string"),
        (["2024-1-31"], "string"),
        (["2024-01-31", "today"], "string"),
        (["2024-01-31", "7"], "string"),
        ([None], "string"),
        ([""], "string"),
    ],
)
def test_types_of_folder_names(values: list[str | None], kind: str) -> None:
    assert str(folder_type(values)) == kind


def test_types_of_the_first_format() -> None:
    kinds = [str(folder_type_of_format_1(values)) for values in (["007", "-5"], ["7", "a"], ["2024-01-31"], [None])]
    assert kinds == ["int64", "string", "string", "string"]


def written(root: Path, *folders: str, table: pa.Table | None = None) -> Plan:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(table or pa.table({"x": [1.0]}), root / folder / "a.parquet")
    return make_plan(str(root))


def values_of(plan: Plan, name: str) -> list[object]:
    tables = [table for unit in plan.units for _, table in decode_unit(plan, unit, [name], 100)]
    return [value for table in tables for value in table.column(name).to_pylist()]


def test_one_folder_has_the_type_that_all_had(tmp_path: Path) -> None:
    whole = written(tmp_path / "d", "code=007", "code=12", "code=A12")
    assert whole.folder_types == {"code": "string"}
    alone = make_plan(str(tmp_path / "d" / "code=12"))
    assert values_of(alone, "code") == [12]
    assert values_of(alone.with_folder_types(whole.folder_types), "code") == ["12"]


def test_values_that_the_type_of_training_does_not_write_are_text(tmp_path: Path) -> None:
    types = {"code": "int64", "day": "date32[day]", "other": "int64"}
    fits = written(tmp_path / "fits", "code=7/day=2024-01-31").with_folder_types(types)
    assert fits.folder_types == {"code": "int64", "day": "date32[day]"}
    odd = written(tmp_path / "odd", "code=007/day=2024-01-31", "code=8/day=unknown").with_folder_types(types)
    assert values_of(odd, "code") == ["007", "8"]
    assert values_of(odd, "day") == ["2024-01-31", "unknown"]


def test_a_column_that_another_file_holds_as_text_is_text(tmp_path: Path) -> None:
    written(tmp_path / "d", "code=12")
    plan = written(tmp_path / "d", "rest", table=pa.table({"x": [1.0], "code": ["007"]}))
    assert sorted(map(str, values_of(plan, "code"))) == ["007", "12"]
    assert {str(shard.schema.field("code").type) for shard in plan.shards} == {"string"}
