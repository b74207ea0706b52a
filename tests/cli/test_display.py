"""What is shown while a job runs: what is done, in its unit, and what is left."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from mlclf.cli import display as progress
from mlclf.cli.display import shown_job
from mlclf.progress import Progress


def job(*steps: Progress) -> Generator[Progress, None, str]:
    yield from steps
    return "done"


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *steps: Progress) -> list[str]:
    """What is printed where each step takes ten seconds."""
    now = iter(range(0, 1_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert shown_job(job(*steps)) == "done"
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_rows_a_second_and_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(monkeypatch, capsys, Progress("fit", 100, 100_000), Progress("fit", 10_100, 100_000))
    assert found == ["fit: 100 of 100,000 rows", "fit: 10,100 of 100,000 rows, 500 rows/s, 3 min 00 s left"]


def test_bytes_are_shown_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (Progress("convert", 0, 64 << 20, unit="bytes"), Progress("convert", 40 << 20, 64 << 20, unit="bytes"))
    assert lines(monkeypatch, capsys, *steps)[1] == "convert: 40 of 64 MiB, 2 MiB/s, 12 s left"


def test_notes_are_made_safe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(monkeypatch, capsys, Progress("fit", note="\x1b[31mred")) == ["\\x1b[31mred"]
