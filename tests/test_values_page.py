"""The tables of docs/values.md are what the library does."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from mlclf.data.arrow.identities import canonical
from mlclf.data.storage.partitions import folder_type

PAGE = (Path(__file__).parents[1] / "docs" / "values.md").read_text()


def rows_of(head: str) -> list[list[str]]:
    """The cells of the table under a header line."""
    lines = PAGE.split(head, 1)[1].split("\n\n", 1)[0].strip().splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1:]]


def array_of(kind: str, value: str) -> pa.Array:
    """One value of a type, both as the page writes them."""
    decimal = re.fullmatch(r"decimal(128|256)\((\d+), (\d+)\)", kind)
    if decimal:
        make = {"128": pa.decimal128, "256": pa.decimal256}[decimal[1]]
        return pa.array([Decimal(value)], make(int(decimal[2]), int(decimal[3])))
    zoned = re.fullmatch(r"timestamp\[(\w+), tz=(.*)\]", kind)
    if zoned:
        return pa.array([dt.datetime.fromisoformat(value)], pa.timestamp(zoned[1], zoned[2]))
    if kind.startswith("fixed_size_binary"):
        return pa.array([value.encode()], pa.binary(int(kind[18:-1])))
    if kind.startswith("time64"):
        return pa.array([dt.time.fromisoformat(value)], pa.type_for_alias(kind))
    if kind.startswith("duration"):
        return pa.array([int(value)], pa.type_for_alias(kind))
    return pa.array([value]).cast(pa.type_for_alias(kind))


VALUES = rows_of("| type | value | written as |")
FOLDERS = rows_of("| values | type |")


@pytest.mark.parametrize(("kind", "value", "text"), VALUES)
def test_values_are_written_as_the_page_says(kind: str, value: str, text: str) -> None:
    found = canonical(array_of(kind, value)).cast(pa.binary())[0].as_py()
    assert found == (None if text == "missing" else text.encode())


@pytest.mark.parametrize(("values", "kind"), FOLDERS)
def test_folders_have_the_types_that_the_page_says(values: str, kind: str) -> None:
    assert str(folder_type(values.split(", "))) == kind


def test_all_rows_of_the_tables_are_seen() -> None:
    assert (len(VALUES), len(FOLDERS)) == (29, 5)
