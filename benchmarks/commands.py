"""Commands of mlclf in processes of their own, and the memory that they took."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Any


def peak_of_command(arguments: list[Any]) -> int | None:
    """Run a command of mlclf and return its peak resident memory in bytes; None, with its errors printed, if it fails.

    The process that calls this should load nothing heavy: a child's peak begins with that of its parent.
    """
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "mlclf", *map(str, arguments)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode == 0:
            return usage.ru_maxrss * 1024
        errors.seek(0)
        print(
            f"{' '.join(command)}: exit code {child.returncode}\n{errors.read().decode(errors='replace')}", flush=True
        )
        return None
