"""How much memory this process may still take: of the machine, of its control group, of its own limit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
STATUS = Path("/proc/self/statm")


def free_bytes() -> int:
    """Bytes that are free by the narrowest limit that the system tells; a very large number where it tells none.

    >>> free_bytes() > 0
    True
    """
    return max(0, min([sys.maxsize, *_machine(), *_groups(), *_process()]))


def _machine() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        lines = MEMINFO.read_text().splitlines()
        yield next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
        return
    with suppress(OSError, ValueError, AttributeError):  # systems without such a file
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups() -> Iterator[int]:
    """What the control groups of this process, and those around it, leave."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            place = CGROUPS / controllers / name.lstrip("/") if "memory" in controllers else CGROUPS / name.lstrip("/")
            for folder in (place, *place.parents):
                if not folder.is_relative_to(CGROUPS):
                    break
                for limit, used in (
                    ("memory.max", "memory.current"),
                    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                ):
                    with suppress(OSError, ValueError):  # "max" is no number
                        yield int((folder / limit).read_text()) - int((folder / used).read_text())


def _process() -> Iterator[int]:
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on every system

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - int(STATUS.read_text().split()[0]) * resource.getpagesize()
