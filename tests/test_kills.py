"""Kills at random moments while outputs are replaced: ten for each command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "predict", "apply", "convert", "shuffle", "split"])
def test_a_kill_leaves_the_old_output_or_the_new_one(command: str) -> None:
    arguments = [sys.executable, str(KILLS), "--each", "10", "--commands", command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n10 passed, 0 failed\n")
