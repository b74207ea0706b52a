"""MurmurHash3 x86-32 of many values at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_C1 = np.uint32(0xCC9E2D51)
_C2 = np.uint32(0x1B873593)
_ADD = np.uint32(0xE6546B64)
_MASK = 0xFFFFFFFF
_FEW = 32  # with fewer values left, Python integers are faster than arrays of so few

UInt32s = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]


def murmur3_32(values: Sequence[bytes] | pa.Array, seed: int = 0) -> UInt32s:
    """Hash each value with MurmurHash3 x86-32 (Appleby, 2011), the hash of scikit-learn's `murmurhash3_32`.

    Text is hashed as its UTF-8 bytes, read where Arrow keeps them. Cost grows with the bytes, not with the number of
    values.

    >>> murmur3_32([b"", b"hello"]).tolist()
    [0, 613153351]

    Args:
        values: [B] bytes, or an Arrow array [B] of string, binary, their large forms or their views, without nulls.
        seed: in [0, 2**32).

    Returns:
        [B] uint32.

    Raises:
        ValueError: `seed` is out of range, or `values` has nulls.
        TypeError: `values` is an Arrow array of another type.
    """
    if not 0 <= seed <= _MASK:
        raise ValueError(f"seed must be in [0, 2**32), got {seed!r}")
    data, offsets = _bytes_and_offsets(values)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = np.full(len(lengths), seed, dtype=np.uint32)
    if data.size:
        _mix_blocks(hashes, data, starts, lengths // 4)
        _mix_tails(hashes, data, starts, lengths)
    hashes ^= lengths.astype(np.uint32)
    return _avalanche(hashes)


def _bytes_and_offsets(values: Sequence[bytes] | pa.Array) -> tuple[npt.NDArray[np.uint8], Int64s]:
    """Return the bytes [n] uint8 of all values and the bounds [B + 1] int64 of each; slices are respected."""
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.large_binary())
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    if not (_is_short(array.type) or pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)):
        raise TypeError(f"values must be strings or binary, got an Arrow array of {array.type}; cast it to string")
    if array.null_count:
        raise ValueError(f"values must have no nulls, got {array.null_count}; drop or fill them before hashing")
    if len(array) == 0:
        return np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    _, bounds, data = array.buffers()
    width = np.dtype(np.int32 if _is_short(array.type) else np.int64)
    offsets = np.frombuffer(bounds, width, count=len(array) + 1, offset=array.offset * width.itemsize)
    return np.frombuffer(data if data is not None else b"", dtype=np.uint8), offsets.astype(np.int64, copy=False)


def _is_short(kind: pa.DataType) -> bool:
    """Return True where Arrow keeps 32-bit offsets."""
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _mix_blocks(hashes: UInt32s, data: npt.NDArray[np.uint8], starts: Int64s, num_blocks: Int64s) -> None:
    """Mix the whole 4-byte blocks of every value into `hashes` [B]: the i-th block of all values that have one."""
    if not (num_blocks > 0).any():
        return
    # Every run of four bytes as a little-endian integer, without a copy.
    words = np.ndarray((data.size - 3,), dtype="<u4", buffer=data, strides=(1,))
    order = np.argsort(-num_blocks, kind="stable")
    longest_first = -num_blocks[order]
    positions, mixed = starts[order], hashes[order]
    block = 0
    while (active := int(np.searchsorted(longest_first, -block))) >= _FEW:  # `active` values have more than `block`
        mixed[:active] = _mix(mixed[:active], words[positions[:active] + 4 * block])
        block += 1
    for i in range(active):
        first, last = positions[i] + 4 * block, positions[i] - 4 * longest_first[i]
        mixed[i] = _mix_one(int(mixed[i]), words[first:last:4])
    hashes[order] = mixed


def _mix(hashes: UInt32s, blocks: UInt32s) -> UInt32s:
    return _rotate(hashes ^ _scramble(blocks), 13) * np.uint32(5) + _ADD


def _mix_one(hash_: int, blocks: UInt32s) -> int:
    """Mix the blocks [n] of one value into its hash, one after the other."""
    for block in _scramble(blocks).tolist():
        hash_ ^= block
        hash_ = ((hash_ << 13 | hash_ >> 19) * 5 + 0xE6546B64) & _MASK
    return hash_


def _mix_tails(hashes: UInt32s, data: npt.NDArray[np.uint8], starts: Int64s, lengths: Int64s) -> None:
    """Mix the last zero to three bytes of every value into `hashes` [B]."""
    rest = lengths % 4
    tails = starts + lengths - rest
    blocks = np.zeros(len(hashes), dtype=np.uint32)
    for byte in range(3):
        has_byte = np.flatnonzero(rest > byte)
        blocks[has_byte] |= data[tails[has_byte] + byte].astype(np.uint32) << np.uint32(8 * byte)
    hashes ^= _scramble(blocks)


def _scramble(blocks: UInt32s) -> UInt32s:
    return _rotate(blocks * _C1, 15) * _C2


def _rotate(values: UInt32s, bits: int) -> UInt32s:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))


def _avalanche(hashes: UInt32s) -> UInt32s:
    hashes ^= hashes >> np.uint32(16)
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes
