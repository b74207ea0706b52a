"""Keys of rows: their kinds, values, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import as_floats, is_bytes, is_text, one_array
from mlclf.data.arrow.identities import COMPARABLE, is_comparable, value_numbers
from mlclf.data.parquet.plan import Plan
from mlclf.errors import ConfigError, DataError

SHOWN_KEYS = 5
LARGEST_EXACT = {16: 1 << 11, 32: 1 << 24, 64: 1 << 53}
"""By the bits of a float: it holds every integer below."""


@dataclass
class Unmatched:
    """Rows whose key the other side does not have: how many, and the first few keys."""

    rows: int = 0
    examples: list[Any] = field(default_factory=list)

    def add(self, column: pa.ChunkedArray, chosen: NDArray[np.bool_]) -> None:
        """Count the rows of a column of keys that are `chosen` [n]."""
        self.rows += int(chosen.sum())
        if len(self.examples) < SHOWN_KEYS:
            some = np.flatnonzero(chosen)[: SHOWN_KEYS - len(self.examples)]
            self.examples += one_array(column).take(pa.array(some)).to_pylist()

    def text(self) -> str:
        """The first few keys, as a list ends in a message."""
        more = " …" if self.rows > len(self.examples) else ""
        return ", ".join(map(shown_key, self.examples)) + more


def shown_key(value: Any) -> str:
    """A key as a message shows it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def key_kind(kind: pa.DataType) -> str | None:
    """What a key of an Arrow type can be compared with, None for only nulls."""
    if isinstance(kind, pa.BaseExtensionType):
        return key_kind(kind.storage_type)
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return key_kind(kind.value_type)
    if types.is_null(kind):
        return None
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numbers"
    if is_text(kind) or is_bytes(kind):
        return "strings"
    return "dates" if types.is_date(kind) or types.is_timestamp(kind) else str(kind)


def check_key_kinds(plans: Sequence[Plan], key: str) -> None:
    """Refuse a key that is of one kind here and of another there, or whose values cannot be compared.

    Raises:
        ConfigError: it is; names a file of each.
    """
    found: dict[str, str] = {}
    for shard in (shard for plan in plans for shard in plan.shards):
        kind = shard.schema.field(key).type
        if not is_comparable(kind):
            raise ConfigError(f"--key: {key!r} must hold {COMPARABLE}, found {kind} in {shard.source.name}")
        kind = key_kind(kind)
        if kind is not None:
            found.setdefault(kind, shard.source.name)
    if len(found) > 1:
        places = ", ".join(f"{kind} in {name}" for kind, name in found.items())
        raise ConfigError(f"--key: {key!r} must be of one kind everywhere, found {places}; cast it where it is written")


def key_values(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Keys as [n] int64, integers as they are and others as 64-bit hashes; and which are missing, [n].

    Raises:
        DataError: a float is so large that it may have been another integer.
    """
    kind = column.type
    if pa.types.is_floating(kind):
        largest = LARGEST_EXACT[kind.bit_width]
        values = as_floats(one_array(column))
        inexact = np.abs(values) >= largest
        if inexact.any():
            raise DataError(
                f"a key that is a {kind} must be below {largest:,}, from which on floats skip integers, found "
                f"{values[inexact][0]:.0f}; write keys as integers or strings"
            )
    return value_numbers(column)
