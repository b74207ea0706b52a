"""Memory: how much this process may still take, arrays whose memory is used again, and what is given back."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Recycler:
    """Arrays in memory that is used again, since touching fresh pages costs more than most work done in them.

    The memory of an array comes back by itself once nothing refers to it any more, neither the array nor a view of it
    nor a tensor made of it, so that nobody has to say so. Safe for several threads.
    """

    def __init__(self, most: int = 8) -> None:
        """`most` pieces of memory are kept."""
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=most)

    def array(self, shape: tuple[int, ...], kind: type[np.generic] | np.dtype[Any]) -> NDArray[Any]:
        """An array of unknown content."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        lease = _Lease(self._take(size), self._free)
        return np.asarray(lease)[:size].view(kind).reshape(shape)

    def touch(self, shape: tuple[int, ...], kind: type[np.generic], count: int) -> None:
        """Have memory ready for so many arrays at once."""
        arrays = [self.array(shape, kind) for _ in range(count)]
        for array in arrays:
            array.fill(0)

    def _take(self, size: int) -> NDArray[np.uint8]:
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:  # another thread was faster
                break
            if size <= len(memory) <= 4 * size + 4096:
                return memory
        return np.empty(size, np.uint8)


class _Lease:
    """The owner of an array's memory as NumPy sees it; gives it back when it is deleted."""

    def __init__(self, memory: NDArray[np.uint8], home: deque[NDArray[np.uint8]]) -> None:
        self._memory, self._home = memory, home
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._home.append(self._memory)


def give_back_memory() -> None:
    """Return to the system what parsing large footers has left behind, ten times their size, which glibc would keep."""
    with suppress(OSError, AttributeError, TypeError):  # other libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


LARGEST_BLOCK = (32 << 20) - (64 << 10)
"""Bytes, a little below what glibc never keeps."""


@cache
def keep_freed_memory() -> None:
    """Let the C library keep blocks of up to 32 MiB that are freed, 64 MiB at most a thread, for those that come after.

    glibc gives back to the system any block larger than all that were freed before, and what it has beyond twice the
    size of those (mallopt(3), M_MMAP_THRESHOLD). So a large block is asked for, not touched, and freed. Where another
    library or a setting of the user decides, nothing changes.
    """
    import torch  # here, so that footers can be read without it

    torch.empty(LARGEST_BLOCK, dtype=torch.uint8, device="cpu")


CGROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files of a control group: what it may take, and what it has taken (versions 2 and 1)."""

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
                for limit, used in LIMITS:
                    with suppress(OSError, ValueError):  # "max" is no number
                        yield int((folder / limit).read_text()) - int((folder / used).read_text())


def _process() -> Iterator[int]:
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on every system

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - int(STATUS.read_text().split()[0]) * resource.getpagesize()
