"""Counts that several threads may add to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local


class _Muted(local):
    is_on = False


_muted = _Muted()


class Tally:
    """Counts what encoding met and repaired. Decode threads add to it side by side, so each addition is locked."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def __int__(self) -> int:
        return self._count

    def add(self, number: int) -> None:
        if not _muted.is_on:
            with self._lock:
                self._count += int(number)

    def take(self) -> int:
        """The count since it was last taken."""
        with self._lock:
            count, self._count = self._count, 0
        return count


class CountedOnce:
    """Rows that are encoded again, in a later pass, add nothing to the tallies."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: set[int] = set()

    @contextmanager
    def rows_from(self, first_row: int) -> Iterator[None]:
        """While a thread encodes the rows from this number on: tallies count them the first time only."""
        with self._lock:
            is_again = first_row in self._seen
            self._seen.add(first_row)
        before, _muted.is_on = _muted.is_on, is_again
        try:
            yield
        finally:
            _muted.is_on = before
