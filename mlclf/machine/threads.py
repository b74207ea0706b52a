"""How many threads PyTorch computes on while others decode, and as many as before afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

NICENESS = 10
NOT_OURS = -1


class _Share:
    """What one thread leaves to others; PyTorch keeps the number of its threads for each thread that calls it.

    Attributes:
        usual: threads where nothing is left to others.
        given: what was set last, to tell it from what somebody else has set since; None before.
        left: what each of those who are under way was left.
    """

    def __init__(self) -> None:
        self.usual = 1
        self.given: int | None = None
        self.left: list[int] = []

    def leave(self, threads: int) -> None:
        now = torch.get_num_threads()
        if self.given is None and _under_way.count:
            now = _under_way.usual  # a new thread begins with what was last set in any
        if now != self.given:
            self.usual = now
        self.left.append(threads)
        self.set()

    def take_back(self, threads: int) -> None:
        self.left.remove(threads)
        if torch.get_num_threads() == self.given:
            self.set()
        else:
            self.given = NOT_OURS  # whoever set it has the last word

    def set(self) -> None:
        self.given = max(1, self.usual - sum(self.left))
        torch.set_num_threads(self.given)


class _UnderWay:
    """How many are under way in the whole process, and the threads that there were before the first."""

    def __init__(self) -> None:
        self.count, self.usual = 0, 1
        self.lock = threading.Lock()


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.share = _Share()


_under_way, _of_thread = _UnderWay(), _OfThread()


@contextmanager
def cores_left_by(threads: int) -> Iterator[None]:
    """Let PyTorch compute on as many threads as a number of busy others leave it, and on all of its own afterwards.

    Its threads wait for each other many times in a step, by spinning. Where one of them has to wait for a core, a step
    takes ten times as long, or more. Several may be under way at once, and end in any order; one that ends in another
    thread than it began in (the garbage collector's) is taken back the next time that its own thread asks.
    """
    share = _of_thread.share
    with _under_way.lock:
        if not _under_way.count:
            _under_way.usual = torch.get_num_threads()
        share.leave(threads)
        _under_way.count += 1
    try:
        yield
    finally:
        with _under_way.lock:
            _under_way.count -= 1
            if share is _of_thread.share:
                share.take_back(threads)
            else:
                share.left.remove(threads)


def use_one_thread() -> None:
    """Let the operations of this thread, now and later, use no other threads of PyTorch's."""
    torch.get_num_threads()  # its first call in a thread takes over what was last set in any
    torch.set_num_threads(1)


def step_back() -> None:
    """Let this thread take only what the threads that compute leave of the cores.

    The threads of PyTorch wait for each other many times in a step; were they to wait for decode threads, each time
    would cost a time slice.
    """
    use_one_thread()
    with suppress(OSError, AttributeError):  # only Linux has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def keep_threads() -> None:
    """Call this before threads are started that step back: else the first look takes over what these have set."""
    torch.get_num_threads()


def hand_on_threads() -> None:
    """Let new threads begin with as many of PyTorch's threads as this one has: others have set theirs meanwhile."""
    torch.set_num_threads(torch.get_num_threads())
