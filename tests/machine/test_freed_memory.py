"""Temporaries that come and go do not ask the system for fresh pages each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHURN = """
import resource, torch
from mlclf.machine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(1 << 20) for _ in range(6)]
    del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
given_back = [faults() for _ in range(4)]
keep_freed_memory()
kept = [faults() for _ in range(4)]
print(min(given_back[1:]), max(kept[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's thresholds")
@pytest.mark.skipif(any(name.startswith(("MALLOC_", "GLIBC_")) for name in os.environ), reason="the user's thresholds")
def test_freed_blocks_are_used_again() -> None:
    found = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, check=True)
    given_back, kept = map(int, found.stdout.split())
    pages = 6 * (4 << 20) // os.sysconf("SC_PAGE_SIZE")
    if given_back < pages / 4:
        pytest.skip("another allocator, or huge pages")
    assert kept < pages / 20
