"""Work on several threads gives what a loop gives, in its order, and takes no more ahead than it must."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from mlclf.machine.workers import in_order, on_threads


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces(threads: int) -> None:
    def work(piece: int) -> int:
        time.sleep(0.002 * (piece % 3))
        return piece * piece

    assert list(in_order(work, range(40), 40)) == [piece * piece for piece in range(40)]
    assert on_threads(work, range(7)) == [piece * piece for piece in range(7)]
    assert on_threads(work, []) == []


def test_each_thread_computes_on_one_of_torch_s(threads: int) -> None:
    found = on_threads(lambda _: (threading.get_ident(), torch.get_num_threads()), range(20))
    if threads > 1:
        assert {count for _, count in found} == {1}
        assert threading.get_ident() not in {ident for ident, _ in found}
    assert torch.get_num_threads() == threads


def test_few_pieces_are_taken_ahead(threads: int) -> None:
    taken = 0

    def pieces() -> Iterator[int]:
        nonlocal taken
        for piece in range(100):
            taken += 1
            yield piece

    for done, _ in enumerate(in_order(lambda piece: piece, pieces(), 100)):
        assert taken <= done + 2 * threads + 1


def test_an_error_comes_where_its_piece_would(threads: int) -> None:
    def work(piece: int) -> int:
        if piece == 5:
            raise ValueError(f"piece {piece}")
        return piece

    results = in_order(work, range(20), 20)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="piece 5"):
        next(results)


def test_after_an_error_no_piece_is_still_worked_on(threads: int) -> None:
    ended = []

    def work(piece: int) -> None:
        if piece == 0:
            raise ValueError("piece 0")
        time.sleep(0.02)
        ended.append(piece)

    with pytest.raises(ValueError, match="piece 0"):
        on_threads(work, range(20))
    before = len(ended)
    time.sleep(0.1)
    assert len(ended) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert on_threads(str, range(5)) == list("01234")
        child = os.fork()
        if child == 0:
            threading.Timer(20, os._exit, [2]).start()
            os._exit(0 if on_threads(str, range(5)) == list("01234") else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
