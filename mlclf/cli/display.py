"""Progress of a job on stderr: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from typing import TypeVar

from mlclf.cli.output import safe_text
from mlclf.machine.signals import Stopped, look
from mlclf.progress import Progress

T = TypeVar("T")

PLAIN_SECONDS = 5.0
"""Without a terminal, a line of progress is printed this often."""


def shown_job(steps: Generator[Progress, None, T]) -> T:
    """Run a job to its end, show its progress on stderr, and return its result."""
    display = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        while True:
            try:
                step = next(steps)
                _stop_if_asked(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if step.note:
                display.note(safe_text(step.note))
            elif step.total:
                display.show(safe_text(step.stage), step.done, step.total, step.unit)
    finally:
        display.close()


def _stop_if_asked(steps: Generator[Progress, None, T]) -> None:
    """After a signal, raise `Stopped` inside the job so that it can clean up."""
    try:
        look()
    except Stopped as stop:
        steps.throw(stop)


class _Clock:
    """Rate and remaining time of the current stage."""

    def __init__(self) -> None:
        self.stage, self.started, self.first = "", 0.0, 0

    def text(self, stage: str, done: int, total: int, unit: str) -> str:
        now = time.monotonic()
        if stage != self.stage or done < self.first:
            self.stage, self.started, self.first = stage, now, done
        elapsed = now - self.started
        scale, unit = (1 << 20, "MiB") if unit == "bytes" else (1, unit)
        text = f"{done // scale:,} of {total // scale:,} {unit}"
        if elapsed < 0.05 or done <= self.first:
            return text
        rate = (done - self.first) / elapsed
        left = max(0.0, (total - done) / rate)
        return f"{text}, {rate / scale:,.0f} {unit}/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class _Lines:
    """Plain lines, a few seconds apart, for pipes and logs."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        text = self._clock.text(stage, done, total, unit)
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            print(f"{stage}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """A live line on a terminal."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn

        self._clock = _Clock()
        self._console = Console(stderr=True, markup=False, highlight=False)
        text = TextColumn("{task.fields[text]}", markup=False)
        self._progress = progress.Progress(
            TextColumn("{task.description}", markup=False), BarColumn(30), text, console=self._console, transient=True
        )
        self._task = self._progress.add_task("", text="", visible=False)
        self._progress.start()

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        text = self._clock.text(stage, done, total, unit)
        self._progress.update(self._task, description=stage, completed=done, total=total, text=text, visible=True)

    def close(self) -> None:
        self._progress.stop()
