"""Memory that was freed and is used again: to touch fresh pages costs more than most of what is computed in them."""

from __future__ import annotations

from functools import cache

import torch

LARGEST_BLOCK = (32 << 20) - (64 << 10)
"""Bytes, a little below what glibc never keeps."""


@cache
def keep_freed_memory() -> None:
    """Let the C library keep blocks of up to 32 MiB that are freed, 64 MiB at most a thread, for those that come after.

    glibc gives back to the system any block larger than all that were freed before, and what it has beyond twice the
    size of those (mallopt(3), M_MMAP_THRESHOLD). So a large block is asked for, not touched, and freed. Where another
    library or a setting of the user decides, nothing changes.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8, device="cpu")
