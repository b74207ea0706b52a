"""Columns of times → seconds: numbers, dates, timestamps of any unit, and ISO 8601 text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import as_floats, is_bytes, is_text, one_array
from mlclf.data.arrow.identities import levels_of
from mlclf.errors import DataError

_ISO = (
    r"^(?P<month>\d{4}-\d{2})(?P<day>-\d{2})?"
    r"(?:[Tt ](?P<hour>\d{2})(?P<minute>:\d{2})?(?P<second>:\d{2})?(?P<decimals>[.,]\d+)?"
    r"(?P<zone>[Zz]|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_SHOWN = 60


def time_values(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """Times as float64, seconds where the type says so; missing ones become -inf, so they are never held out: [n].

    Files may keep one time in different units. Two times of today that are less than 2e-7 seconds apart are the same.
    Times without a zone are UTC.

    Args:
        name: of the column, for the message.

    Raises:
        DataError: a text is no time, or the type holds none.
    """
    array = one_array(column)
    if is_text(array.type):
        codes, texts = levels_of(array)
        return np.asarray(np.append(_seconds(texts, name), -np.inf)[codes])
    if is_bytes(array.type):
        raise _refused(str(array.type), name)
    values = as_floats(array).astype(np.float64, copy=False)
    return np.where(np.isnan(values), -np.inf, values)


def _seconds(texts: pa.Array, name: str) -> NDArray[np.float64]:
    """Seconds since 1970 of distinct texts."""
    found = pc.extract_regex(texts, _ISO)
    if found.null_count:
        raise _refused(_shown(texts.filter(found.is_null())), name)
    month, day, hour, minute, second, decimals, zone = found.flatten()
    date = pc.binary_join_element_wise(month, _filled(day, "-01"), "")
    clock = pc.binary_join_element_wise(_filled(hour, "00"), _filled(minute, ":00"), _filled(second, ":00"), "")
    moments = pc.binary_join_element_wise(date, clock, " ")
    try:
        seconds = moments.cast(pa.timestamp("s")).cast(pa.int64())
    except pa.ArrowInvalid:
        raise _refused(_shown(texts.filter(pa.array([not _exists(moment) for moment in moments]))), name) from None
    fractions = pc.replace_substring(_filled(decimals, ".0"), ",", ".").cast(pa.float64())
    return np.asarray(seconds.to_numpy() + fractions.to_numpy() - _offsets(zone))


def _exists(moment: pa.StringScalar) -> bool:
    try:
        moment.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return False
    return True


def _filled(texts: pa.Array, text: str) -> pa.Array:
    """The texts, with `text` where one is empty."""
    return pc.if_else(pc.equal(pc.utf8_length(texts), 0), text, texts)


def _offsets(zones: pa.Array) -> NDArray[np.float64]:
    """Seconds by which clocks are ahead of UTC."""
    encoded = zones.dictionary_encode()
    offsets = np.array([_offset(zone) for zone in encoded.dictionary.to_pylist()], np.float64)
    return np.asarray(offsets[encoded.indices.to_numpy()])


def _offset(zone: str) -> float:
    """Seconds of an offset as it is written.

    >>> _offset("+05:45"), _offset("-0130"), _offset("Z"), _offset("")
    (20700.0, -5400.0, 0.0, 0.0)
    """
    if zone in ("", "Z", "z"):
        return 0.0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = 3600.0 * int(digits[:2]) + 60.0 * int(digits[2:])
    return -seconds if zone[0] == "-" else seconds


def _shown(texts: pa.Array) -> str:
    value = texts[0].as_py()
    return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")


def _refused(found: str, name: str) -> DataError:
    return DataError(
        f"column {name!r}: times must be numbers, dates, timestamps or ISO 8601 text, such as 2024-01-31 or "
        f"2024-01-31T10:00:00Z, found {found}; write them so, or name another column"
    )
