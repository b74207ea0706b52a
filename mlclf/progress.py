"""Jobs as generators: where they are, and how they are run to their end."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")
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


class Steps(Generic[S, T]):
    """The steps of a job, one after the other; once there are no more, `result` is what it returned."""

    result: T

    def __init__(self, job: Generator[S, None, T]) -> None:
        self._job = job

    def __iter__(self) -> Iterator[S]:
        self.result = yield from self._job


def drain(job: Generator[Progress, None, T]) -> T:
    """Run a job to its end and return its result; its lines go to the logger "mlclf"."""
    steps = Steps(job)
    for step in steps:
        if step.note:
            logger.log(logging.WARNING if step.warns else logging.INFO, "%s", step.note)
    return steps.result
