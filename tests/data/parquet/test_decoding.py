from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.parquet import decoding as decode
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.storage.sources import STEADY
from mlclf.errors import ChangedDataError, CorruptDataError, DataError


def read(plan: Plan, columns: list[str], piece_rows: int = 1000) -> pa.Table:
    tables = [table for unit in plan.units for _, table in decode_unit(plan, unit, columns, piece_rows)]
    return pa.concat_tables(tables)


def refused(message: str) -> object:
    return pytest.raises(DataError, match=f"^{re.escape(message)}$")


def write_groups(path: Path, values: list[list[Any]], **options: Any) -> None:
    with pq.ParquetWriter(str(path), pa.schema([("x", pa.int64())]), **options) as writer:
        for group in values:
            writer.write_table(pa.table({"x": pa.array(group, pa.int64())}), row_group_size=max(1, len(group)))


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any), piece_rows=st.integers(1, 70))
def test_pieces_are_all_rows_in_order(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], piece_rows: int
) -> None:
    path = tmp_path_factory.mktemp("decode") / "a.parquet"
    starts = np.cumsum([0, *groups])
    write_groups(path, [list(range(start, start + rows)) for start, rows in zip(starts, groups, strict=False)])
    plan = make_plan(str(path))
    for unit in plan.units:
        row = unit.first_row
        for first_row, table in decode_unit(plan, unit, ["x"], piece_rows):
            assert first_row == row
            assert 0 < table.num_rows <= piece_rows
            assert table["x"].to_pylist() == list(range(row, row + table.num_rows))
            row += table.num_rows
        assert row == unit.first_row + unit.rows


def test_columns_come_in_the_order_asked_for_also_with_dots(tmp_path: Path) -> None:
    columns = {"a": [1, 2], "a.b": [3, 4], "c": [{"x": 5}, {"x": 6}], "c.x": [7, 8], "l": [[1], []]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    plan = make_plan(str(tmp_path))
    for names in (["a"], ["a.b"], ["l", "a.b", "a"], ["c.x"], ["c.x", "c"]):
        assert read(plan, names).to_pydict() == {name: columns[name] for name in names}
        assert read(plan, names).column_names == names


def test_no_columns_still_have_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": range(10)}), tmp_path / "a.parquet")
    assert read(make_plan(str(tmp_path)), [], piece_rows=3).num_rows == 10


def test_hive_columns(tmp_path: Path) -> None:
    for day in ("1", "2", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"x": [0, 0]}), tmp_path / f"day={day}" / "a.parquet")
    plan = make_plan(str(tmp_path))
    assert read(plan, ["day", "x"]).to_pydict() == {"day": [1, 1, 2, 2, None, None], "x": [0] * 6}
    assert read(plan, ["day"]).to_pydict() == {"day": [1, 1, 2, 2, None, None]}


def test_dictionaries_differ_from_row_group_to_row_group(tmp_path: Path) -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    parts = [["a", "b"], ["b", "a"], ["c", None]]
    with pq.ParquetWriter(str(tmp_path / "a.parquet"), pa.schema([("s", kind)])) as writer:
        for part in parts:
            writer.write_table(pa.table({"s": pa.array(part).dictionary_encode().cast(kind)}))
    tables = read(make_plan(str(tmp_path)), ["s"], piece_rows=2)
    assert tables["s"].to_pylist() == [value for part in parts for value in part]


def checksummed(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.normal(size=3000) for name in ("a", "b")})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, compression="none", use_dictionary=False)
    return path.read_bytes()


def test_a_flipped_bit_is_found_and_placed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = checksummed(path)
    rng = np.random.default_rng(1)
    metadata = pq.read_metadata(path)
    for group in range(3):
        for number, name in enumerate(("a", "b")):
            chunk = metadata.row_group(group).column(number)
            end = chunk.data_page_offset + chunk.total_compressed_size
            damaged = bytearray(content)
            damaged[int(rng.integers(end - 7000, end))] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            plan = make_plan(str(path))
            message = (
                rf"^{re.escape(str(path))} row group {group} column '{name}': cannot be decoded \(.*CRC.*\); "
                "the file is damaged, write it again$"
            )
            with pytest.raises(DataError, match=message):
                read(plan, ["a", "b"])
            assert read(plan, ["b" if name == "a" else "a"]).num_rows == 3000


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    checksummed(path)
    plan = make_plan(str(path))
    path.unlink()
    with pytest.raises(
        ChangedDataError, match=rf"^{re.escape(str(path))}: is gone, it was there before; {re.escape(STEADY)}$"
    ):
        read(plan, ["a"])


