"""Pooled out-of-fold scores rank rows as new rows are ranked: the benchmark, with few data sets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "out_of_fold.py"
LINE = re.compile(r"difference ([+-][\d.]+) ± ([\d.]+)")


@pytest.mark.slow
def test_pooled_auroc_is_that_of_new_rows_within_chance() -> None:
    """Of folds by chance whose models keep their levels, 60 data sets differ by five standard errors."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--sets", "60", "--seed", "1"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"1 passed, 0 failed|0 passed, 1 failed", lines[-1]), done.stdout + done.stderr
    found = [(float(difference), float(error)) for difference, error in LINE.findall(done.stdout)]
    assert len(found) == 5
    assert all(abs(difference) < 4 * error for difference, error in found)
    assert found[-1][1] < 0.03
