"""The memory that is foretold for a fit is about what it takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.inspection.fit_memory import LIBRARY_BYTES, FitSize
from mlclf.data.inspection.report import inspect

WITHIN = 0.25
BUDGET = 512 << 20


def test_more_data_takes_more_until_the_budget_holds_it() -> None:
    size = FitSize(rows=1000, row_bytes=200, num_labels=5, num_dense=40, num_splined=40)
    found = [replace(size, rows=rows).estimated_bytes(BUDGET) for rows in (0, 1000, 50_000, 100_000)]
    assert found == sorted(found)
    assert LIBRARY_BYTES <= found[0] < LIBRARY_BYTES + (10 << 20)
    large = [replace(size, rows=rows).estimated_bytes(BUDGET) for rows in (10**7, 10**9)]
    assert large[0] == large[1] < LIBRARY_BYTES + 2 * BUDGET


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs between systems")
def test_a_small_fit_takes_what_inspect_foretells(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 30)).astype(np.float32)
    columns = {f"x{index}": x[:, index] for index in range(30)}
    labels = {f"label_{index}": random.random(20_000) < 1 / (1 + np.exp(-x[:, index])) for index in range(3)}
    data = tmp_path / "d.parquet"
    pq.write_table(pa.table(columns | labels), data)
    foretold = inspect(str(data), ["label_*"])["memory"]["fit_bytes"]
    command = [sys.executable, "-m", "mlclf", "fit", str(data), "--labels", "label_*", "--out", str(tmp_path / "run")]
    child = subprocess.Popen([sys.executable, "-c", PEAK, *command], stdout=subprocess.PIPE, text=True)
    taken = int(child.communicate()[0].split()[-1])
    assert child.returncode == 0
    assert foretold == pytest.approx(taken, rel=WITHIN)


PEAK = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process that has loaded nothing starts the command: a child's peak begins with that of its parent."""
