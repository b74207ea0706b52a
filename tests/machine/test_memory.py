"""What is free: never more than the machine has, nor than the process may take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlclf.machine import memory


def test_no_more_than_the_machine_has() -> None:
    assert 0 < memory.free_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from mlclf.machine.memory import free_bytes; print(free_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 30


def test_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory").mkdir()
    for name, number in (("memory.limit_in_bytes", 1_000_000), ("memory.usage_in_bytes", 400_000)):
        (tmp_path / "memory" / name).write_text(f"{number}\n")
        (tmp_path / name).write_text(f"{number}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.free_bytes() == 600_000


def test_a_system_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "none")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.free_bytes() <= sys.maxsize
