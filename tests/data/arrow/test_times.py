"""Times of every kind are seconds that sort as the moments do."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.arrow.times import time_values
from mlclf.data.convert.shuffling import shuffle
from mlclf.data.convert.splitting import split
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.partial_passes import time_cut
from mlclf.errors import DataError

DAY = 86_400


def seconds(values: Any, kind: pa.DataType | None = None) -> list[float]:
    return time_values(pa.chunked_array([pa.array(values, kind)]), "t").tolist()


def test_numbers_are_times_too() -> None:
    assert seconds([3, None, 1]) == [3, -np.inf, 1]
    assert seconds([0.5, float("nan")]) == [0.5, -np.inf]
    assert seconds([None, None], pa.string()) == [-np.inf, -np.inf]


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("1970-01-02", DAY),
        ("1970-02", 31 * DAY),
        ("1970-01-01T10", 36_000),
        ("1970-01-01 10:30", 37_800),
        ("1970-01-01t00:00:01.25z", 1.25),
        ("1970-01-01 00:00:01,5", 1.5),
        ("1970-01-02T00:00:00+05:45", DAY - 20_700),
        ("1970-01-02T00:00:00-01", DAY + 3600),
        ("1970-01-02T00:00:00.123456789+0130", DAY - 5400 + 0.123456789),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
        ("0001-01-01", -62_135_596_800),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_iso_text(text: str, second: float, kind: pa.DataType) -> None:
    assert time_values(pa.chunked_array([pa.array([text, None]).cast(kind)]), "t").tolist() == [second, -np.inf]


@settings(max_examples=200, deadline=None)
@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_iso_text_as_python_reads_it(moment: dt.datetime) -> None:
    offset = moment.utcoffset()
    if offset is not None and offset.total_seconds() % 60:
        moment = moment.replace(tzinfo=None)  # offsets with seconds are not ISO 8601
    expected = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    for separator in "T ":
        found = seconds([moment.isoformat(separator)])[0]
        # A float64 of seconds some thousand years away is right to 4e-5.
        assert abs(found - (expected - epoch) / dt.timedelta(seconds=1)) < 1e-4


@pytest.mark.parametrize("text", ["2024-02-30", "2024-1-3", "x", "", "31.01.2024", "2024-01-31T25:00", "٢٠٢٤-01-31"])
def test_text_that_is_no_time(text: str) -> None:
    message = (
        "column 't': times must be numbers, dates, timestamps or ISO 8601 text, such as 2024-01-31 or "
        f"2024-01-31T10:00:00Z, found {text!r}; write them so, or name another column"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        seconds(["2024-01-31", text])


def test_bytes_are_no_times() -> None:
    with pytest.raises(DataError, match=r"^column 't': times must be .*, found fixed_size_binary\[2\]; write them so"):
        seconds([b"ab"], pa.binary(2))


MOMENTS = [dt.datetime(2020, 1, 1) + dt.timedelta(days=day) for day in range(60)]
EARLY, LATE = [dt.datetime(1500, 1, 1)] * 20, [dt.datetime(9999, 12, 31)] * 20
KINDS: list[Any] = [pa.timestamp("us"), pa.timestamp("ms", "Asia/Tokyo"), pa.timestamp("s"), pa.date32(), pa.date64(),
                    pa.string(), "int96"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_splits_by_times_of_all_years(tmp_path: Path, kind: Any) -> None:
    order = np.random.default_rng(0).permutation(100)
    moments = [*EARLY, *MOMENTS, *LATE]
    parts = np.repeat([0, 1, 2], [20, 60, 20])[order]
    array = pa.array([moments[index] for index in order], pa.timestamp("us"))
    table = pa.table({"t": array if kind == "int96" else array.cast(kind), "part": parts})
    more = {"use_deprecated_int96_timestamps": True, "store_schema": False} if kind == "int96" else {}
    pq.write_table(table, tmp_path / "a.parquet", **more)
    split(str(tmp_path / "a.parquet"), tmp_path / "out", [0.2, 0.6, 0.2], "time:t")
    for index, name in enumerate(("train", "valid", "test")):
        found = pa.concat_tables(pq.ParquetFile(file).read() for file in (tmp_path / "out" / name).rglob("*.parquet"))
        assert set(found["part"].to_pylist()) == {index}
        assert len(found) == (parts == index).sum()


def test_int96_in_every_file_and_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, moments in enumerate((EARLY, MOMENTS, LATE)):
        table = pa.table({"t": pa.array(moments, pa.timestamp("us")), "lists": pa.array([[m] for m in moments])})
        kind = {"use_deprecated_int96_timestamps": index != 1, "store_schema": bool(index)}
        pq.write_table(table, tmp_path / "in" / f"{index}.parquet", **kind)
    plan = make_plan(str(tmp_path / "in"))
    assert time_cut(plan, "t", 0.2, threads=1) == MOMENTS[-1].replace(tzinfo=dt.UTC).timestamp()
    shuffle(str(tmp_path / "in"), tmp_path / "out")
    found = pa.concat_tables(pq.ParquetFile(file).read() for file in (tmp_path / "out").rglob("*.parquet"))
    assert sorted(found["t"].to_pylist()) == sorted([*EARLY, *MOMENTS, *LATE])
    assert found["lists"].to_pylist() == [[moment] for moment in found["t"].to_pylist()]


@pytest.mark.parametrize("days", [[f"dt=2024-01-0{day}" for day in range(1, 6)],
                                  [f"dt=2024-0{month}" for month in range(1, 6)],
                                  [f"dt=2024-01-31T0{hour}%3A00%3A00Z" for hour in range(1, 6)],
                                  [f"dt={day}" for day in (5, 7, 9, 10, 12)]])  # fmt: skip
def test_folders_of_dates_are_times(tmp_path: Path, days: list[str]) -> None:
    for index, day in enumerate(days):
        (tmp_path / "d" / day).mkdir(parents=True)
        pq.write_table(pa.table({"index": [index] * 20}), tmp_path / "d" / day / "a.parquet")
    split(str(tmp_path / "d"), tmp_path / "out", [0.8, 0.2], "time:dt")
    found = pa.concat_tables(pq.ParquetFile(file).read() for file in (tmp_path / "out" / "test").rglob("*.parquet"))
    assert found["index"].to_pylist() == [4] * 20
