from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.storage import byte_ranges as ranges
from mlclf.data.storage.byte_ranges import chunk_ranges, joined_ranges


def test_chunks_of_columns_by_their_top_level_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A leaf a.b may be of a column "a.b" or of a struct "a": where one is wanted, both are read.
    monkeypatch.setattr(ranges, "GAP_BYTES", 0)
    numbers = list(range(1000))
    table = pa.table(
        {
            "a": numbers,
            "a.b": numbers,
            "list": [[number] for number in numbers],
            "struct": [{"x": number, "y": str(number)} for number in numbers],
            "last": numbers,
        }
    )
    path = tmp_path / "0.parquet"
    pq.write_table(table, path, row_group_size=500)
    metadata, size = pq.read_metadata(path), path.stat().st_size
    for columns, leaves in [(["a"], [0, 1]), (["a.b"], [1]), (["list", "last"], [2, 5]), (["struct"], [3, 4])]:
        found = chunk_ranges(metadata, [1], columns, size)
        stored = sum(metadata.row_group(1).column(leaf).total_compressed_size for leaf in leaves)
        assert sum(end - start for start, end in found) == stored
    assert len(chunk_ranges(metadata, [0, 1], ["last"], size)) == 2
    assert chunk_ranges(metadata, [0, 1], table.column_names, size)[0][0] == 4


def test_ranges_do_not_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    metadata = pq.read_metadata(path)
    assert chunk_ranges(metadata, [0], ["a"], 100) == [(4, 100)]
    assert chunk_ranges(metadata, [0], ["a"], 2) == []


def test_neighbours_are_joined() -> None:
    gap = ranges.GAP_BYTES
    assert joined_ranges([]) == []
    assert joined_ranges([(10, 20), (20 + gap, 30 + gap)]) == [(10, 30 + gap)]
    assert joined_ranges([(10, 20), (21 + gap, 30 + gap)]) == [(10, 20), (21 + gap, 30 + gap)]
    assert joined_ranges([(0, 100), (10, 20)]) == [(0, 100)]
