"""PyTorch's threads are as many after loaders as before them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mlclf
from mlclf.machine.threads import cores_left_by

THREADS = 6


@pytest.fixture
def usual() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield THREADS
    torch.set_num_threads(before)


@pytest.fixture
def loader(tmp_path: Path) -> mlclf.ParquetLoader:
    random = np.random.default_rng(0)
    for number in range(3):
        table = pa.table({"x": random.normal(size=2000), "label_a": random.random(2000) < 0.5})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=200)
    return mlclf.ParquetLoader(str(tmp_path), labels="label_*", batch_rows=100, threads=2)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def check(usual: int) -> None:
    gc.collect()
    assert torch.get_num_threads() == usual
    assert threads_of_a_new_thread() == usual


def test_a_loader_leaves_them_as_they_were(usual: int, loader: mlclf.ParquetLoader) -> None:
    check(usual)  # making it has read all rows
    for _ in loader:
        assert torch.get_num_threads() == usual - 2
    check(usual)


@pytest.mark.slow
def test_threads_that_were_set_before_anything_was_computed(tmp_path: Path) -> None:
    """PyTorch takes over what was last set in any thread at the first look of a thread, not when it sets its own."""
    pq.write_table(pa.table({"x": [1.0, 2.0, 4.0], "label_a": [True, False, True]}), tmp_path / "a.parquet")
    code = (
        "import sys, torch, mlclf\ntorch.set_num_threads(5)\n"
        "a, b = (mlclf.ParquetLoader(sys.argv[1], labels='label_*', batch_rows=2) for _ in range(2))\n"
        "assert torch.get_num_threads() == 5\nlist(zip(a, b))\nassert torch.get_num_threads() == 5"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_two_loaders_side_by_side(usual: int, loader: mlclf.ParquetLoader, tmp_path: Path) -> None:
    other = mlclf.ParquetLoader(str(tmp_path), labels="label_*", batch_rows=300, threads=2)
    for _ in zip(loader, other, strict=False):
        assert torch.get_num_threads() == usual - 4
    check(usual)


def test_one_loader_inside_another(usual: int, loader: mlclf.ParquetLoader, tmp_path: Path) -> None:
    other = mlclf.ParquetLoader(str(tmp_path), labels="label_*", batch_rows=1000, threads=2)
    for number, _ in enumerate(loader):
        if number < 2:
            list(other)
        assert torch.get_num_threads() == usual - 2
    check(usual)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_iterators_that_are_left_early(usual: int, loader: mlclf.ParquetLoader, order: tuple[int, int]) -> None:
    iterators = [iter(loader), iter(loader)]
    for iterator in iterators:
        next(iterator)
    for index in order:
        iterators[index].close()  # type: ignore[attr-defined]  # a generator
    check(usual)


def test_loaders_in_threads(usual: int, loader: mlclf.ParquetLoader, tmp_path: Path) -> None:
    loaders = [mlclf.ParquetLoader(str(tmp_path), labels="label_*", batch_rows=70, threads=2) for _ in range(4)]
    found: list[tuple[int, int]] = []

    def work(own: mlclf.ParquetLoader) -> None:
        before = torch.get_num_threads()
        for epoch in range(2):
            own.set_epoch(epoch)
            for _ in own:
                pass
        found.append((before, torch.get_num_threads()))

    threads = [threading.Thread(target=work, args=(own,)) for own in loaders]
    for thread in threads:
        thread.start()
    list(loader)
    for thread in threads:
        thread.join()
    assert [after for _, after in found] == [usual] * 4
    check(usual)


def test_what_is_set_meanwhile_stays(usual: int) -> None:
    with cores_left_by(2):
        torch.set_num_threads(3)
    assert torch.get_num_threads() == 3
    with cores_left_by(1), cores_left_by(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_one_that_ends_in_another_thread_is_taken_back_later(usual: int) -> None:
    share = cores_left_by(2)
    share.__enter__()
    thread = threading.Thread(target=share.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with cores_left_by(1):
        assert torch.get_num_threads() == usual - 1
    check(usual)
