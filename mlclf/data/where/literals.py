"""Numbers, strings and times of a condition as values of a column's type, so that each comparison is exact.

Where no value of the type is the literal, it lies next to one: 1.5 just above 1 among integers, 300 just above 255 in
uint8. A float column rounds the literal as it would if the number were stored there, so that 0.1 finds 0.1 in float32.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mlclf.data.where.column_types import SECOND, TEXT, TIME, compared_type, family, unit_nanoseconds
from mlclf.data.where.syntax import Literal, Membership, cut

MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?(?: ?(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?))?)?"
)


class UnsuitedError(Exception):
    """A literal cannot be compared with a type; the text says what to write instead."""

    def __init__(self, literal: Literal, hint: str) -> None:
        super().__init__(f"cannot be compared with {cut(literal.text)}; {hint}")


class Bound(NamedTuple):
    """Where a literal lies: at `value` (gap 0), between it and the next greater (1), or below it, the least (-1)."""

    value: pa.Scalar
    gap: int


@lru_cache(maxsize=1024)
def bound(literal: Literal, kind: pa.DataType) -> Bound:
    """Where a literal lies among the values of a type, which is no dictionary; `value` is of its `compared_type` type.

    Raises:
        UnsuitedError: they cannot be compared.
    """
    value, among = literal.value, family(kind)
    if among == TEXT:
        if not isinstance(value, str):
            raise UnsuitedError(literal, "write the value in 'single quotes'")
        return Bound(pa.scalar(value, compared_type(kind)), 0)
    if among == TIME:
        moment = nanoseconds(value) if isinstance(value, str) else None
        if moment is None:
            raise UnsuitedError(literal, "write a date or time such as '2024-01-31' or '2024-01-31 12:30:00'")
        return _among_integers(Fraction(moment, unit_nanoseconds(kind)), kind)
    if isinstance(value, str):
        raise UnsuitedError(literal, "write a number, without quotes")
    number = Fraction(value)
    return _among_floats(number, kind) if pa.types.is_floating(kind) else _among_integers(number, compared_type(kind))


@lru_cache(maxsize=64)
def value_set(membership: Membership, kind: pa.DataType) -> pa.Array:
    """The listed values as an array of the `compared_type` type, those left out that no value of the type equals.

    Raises:
        UnsuitedError: one cannot be compared with the type.
    """
    bounds = [bound(literal, kind) for literal in membership.values]
    values = [found.value for found in bounds if found.gap == 0]
    if pa.types.is_floating(kind) and any(value.as_py() == 0 for value in values):
        values += [
            pa.scalar(zero, compared_type(kind)) for zero in (0.0, -0.0)
        ]  # pyarrow finds zero only with its own sign
    return pa.array(values, compared_type(kind))


def nanoseconds(text: str) -> int | None:
    """Nanoseconds since 1970 of an ISO date or time, in UTC where it names no zone; None where it is neither.

    >>> nanoseconds("1970-01-02 00:00:00.5+01:00") / 10**9
    82800.5
    """
    found = MOMENT.fullmatch(text)
    if found is None:
        return None
    day, clock, second, fraction, sign, hours, minutes = found.groups()
    try:
        moment = dt.datetime.fromisoformat(f"{day}T{clock or '00:00'}:{second or '00'}").replace(tzinfo=dt.UTC)
        shift = dt.time(int(hours or 0), int(minutes or 0))
    except ValueError:
        return None
    seconds = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    seconds -= (shift.hour * 3600 + shift.minute * 60) * (-1 if sign == "-" else 1)
    return seconds * SECOND + int((fraction or "").ljust(9, "0"))


def _among_integers(value: Fraction, kind: pa.DataType) -> Bound:
    """Where a number lies among integers, or among decimals, which are integers of their last digit."""
    is_decimal, is_unsigned = pa.types.is_decimal(kind), pa.types.is_unsigned_integer(kind)
    greatest = 10**kind.precision - 1 if is_decimal else 2 ** (kind.bit_width - (not is_unsigned)) - 1
    least = -greatest if is_decimal else 0 if is_unsigned else -greatest - 1
    scaled = value * Fraction(10) ** kind.scale if is_decimal else value
    whole = max(least, min(math.floor(scaled), greatest))
    held = Decimal(f"{whole}e{-kind.scale}") if is_decimal else whole
    return Bound(pa.scalar(held, kind), -1 if scaled < least else int(whole != scaled))


def _among_floats(value: Fraction, kind: pa.DataType) -> Bound:
    width: Any = kind.to_pandas_dtype()
    try:
        with np.errstate(over="ignore"):
            rounded = float(width(float(value)))
    except OverflowError:
        rounded = math.inf
    if math.isfinite(rounded):
        return Bound(pa.scalar(rounded, compared_type(kind)), 0)
    # Beyond the greatest finite value lies only infinity.
    return Bound(pa.scalar(float(np.finfo(width).max) if value > 0 else -math.inf, compared_type(kind)), 1)
