"""Digests of content: what changes them, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlclf
from mlclf.data.parquet.content import Contents, content_digest
from mlclf.data.parquet.planning import make_plan
from mlclf.errors import ConfigError

BYTES = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()


@given(places=st.sets(st.integers(0, 2499), min_size=1, max_size=3), data=st.data())
def test_a_change_of_up_to_three_words_is_seen(places: set[int], data: st.DataObject) -> None:
    changed = bytearray(BYTES)
    for place in places:
        word = data.draw(st.binary(min_size=8, max_size=8).filter(lambda w: w != BYTES[8 * place : 8 * place + 8]))  # noqa: B023
        changed[8 * place : 8 * place + 8] = word
    assert content_digest([bytes(changed)]) != content_digest([BYTES])


@given(first=st.integers(0, 2499), second=st.integers(0, 2499))
def test_words_that_change_places_are_seen(first: int, second: int) -> None:
    words = np.frombuffer(BYTES, np.uint64).copy()
    words[[first, second]] = words[[second, first]]
    assert (content_digest([words.tobytes()]) != content_digest([BYTES])) == (first != second)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4095, 4096, 4097, 8192, 20_000])
def test_length_and_order_are_seen(size: int) -> None:
    part = BYTES[:size]
    assert content_digest([part]) == content_digest([memoryview(part)]) == content_digest([bytearray(part)])
    assert content_digest([part]) != content_digest([part + b"\0"])
    assert content_digest([part]) != content_digest([part, b""])
    if size:
        assert content_digest([part, b"x"]) != content_digest([b"x", part])


def write(path: Path, labels: np.ndarray) -> None:
    x = np.random.default_rng(0).normal(size=len(labels))
    table = pa.table({"x": x, "note": x, "label_a": labels})
    pq.write_table(table, path, row_group_size=300, use_dictionary=False, write_statistics=False, compression="none")


def digests(path: Path, *columns: str) -> list[str]:
    plan = make_plan(str(path))
    contents = Contents(plan, columns)
    contents.add_all(range(len(plan.units)), 2)
    return contents.of_files()


def test_files_are_known_by_what_is_read_of_them(tmp_path: Path) -> None:
    labels = np.arange(1000) % 3 == 0
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", labels)
    one, other = digests(tmp_path, "x", "label_a")
    assert one == other  # wherever they are
    write(tmp_path / "b.parquet", ~labels)
    assert digests(tmp_path, "x", "label_a")[0] == one != digests(tmp_path, "x", "label_a")[1]
    assert digests(tmp_path, "label_a", "x")[0] == one != digests(tmp_path, "x")[0]


@pytest.mark.parametrize("reused", [False, True])
def test_labels_that_were_corrected_in_place_are_refused_by_a_cache_of_the_old_ones(
    tmp_path: Path, reused: bool
) -> None:
    """The same size, footer and time of writing."""
    path, labels = tmp_path / "a.parquet", np.arange(1000) % 3 == 0
    write(path, labels)
    status = path.stat()
    features = mlclf.ParquetLoader(str(path), labels="label_a").features if reused else None

    def read() -> list[bool]:
        loader = mlclf.ParquetLoader(
            str(path), labels="label_a", shuffle=False, cache=str(tmp_path / "cache"), features=features
        )
        list(loader)
        return [bool(value) for batch in loader for value in batch.labels[:, 0]]

    assert read() == labels.tolist()
    assert read() == labels.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    swapped = labels.copy()
    swapped[[0, 1]] = labels[[1, 0]]  # as many positives as before
    write(path, swapped)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    (of_first,) = (tmp_path / "cache").iterdir()
    with pytest.raises(ConfigError, match=r"a\.parquet: has the size and the footer .* and other content"):
        read()
    shutil.rmtree(of_first)
    assert read() == swapped.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1
