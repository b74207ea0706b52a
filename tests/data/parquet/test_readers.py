from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.parquet.readers import decoded_pieces
from mlclf.errors import DataError


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("readers")
    start = 0
    for index, groups in enumerate([[700, 300], [1, 0, 999], [2000]]):
        with pq.ParquetWriter(str(folder / f"{index:03}.parquet"), pa.schema([("id", pa.int64())])) as writer:
            for rows in groups:
                rows_of_it = pa.array(range(start, start + rows), pa.int64())
                writer.write_table(pa.table({"id": rows_of_it}), row_group_size=max(1, rows))
                start += rows
    return make_plan(str(folder))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_come_in_one_order(plan: Plan, threads: int) -> None:
    def starts(lanes: int, threads: int) -> list[int]:
        work = lambda first_row, table, place: first_row  # noqa: E731
        return list(decoded_pieces(plan, range(len(plan.units)), ["id"], 128, work, lanes=lanes, threads=threads))

    assert starts(2, threads) == starts(2, 1)
    assert starts(1, threads) == sorted(starts(2, 1))


def test_an_error_names_the_one_row_group_and_ends_the_epoch(plan: Plan) -> None:
    def work(first_row: int, table: pa.Table, place: str) -> int:
        if 850 in table["id"].to_pylist():
            raise DataError(f"{place}: bad row")
        return first_row

    path = plan.shards[0].source.name
    with pytest.raises(DataError, match=f"^{re.escape(path)} row group 1: bad row$"):
        list(decoded_pieces(plan, range(len(plan.units)), ["id"], 10_000, work))
