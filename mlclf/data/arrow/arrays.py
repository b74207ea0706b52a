"""Arrow columns of any type → one array; of any numeric type → floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def one_array(column: pa.ChunkedArray, *, keeps_dictionary: bool = False) -> pa.Array:
    """A column as one array; its dictionary, if it has one, is looked up, unless it is to be kept."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    decodes = pa.types.is_dictionary(array.type) and not keeps_dictionary
    return array.dictionary_decode() if decodes else array


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of the three of strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds bytes, of any or of one length; UUIDs are kept so."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return is_bytes(kind.storage_type)
    variable = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(variable or types.is_fixed_size_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of the lists, of any or of one length, views of lists among them."""
    types = pa.types
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    return bool(views or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def text_of_bytes(array: pa.Array, where: str, name: str) -> pa.Array:
    """The text that bytes encode: [n] large_string.

    Raises:
        DataError: they are not UTF-8.
    """
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    try:
        return storage.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        raise DataError(
            f"{where}: column {name!r} holds bytes that are no text in UTF-8; convert them where the data is written"
        ) from None


def as_floats(array: pa.Array) -> NDArray[Any]:
    """The numbers of an array, NaN for null: [n] float32 where that is exact, else float64.

    Dates, timestamps, times and durations are seconds; booleans are 0 and 1.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        return np.asarray(values, np.float32 if kind.bit_width <= 32 else np.float64)
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and kind.bit_width <= 16):
        return np.asarray(pc.cast(array, pa.float32(), safe=False).to_numpy(zero_copy_only=False))
    scale = 1.0
    if pa.types.is_temporal(kind):
        scale = _seconds_per_unit(kind)
        array = pc.cast(array, pa.int32() if kind.bit_width == 32 else pa.int64())
    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)) * scale


def _seconds_per_unit(kind: pa.DataType) -> float:
    if pa.types.is_date32(kind):
        return 86_400.0
    if pa.types.is_date64(kind):
        return 1e-3
    return SECONDS[kind.unit]


def tensor_of(column: pa.ChunkedArray) -> Tensor:
    """A column of float32 without nulls as a tensor of the same memory, which is not to be written to."""
    import torch.utils.dlpack

    tensor: Tensor = torch.utils.dlpack.from_dlpack(one_array(column))
    return tensor


def transpose(columns: NDArray[Any], rows: NDArray[Any]) -> None:
    """Copy [columns, n] into [n, columns], each of whose rows is contiguous.

    PyTorch does it in blocks that stay in a core's cache, three times as fast as NumPy for 100 columns of float32.
    """
    import torch  # here, so that inspecting footers does not load it

    torch.from_numpy(rows).copy_(torch.from_numpy(columns).t())
