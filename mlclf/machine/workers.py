"""Work on many pieces side by side, each on one thread of PyTorch's.

Within an operation PyTorch's own threads wait for each other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from mlclf.machine.signals import looked
from mlclf.machine.threads import hand_on_threads, use_one_thread

MAX_THREADS = 8

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], num_pieces: int, most_threads: int = MAX_THREADS
) -> Iterator[Result]:
    """Yield the results of `work` in the order of the pieces, on as many threads as torch has.

    A result is the same on any number of threads. Few pieces are taken ahead of the result that is waited for.

    Args:
        num_pieces: about how many there are.
        most_threads: fewer than usual where a piece takes much memory.
    """
    threads = min(most_threads, torch.get_num_threads())
    if threads <= 1 or num_pieces <= 1:
        yield from map(work, looked(pieces))
        return
    pool = _pool(threads)
    coming: deque[Future[Result]] = deque()
    try:
        for piece in looked(pieces):
            coming.append(pool.submit(work, piece))
            if len(coming) > 2 * threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        wait([future for future in coming if not future.cancel()])
        hand_on_threads()


def on_threads(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], most_threads: int = MAX_THREADS
) -> list[Result]:
    """The results of `work` on all pieces; see `in_order`."""
    return list(in_order(work, pieces, len(pieces), most_threads))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside: slices are too small to share, and on a busy machine threads wait for ever.

    Measured with 10,000 labels on two cores and three other processes: 10 seconds with one thread, 254 with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one would have to ask for the memory again that an old one still holds."""
    return ThreadPoolExecutor(threads, initializer=use_one_thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