def test_rows_are_compared_with_the_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    write_groups(path, [[1, 2], [3, 4, 5], [6]])
    plan = make_plan(str(path))
    original = decode._record_batches

    def short(plan: Plan, unit: Any, *rest: Any) -> Any:
        for batch in original(plan, unit, *rest):
            yield batch.slice(0, batch.num_rows - 1) if 1 in unit.groups else batch

    monkeypatch.setattr(decode, "_record_batches", short)
    with refused(f"{path} row group 1: the footer says 3 rows but 2 were read; the file is damaged, write it again"):
        read(plan, ["x"])


def test_a_column_that_went_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"y": [1]}), path)
    plan = make_plan(str(path))
    object.__setattr__(plan.shards[0], "schema", pa.schema({"x": pa.int64(), "y": pa.int64()}))
    with refused(f"{path} row group 0: cannot be decoded (column 'x' is missing); the file is damaged, write it again"):
        read(plan, ["x", "y"])


def test_a_huge_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    rows = 1 << 24
    pq.write_table(
        pa.table({"x": np.zeros(rows)}), tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False,
        compression="zstd",
    )  # fmt: skip
    plan = make_plan(str(tmp_path))
    pa.default_memory_pool().release_unused()
    before, peak = pa.total_allocated_bytes(), 0
    for _, table in decode_unit(plan, plan.units[0], ["x"], 65_536):
        assert table.num_rows <= 65_536
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 16 << 20  # one piece is half a MiB, the column 128 MiB


def test_declared_sizes_are_looked_at_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGE_BYTES", 16 << 20)
    path = tmp_path / "bomb.parquet"
    giant = pa.array(["a" * (20 << 20)], pa.large_string())
    pq.write_table(pa.table({"s": giant, "x": [1.5]}), path, compression="zstd", use_dictionary=False)
    plan = make_plan(str(path))
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert chunk.total_compressed_size < 4096
    with refused(
        f"{path} row group 0 column 's': {chunk.total_compressed_size:,} bytes are declared to decompress to "
        f"{chunk.total_uncompressed_size:,}, which no honest file does; the file is damaged or hostile, "
        "write it again, or leave the column out of a fit with --exclude"
    ):
        read(plan, ["s", "x"])
    assert read(plan, ["x"]).to_pydict() == {"x": [1.5]}


def test_rows_beyond_any_piece_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = np.random.default_rng(0).bytes(20 << 20).hex()
    pq.write_table(pa.table({"s": pa.array([text], pa.large_string())}), path, use_dictionary=False)
    declared = pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    with refused(
        f"{path} row group 0 column 's': a row must take at most 16,777,216 bytes, the footer says {declared:,}; "
        "write the file again, or leave the column out of a fit with --exclude"
    ):
        read(make_plan(str(path)), ["s"])


@pytest.mark.slow
def test_a_thousand_flipped_bits_in_pages_are_all_found(tmp_path: Path) -> None:
    """Any bit of the pages' bytes; their headers and the footer have no checksum in the format."""
    path = tmp_path / "a.parquet"
    content = checksummed(path)
    metadata = pq.ParquetFile(path).metadata
    chunks = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)
              for leaf in range(metadata.num_columns)]  # fmt: skip
    rng = np.random.default_rng(0)
    for flip in range(1000):
        chunk = chunks[flip % len(chunks)]
        end = chunk.data_page_offset + chunk.total_compressed_size
        damaged = bytearray(content)
        damaged[int(rng.integers(end - 8000, end))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CorruptDataError):
            read(make_plan(str(path)), ["a", "b"])


def test_lists_of_a_width_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"e": pa.nulls(1, pa.list_(pa.float32(), 5_000_000))}), path)
    with refused(
        f"{path} row group 0 column 'e': a row must take at most 16,777,216 bytes, the schema says 20,000,000; write "
        "the file again, or leave the column out of a fit with --exclude"
    ):
        read(make_plan(str(path)), ["e"])


def test_codes_beyond_their_dictionary_are_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyarrow reads a page whose header a flipped bit has changed."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"d": pa.array(["a"]).dictionary_encode()}), path)
    broken = pa.DictionaryArray.from_arrays(pa.array([3], pa.int32()), pa.array([], pa.string()), safe=False)
    batch = pa.record_batch({"d": broken})
    monkeypatch.setattr(decode, "_record_batches", lambda *_: iter([batch]))
    with pytest.raises(CorruptDataError, match=r"row group 0 column 'd': holds values that cannot be read \("):
        read(make_plan(str(path)), ["d"])
