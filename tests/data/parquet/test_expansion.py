"""Text that a file holds once and refers to many times: refused by what it takes when it is looked up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet import expansion
from mlclf.data.parquet.columns_for_polars import with_columns_for_polars
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.planning import make_plan
from mlclf.errors import DataError

ROWS = 4_000
LARGE = "q" * (1 << 20)


def column(kind: str) -> pa.Array:
    """Rows of a megabyte each, but for one, as an array that holds it once."""
    codes = pa.array([1, *[0] * (ROWS - 1)], pa.int32())
    values = pa.DictionaryArray.from_arrays(codes, pa.array([LARGE, "b"]))
    if kind == "list":
        return pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1), pa.int32()), values)
    if kind == "struct":
        return pa.StructArray.from_arrays([values], ["inner"])
    return values


@pytest.mark.parametrize("stores_type", [True, False])
@pytest.mark.parametrize("kind", ["flat", "list", "struct"])
def test_a_dictionary_that_grows_is_refused(tmp_path: Path, kind: str, stores_type: bool) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.arange(ROWS), "s": column(kind)})
    pq.write_table(table, path, store_schema=stores_type)
    assert path.stat().st_size < 1 << 20
    plan = make_plan(str(path))
    message = (
        f"{path} row group 0 column 's': the values of {ROWS:,} rows must take at most 268,435,456 bytes, found "
        "[0-9,]+ in [0-9,]+ rows, which the file holds once and refers to; leave the column out of a fit with "
        "--exclude, or write row groups of fewer rows"
    )
    for planned in (plan, with_columns_for_polars(plan, ["x", "s"], 1 << 31)):
        with pytest.raises(DataError, match=f"^{message}$"):
            list(decode_unit(planned, planned.units[0], ["x", "s"], 1 << 16))
        assert [table.num_rows for _, table in decode_unit(planned, planned.units[0], ["x"], 1 << 16)] == [ROWS]


def test_honest_dictionaries_are_read_and_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    words = [f"category {number} " * 20 for number in range(500)]
    texts = pa.array(words).take(pa.array(np.arange(40_000) % 500))
    pq.write_table(pa.table({"s": texts, "n": pa.nulls(40_000, pa.string())}), path)
    looked: list[Any] = []
    original = expansion._check_group
    monkeypatch.setattr(expansion, "_check_group", lambda *given: looked.append(given) or original(*given))
    plan = make_plan(str(path))
    for _ in range(2):
        (table,) = [table for _, table in decode_unit(plan, plan.units[0], ["s", "n"], 1 << 16)]
        assert table.column("s").combine_chunks().equals(texts)
    assert len(looked) == 1


def test_the_command_line_names_the_column(tmp_path: Path, mlclf_command: Any) -> None:
    pq.write_table(pa.table({"y": [True, False] * (ROWS // 2), "s": column("flat")}), tmp_path / "a.parquet")
    for arguments in (("fit", "--labels", "y", "--out"), ("shuffle", "--out"), ("split", "--out")):
        called = mlclf_command(arguments[0], tmp_path / "a.parquet", *arguments[1:], tmp_path / "out")
        assert called.code == 2
        assert re.search(r"row group 0 column 's': the values of [0-9,]+ rows must take at most", called.err)
