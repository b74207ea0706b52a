from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from mlclf.data.arrow.murmur import murmur3_32


def oracle(values: list[bytes], seed: int = 0) -> list[int]:
    return [murmurhash3_32(value, seed=seed, positive=True) for value in values]


@pytest.mark.parametrize(
    ("value", "seed", "expected"),
    [
        # Test vectors of the algorithm's Wikipedia article and of the C++ reference's implementers.
        (b"", 0, 0x00000000),
        (b"", 1, 0x514E28B7),
        (b"", 0xFFFFFFFF, 0x81F16F39),
        (b"test", 0, 0xBA6BD213),
        (b"test", 0x9747B28C, 0x704B81DC),
        (b"Hello, world!", 0, 0xC0363E43),
        (b"Hello, world!", 0x9747B28C, 0x24884CBA),
        (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
        (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
        (b"\xff\xff\xff\xff", 0, 0x76293B50),
        (b"\x21\x43\x65\x87", 0x5082EDEE, 0x2362F9DE),
        (b"\x21\x43\x65", 0, 0x7E4A8634),
        (b"\x21\x43", 0, 0xA0F7B07A),
        (b"\x21", 0, 0x72661CF4),
        (b"\x00\x00\x00\x00", 0, 0x2362F9DE),
        (b"\x00\x00\x00", 0, 0x85F0B427),
        (b"\x00\x00", 0, 0x30F4C306),
        (b"\x00", 0, 0x514E28B7),
    ],
)
def test_published_vectors(value: bytes, seed: int, expected: int) -> None:
    assert murmur3_32([value], seed).tolist() == [expected]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=80), st.integers(0, 2**31 - 1))
def test_agrees_with_scikit_learn(values: list[bytes], seed: int) -> None:
    hashes = murmur3_32(values, seed)
    assert hashes.dtype == np.uint32
    assert hashes.tolist() == oracle(values, seed)


@pytest.mark.parametrize("copies", [1, 31, 32, 33, 100])
def test_every_length_alone_and_in_crowds(copies: int) -> None:
    rng = np.random.default_rng(copies)
    values = [rng.bytes(length) for length in range(70) for _ in range(copies)]
    order = rng.permutation(len(values))
    values = [values[i] for i in order] + [rng.bytes(5_003)]
    assert murmur3_32(values).tolist() == oracle(values)


TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=12), max_size=50), start=st.integers(0, 10), rows=st.integers(0, 50))
def test_slices_of_every_type(kind: pa.DataType, texts: list[str], start: int, rows: int) -> None:
    encoded = [text.encode() for text in texts]
    array = pa.array(encoded, pa.binary()).cast(kind)
    assert murmur3_32(array).tolist() == oracle(encoded)
    assert murmur3_32(array.slice(start, rows)).tolist() == oracle(encoded[start : start + rows])


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_nothing_and_emptiness(kind: pa.DataType) -> None:
    assert murmur3_32(pa.array([], kind)).tolist() == []
    assert murmur3_32(pa.array([b"", b""], pa.binary()).cast(kind)).tolist() == [0, 0]


def test_a_null_outside_the_slice_does_not_matter() -> None:
    array = pa.array(["a", None, "b"])
    assert murmur3_32(array.slice(2)).tolist() == oracle([b"b"])


def test_nulls_are_refused() -> None:
    message = "values must have no nulls, got 2; drop or fill them before hashing"
    with pytest.raises(ValueError, match=f"^{message}$"):
        murmur3_32(pa.array(["a", None, None]))


def test_other_types_are_refused() -> None:
    message = "values must be strings or binary, got an Arrow array of int64; cast it to string"
    with pytest.raises(TypeError, match=f"^{message}$"):
        murmur3_32(pa.array([1]))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(seed: int) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'seed must be in [0, 2**32), got {seed}')}$"):
        murmur3_32([b"a"], seed)
