from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.arrow.materialized import has_views, materialized, materialized_column, materialized_type
from mlclf.data.convert.conversion import convert
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.planning import make_plan

WORDS = pa.array(["longer than twelve bytes", "b"], pa.string_view())
CODES = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1], pa.int8()), WORDS)


def lists_of(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 2, 2, 4], pa.int32()), values, mask=pa.array([False, True, False]))


VIEWED: dict[str, pa.Array] = {
    "text": pa.array(["a", None, "longer than twelve bytes"], pa.string_view()),
    "bytes": pa.array([b"\xff", None], pa.binary_view()),
    "codes": CODES,
    "list of text": pa.array([["a", None], None, []], pa.list_(pa.string_view())),
    "list of codes": lists_of(CODES),
    "list view": pa.array([[1.5], None, []], pa.list_view(pa.float32())),
    "large list view of codes": lists_of(CODES).cast(pa.large_list(CODES.type)),
    "struct": pa.StructArray.from_arrays([CODES, pa.array(range(4))], ["c", "n"]),
    "struct of lists": pa.array([{"a": ["x"]}, None, {"a": None}], pa.struct([("a", pa.list_(pa.string_view()))])),
    "fixed list": pa.array([["a", "b"], None], pa.list_(pa.string_view(), 2)),
}
OTHERS: dict[str, pa.Array] = {
    "numbers": pa.array([1, None]),
    "text": pa.array(["a"]),
    "lists": pa.array([[1.0], None]),
    "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
    "struct": pa.array([{"a": 1}, None]),
}


def values(array: pa.Array) -> list[Any]:
    return array.to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", VIEWED)
def test_values_stay_whatever_is_laid_out(name: str) -> None:
    array = VIEWED[name]
    assert has_views(array.type)
    for part in (array, array.slice(1), array.slice(0, 1), array.slice(0, 0)):
        found = materialized(part)
        found.validate(full=True)
        assert values(found) == values(part)
        assert not has_views(found.type)
        assert values(found.cast(materialized_type(array.type))) == values(part)
        found.filter(pa.array([True] * len(part), pa.bool_()))
    column = materialized_column(pa.chunked_array([array, array.slice(1)]))
    assert column.to_pylist() == values(array) + values(array.slice(1))


@pytest.mark.parametrize("name", OTHERS)
def test_other_arrays_become_plain(name: str) -> None:
    array = OTHERS[name]
    assert not has_views(array.type)
    assert values(materialized(array)) == values(array)
    assert materialized(array).type == materialized_type(array.type)


def test_a_column_of_no_rows_has_the_plain_type() -> None:
    assert materialized_column(pa.chunked_array([], pa.string_view())).type == pa.string()


def test_decoded_columns_are_no_views(tmp_path: Path) -> None:
    kinds = ("text", "bytes", "list of text")
    table = pa.table({name: pa.concat_arrays([VIEWED[name].slice(0, 2)] * 50) for name in kinds})
    pq.write_table(table, tmp_path / "a.parquet")
    plan = make_plan(str(tmp_path))
    assert any(has_views(field.type) for field in plan.shards[0].schema)
    for rows in (1000, 7):
        tables = [table for unit in plan.units for _, table in decode_unit(plan, unit, kinds, rows)]
        found = pa.concat_tables(tables)
        assert [field.type for field in found.schema][:2] == [pa.large_string(), pa.large_binary()]
        assert found.to_pylist() == table.to_pylist()


def test_categories_of_polars_are_converted(tmp_path: Path) -> None:
    words = ["u", None, "a value longer than twelve"] * 40
    frame = pl.DataFrame(
        {
            "c": pl.Series(words, dtype=pl.Categorical),
            "e": pl.Series(["x", "y", None] * 40, dtype=pl.Enum(["x", "y"])),
            "l": pl.Series([["u"], [], None] * 40, dtype=pl.List(pl.Categorical)),
            "s": pl.Series([{"k": "v"}] * 120, dtype=pl.Struct({"k": pl.Categorical})),
            "t": words,
        }
    )
    frame.write_ipc(tmp_path / "a.arrow")
    frame.write_ipc_stream(tmp_path / "b.arrow")
    for name in ("a", "b"):
        convert([str(tmp_path / f"{name}.arrow")], tmp_path / name)
        found = pa.concat_tables(pq.ParquetFile(part).read() for part in sorted((tmp_path / name).rglob("*.parquet")))
        assert found.to_pylist() == frame.to_dicts()
