"""The types of columns that folders called `key=value` give (hive partitions).

A column has the narrowest type that writes all of its values as the folders do: integers, else dates, else text.
So codes such as 007 stay text. What scores data later gives a column the type that it had in training, since one folder
alone may look like another type.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

FOLDER_TYPES = {str(kind): kind for kind in (pa.int64(), pa.date32(), pa.string())}
"""By their names, as a run keeps them; the narrowest first."""


def folder_type(values: Iterable[str | None]) -> pa.DataType:
    """The type of a column whose folders' names give these values; None is the value of a missing one.

    >>> [str(folder_type(values)) for values in (["7", "12"], ["007", "12"], ["2024-01-31", None], [None])]
    ['int64', 'string', 'date32[day]', 'string']
    """
    present = [value for value in values if value is not None]
    if not present:
        return pa.string()
    return next(kind for kind in FOLDER_TYPES.values() if all_are(present, kind))


def all_are(values: Sequence[str], kind: pa.DataType) -> bool:
    """Whether a type writes all values as they are written."""
    if kind == pa.int64():
        return all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) for value in values)
    return kind == pa.string() or all(map(_is_date, values))


def folder_type_of_format_1(values: Iterable[str | None]) -> pa.DataType:
    """The type that releases gave which kept no types in the run: integers whatever their zeros, else text."""
    present = [value for value in values if value is not None]
    whole = all(value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 19 for value in present)
    return pa.int64() if present and whole else pa.string()


def _is_date(value: str) -> bool:
    try:
        return re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII) is not None and bool(dt.date.fromisoformat(value))
    except ValueError:
        return False
