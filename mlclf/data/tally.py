"""A count that several threads may add to."""

from __future__ import annotations

from threading import Lock


class Tally:
    """Counts what encoding met and repaired. Decode threads add to it side by side, so each addition is locked."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def __int__(self) -> int:
        return self._count

    def add(self, number: int) -> None:
        with self._lock:
            self._count += int(number)

    def take(self) -> int:
        """The count since it was last taken."""
        with self._lock:
            count, self._count = self._count, 0
        return count
