"""Lists of Arrow: their parts, nulls within them, and bits of membership."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.errors import DataError


def tag_texts(array: pa.ListArray, where: str, name: str) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets and texts of a list column of tags: ([n + 1] int64 from 0, string array).

    Raises:
        DataError: a list holds a null.
    """
    offsets, values = list_parts(array)
    if values.null_count:
        raise DataError(null_inside(where, name))
    return offsets, pc.cast(values, pa.string())


def null_inside(where: str, name: str, found: str = "null") -> str:
    """The message for a list column whose elements are not all there."""
    return (
        f"{where}: column {name!r} has a list with a {found} inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )


def list_parts(array: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets from 0 and the values of any list array, slices included; a null list is empty."""
    offsets = np.zeros(len(array) + 1, np.int64)
    if pa.types.is_null(array.type):
        return offsets, pa.array([], pa.string())
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    np.cumsum(lengths, out=offsets[1:])
    values = array.flatten()
    return offsets, values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def bits_of(array: pa.BooleanArray) -> NDArray[np.uint8]:
    """0 and 1 of booleans without nulls: [n] uint8; six times as fast as a cast."""
    if not len(array):
        return np.zeros(0, np.uint8)
    start = array.offset % 8
    packed = np.frombuffer(array.buffers()[1], np.uint8, offset=array.offset // 8)
    return np.unpackbits(packed, count=start + len(array), bitorder="little")[start:]
