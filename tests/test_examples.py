"""Every example runs, says what it should, and is in the index."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
SECONDS = 120

GRADIENT_DESCENT_LOSSES = [0.6931, 0.5710, 0.4932, 0.4403, 0.4019, 0.3726, 0.3495, 0.3305, 0.3147, 0.3013]


def output_of(script: Path, folder: Path) -> str:
    """Run a script in a folder of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_index_lists_every_example() -> None:
    assert SCRIPTS
    listed = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == [script.name for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_has_a_test_of_its_numbers(script: Path) -> None:
    assert f"def test_{script.stem}" in Path(__file__).read_text()


def test_gradient_descent(tmp_path: Path) -> None:
    output = output_of(FOLDER / "gradient_descent.py", tmp_path)
    found = re.findall(r"^ *(\d+) +(0\.\d{4}) ", output, re.MULTILINE)
    assert [int(epoch) for epoch, _ in found] == list(range(0, 100, 10))
    assert [float(loss) for _, loss in found] == GRADIENT_DESCENT_LOSSES
    assert "After 100 steps" in output
    assert not list(tmp_path.iterdir())
