"""What all jobs share: how they are run to their end, and how their data is named."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Names = str | Sequence[str]
"""One name or several: files, folders, globs or URIs of data, or columns."""


def drain(steps: Generator[Any, None, T]) -> T:
    """Run a job to its end and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def names_of(value: Names) -> list[str]:
    """The names, one by one."""
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]
