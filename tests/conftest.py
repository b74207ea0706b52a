"""What tests of several modules use: the command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest


class Called(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Called]


@pytest.fixture
def mlclf_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """Run `mlclf ARGUMENTS…` in this process: exit code, standard output, standard error."""
    from mlclf.cli import main

    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Called:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mlclf", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Called(code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)
