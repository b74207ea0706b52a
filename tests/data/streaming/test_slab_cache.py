from __future__ import annotations

import io
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.parquet.spans import Span
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.slab import RowLayout, Slab
from mlclf.data.streaming.slab_cache import HEADER_BYTES, SlabCache

SPAN = Span(0, 128, 5)


def filled(layout: RowLayout, rows: int, valued: bool = True, seed: int = 0) -> Slab:
    rng = np.random.default_rng(seed)
    slab = Pool(2, 8, layout).acquire()
    assert slab is not None
    for array in slab.arrays.values():
        array[:rows] = rng.integers(0, 3, array[:rows].shape)
    if layout.num_tokens is None:
        slab.offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))])
        slab.ids = rng.integers(0, 99, slab.offsets[-1]).astype(np.int32)
        slab.values = rng.random(len(slab.ids)).astype(np.float32) if valued else None
    slab.rows, slab.first_row, slab.complete, slab.place = rows, 128, False, "a file row group 3"
    return slab


def same(one: Slab, other: Slab) -> bool:
    rows = one.rows
    plain = (one.rows, one.first_row, one.complete, one.place) == (
        other.rows, other.first_row, other.complete, other.place
    )  # fmt: skip
    arrays = all((one.arrays[name][:rows] == other.arrays[name][:rows]).all() for name in one.arrays)
    ragged = [(getattr(one, name), getattr(other, name)) for name in ("offsets", "ids", "values")]
    return plain and arrays and all((a is None) == (b is None) and (a is None or (a == b).all()) for a, b in ragged)


@settings(max_examples=40, deadline=None)
@given(
    dense=st.integers(0, 3), labels=st.integers(0, 3), tokens=st.sampled_from([None, 0, 2]), weighted=st.booleans(),
    parted=st.booleans(), numbered=st.booleans(), valued=st.booleans(), rows=st.integers(1, 8),
)  # fmt: skip
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, dense: int, labels: int, tokens: int | None, weighted: bool,
    parted: bool, numbered: bool, valued: bool, rows: int,
) -> None:  # fmt: skip
    layout = RowLayout(dense, labels, tokens, weighted, parted, numbered)
    slab, cache = filled(layout, rows, valued), SlabCache(tmp_path_factory.mktemp("cache"), "k" * 64)
    assert not cache.has(SPAN)
    cache.write(SPAN, slab)
    found = filled(layout, 1, seed=1)
    assert cache.has(SPAN)
    assert cache.read(SPAN, found)
    assert same(found, slab)
    assert not cache.read(Span(0, 128, 6), found)
    assert [path.name for path in cache.folder.iterdir()] == ["000000000128-5.slab"]


@pytest.fixture
def written(tmp_path: Path) -> SlabCache:
    cache = SlabCache(tmp_path, "k" * 64)
    cache.write(SPAN, filled(RowLayout(2, 1), 5))
    return cache


def file_of(cache: SlabCache) -> Path:
    return next(cache.folder.iterdir())


@pytest.mark.parametrize("size", [0, 7, HEADER_BYTES, HEADER_BYTES + 10, -1])
def test_a_file_that_was_cut_short_is_read_as_absent(written: SlabCache, size: int) -> None:
    path = file_of(written)
    path.write_bytes(path.read_bytes()[:size])
    assert not written.read(SPAN, filled(RowLayout(2, 1), 5))


def test_a_file_of_another_kind_is_read_as_absent(written: SlabCache) -> None:
    assert not written.read(SPAN, filled(RowLayout(3, 1), 5))
    file_of(written).write_bytes(b"x" * 10_000)
    assert not written.read(SPAN, filled(RowLayout(2, 1), 5))
    file_of(written).unlink()
    assert not written.read(SPAN, filled(RowLayout(2, 1), 5))


LAYOUT = RowLayout(2, 1, None, True, True, True)


def test_no_bit_of_a_file_can_be_another_one(tmp_path: Path) -> None:
    """A bit of every byte of the header, of every array and of what is around them."""
    cache = SlabCache(tmp_path, "k" * 64)
    cache.write(SPAN, filled(LAYOUT, 5))
    path = file_of(cache)
    content, random = path.read_bytes(), np.random.default_rng(0)
    assert cache.read(SPAN, filled(LAYOUT, 1, seed=1))
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        assert not cache.read(SPAN, filled(LAYOUT, 1, seed=1)), place
    path.write_bytes(content)
    assert cache.read(SPAN, filled(LAYOUT, 1, seed=1))


HEADERS: list[Callable[[dict[str, Any]], Any]] = [
    lambda header: None,
    lambda header: [],
    lambda header: {},
    lambda header: {name: value for name, value in header.items() if name != "rows"},
    lambda header: header | {"rows": 10**9},
    lambda header: header | {"rows": "5"},
    lambda header: header | {"arrays": None},
    lambda header: header | {"arrays": [["dense", "float32", [5, 10**12]]]},
]


@pytest.mark.parametrize("change", HEADERS)
def test_a_header_that_is_another_one_is_read_as_absent(
    written: SlabCache, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = file_of(written)
    content = path.read_bytes()
    start = content.index(b"{")
    header = json.loads(content[start:HEADER_BYTES])
    changed = (content[:start] + json.dumps(change(header)).encode()).ljust(HEADER_BYTES)
    path.write_bytes(changed + content[HEADER_BYTES:])
    assert not written.read(SPAN, filled(RowLayout(2, 1), 5))


def test_a_file_of_another_place_or_data_is_read_as_absent(tmp_path: Path) -> None:
    one, other = SlabCache(tmp_path, "k" * 64), SlabCache(tmp_path, "k" * 63 + "m")  # the same folder by its name
    next_span = Span(0, 133, 5)
    one.write(SPAN, filled(RowLayout(2, 1), 5))
    file_of(one).rename(one.folder / "000000000133-5.slab")
    assert not one.read(next_span, filled(RowLayout(2, 1), 5))
    one.write(SPAN, filled(RowLayout(2, 1), 5))
    assert one.read(SPAN, filled(RowLayout(2, 1), 5))
    assert not other.read(SPAN, filled(RowLayout(2, 1), 5))


def test_half_of_the_free_space_is_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2 * 2 * (HEADER_BYTES + 300)))
    cache = SlabCache(tmp_path / "deeper" / "still", "k" * 64)
    for start in range(4):
        cache.write(Span(0, start, 5), filled(RowLayout(2, 1), 5))
    assert [cache.has(Span(0, start, 5)) for start in range(4)] == [True, True, False, False]


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, *_: Any) -> int:
            raise OSError(28, "No space left on device")

    def opened(path: Path, mode: str) -> Full:
        path.touch()
        return Full()

    cache = SlabCache(tmp_path, "k" * 64)
    monkeypatch.setattr(Path, "open", opened)
    cache.write(SPAN, filled(RowLayout(2, 1), 5))
    assert not list(cache.folder.iterdir())
    monkeypatch.undo()
    cache.write(SPAN, filled(RowLayout(2, 1), 5))
    assert not cache.has(SPAN)
