"""Stops that signals ask for: they set a flag, which is looked at between batches and in waits.

An exception that a signal raises anywhere can come between a rename and what belongs to it. The command line sets the
flag; in Python, where nothing is installed, Ctrl-C raises KeyboardInterrupt as ever.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
LOOK_SECONDS = 0.2
"""Waits look at the flag this often."""

T = TypeVar("T")

_asked: list[int] = []


class Stopped(BaseException):
    """A signal asked for an end, and this is a place where one may be made."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


def look() -> None:
    """Make an end here, where one was asked for.

    Raises:
        Stopped: a signal has arrived.
    """
    if _asked:
        raise Stopped(_asked[0])


def looked(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a look before each."""
    for item in items:
        look()
        yield item


def pause(seconds: float) -> None:
    """Wait, and look meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        look()
        time.sleep(min(left, LOOK_SECONDS))
    look()


def result_of(future: Future[T], seconds: float) -> T:
    """The result of a future, waited for and looked meanwhile.

    Raises:
        TimeoutError: there is none within these seconds.
    """
    end = time.monotonic() + seconds
    while True:
        look()
        left = end - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(left, LOOK_SECONDS)))
        except TimeoutError:
            if future.done() or left <= LOOK_SECONDS:
                raise


def first_asked() -> int | None:
    """The first signal that arrived, if any did."""
    return _asked[0] if _asked else None


@contextmanager
def signals_are_flags() -> Iterator[None]:
    """Let signals set the flag inside; a second SIGINT ends the process at once. Signals that are ignored stay so."""
    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _set)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _asked.clear()


def _set(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _asked:
        os.write(2, b"error: stopped at once by a second SIGINT\n")
        os._exit(128 + number)
    _asked.append(number)
