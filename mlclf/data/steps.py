"""Jobs as generators: where they are, and how they are run to their end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a job is: `done` of `total` (0: unknown) rows, or bytes, of a stage, and a line to show, if any."""

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""
    unit: str = "rows"


def drain(steps: Generator[Any, None, T]) -> T:
    """Run a job to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
