"""What footers say, read where nothing that they do can harm."""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from mlclf.data.inspection.report import inspect
from mlclf.data.inspection.summary import summary_lines
from mlclf.data.parquet.column_statistics import ColumnFooter, read_footers
from mlclf.data.parquet.planning import make_plan
from mlclf.data.parquet.stored_columns import _leading_integers
from mlclf.data.storage.sources import STEADY
from mlclf.errors import ChangedDataError


class OpenSafe(pe.KmsClient):
    """A key service that guards nothing."""

    def __init__(self, config: object) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64decode(key)


def write_encrypted(path: Path, table: pa.Table, secret: str) -> None:
    """Write a file whose footer can be read and one of whose columns cannot."""
    options = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": [secret]}, plaintext_footer=True)
    properties = pe.CryptoFactory(OpenSafe).file_encryption_properties(pe.KmsConnectionConfig(), options)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_the_child_tells_what_the_footers_say(tmp_path: Path) -> None:
    for name, values in (("a", [1, None, 3]), ("b", [5, 4, 4])):
        table = pa.table({"x": pa.array(values), "words": [["p", "q"], None, []]})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2, write_page_checksum=name == "a")
    found = read_footers(make_plan(str(tmp_path)).shards)
    assert found is not None
    assert found.columns["x"] == ColumnFooter(1, 1, 5, True, 6, found.columns["x"].bytes)
    assert found.columns["words"].nulls is None
    assert found.columns["words"].items == 8  # two, a null list and an empty one, in each file
    assert found.codecs == {"SNAPPY": 8}
    assert found.checksums == {str(tmp_path / "a.parquet"): True, str(tmp_path / "b.parquet"): False}


def test_bounds_of_every_type_come_back_from_the_child(tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "bool": [False, True],
        "int": [-(2**63), 2**63 - 1],
        "float": [-math.inf, 0.1],
        "text": ["a\n\u2028", "\U0010ffff"],
        "bytes": [b"\x00", b"\xff"],
        "decimal": [Decimal("-1.50"), Decimal("99999999999999999999999.25")],
        "date": [date(1, 1, 1), date(9999, 12, 31)],
        "instant": [datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, 1, 2, 3, 456, tzinfo=UTC)],
        "time": [time(0), time(23, 59, 59, 999999)],
    }
    columns: dict[str, Any] = values | {"unsigned": pa.array([2**63, 2**64 - 1], pa.uint64()), "null": [None, None]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read_footers(make_plan(str(tmp_path)).shards)
    assert found is not None
    bounds = {name: [column.low, column.high] for name, column in found.columns.items()}
    assert bounds == values | {"unsigned": [2**63, 2**64 - 1], "null": [None, None]}


MODULES = ("base64", "csv", "json", "mlclf", "numpy", "pyarrow", "site", "sitecustomize", "torch", "typing")


@pytest.mark.parametrize("named", ["", "absolute"])
def test_the_child_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    shards = make_plan(str(tmp_path)).shards
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nraise ImportError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path) if named else "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "csv.py"))
    found = read_footers(shards)
    assert not (tmp_path / "RAN").exists()
    assert found is not None
    assert found.columns["x"].high == 2


def test_a_footer_that_is_another_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), path)
    shards = make_plan(str(path)).shards
    pq.write_table(pa.table({"x": [1, 3]}), path)
    message = rf"^{re.escape(str(path))}: has changed while it was read: its footer is another one; {STEADY}$"
    with pytest.raises(ChangedDataError, match=message):
        read_footers(shards)


def test_more_footers_than_are_read_at_a_time(tmp_path: Path) -> None:
    for number in range(40):
        pq.write_table(pa.table({"x": [number]}), tmp_path / f"{number:02}.parquet")
    found = read_footers(make_plan(str(tmp_path)).shards)
    assert found is not None
    assert (found.columns["x"].low, found.columns["x"].high, found.columns["x"].items) == (0, 39, 40)


def test_a_footer_that_ends_the_process_does_not_end_this_one(tmp_path: Path) -> None:
    path = tmp_path / "secret.parquet"
    write_encrypted(path, pa.table({"x": [1.0, 2.0], "secret": [1, 2]}), "secret")
    assert read_footers(make_plan(str(path)).shards) is None
    report = inspect(str(path))
    assert report["warnings"] == [
        "the footers' statistics of the columns cannot be read: a file is damaged, or encrypted"
    ]
    assert [column["name"] for column in report["columns"]] == ["x", "secret"]
    assert "compression: unknown" in summary_lines(report)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (ColumnFooter(1, 2, 3), ColumnFooter(2, 1, 5), ColumnFooter(3, 1, 5)),
        (ColumnFooter(1, 2, 3), ColumnFooter(None, 1, 5), ColumnFooter(None, 1, 5)),
        (ColumnFooter(0), ColumnFooter(2, "a", "b"), ColumnFooter(2, "a", "b")),
        (ColumnFooter(0, 1, 2), ColumnFooter(2, "a", "b"), ColumnFooter(2, None, None, False)),
        (ColumnFooter(0, 1, 2), ColumnFooter(4), ColumnFooter(4, 1, 2)),
        (ColumnFooter(0, 1, 2), ColumnFooter(0, None, None, False), ColumnFooter(0, None, None, False)),
    ],
)
def test_columns_are_joined(one: ColumnFooter, other: ColumnFooter, expected: ColumnFooter) -> None:
    one.add(other)
    assert one == expected


def test_page_headers_are_read_to_their_checksum() -> None:
    # Compact protocol: field 1 (type) = 0, field 2 = 300, field 3 = 200, field 4 (checksum) = -1, field 5 a structure.
    header = bytes([0x15, 0x00, 0x15, 0xD8, 0x04, 0x15, 0x90, 0x03, 0x15, 0x01, 0x1C])
    assert dict(_leading_integers(header)) == {1: 0, 2: 300, 3: 200, 4: -1}
    assert dict(_leading_integers(header[:8] + b"\x2c")) == {1: 0, 2: 300, 3: 200}
    assert dict(_leading_integers(b"")) == {}
    assert dict(_leading_integers(b"PAR1")) == {}
