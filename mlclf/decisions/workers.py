"""Work on many pieces at once, each on one thread of torch's: within an operation its threads wait for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

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
    threads = min(most_threads, torch.get_num_threads(), num_pieces)
    if threads <= 1:
        yield from map(work, pieces)
        return
    coming: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for piece in pieces:
            coming.append(pool.submit(work, piece))
            if len(coming) > 2 * threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def on_threads(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], most_threads: int = MAX_THREADS
) -> list[Result]:
    """The results of `work` on all pieces; see `in_order`."""
    return list(in_order(work, pieces, len(pieces), most_threads))
