"""Jobs as generators: where they are, and how they are run to their end."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("mlclf")


@dataclass(frozen=True)
class Progress:
    """Where a job is: `done` of `total` (0: unknown) rows, or bytes, of a stage, and a line to show, if any.

    A line that `warns` says that results may be other than expected; any other only says how the job goes.
    """

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""
    unit: str = "rows"
    warns: bool = False

    @classmethod
    def warning(cls, stage: str, note: str) -> Progress:
        """A line that warns."""
        return cls(stage, note=note, warns=True)


def drain(steps: Generator[Progress, None, T]) -> T:
    """Run a job to its end and return its result; its lines go to the logger "mlclf"."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if step.note:
            logger.log(logging.WARNING if step.warns else logging.INFO, "%s", step.note)
