"""What is in a folder of this machine, its folders included; links are followed, each folder is read once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from mlclf.given_files import problem_of


class Entry(NamedTuple):
    """A name in a folder that is no folder.

    Attributes:
        path: the folder as it was given, and what leads from there.
        relative: what leads from there.
        size_bytes, mtime_ns: of a regular file.
        problem: why it is no regular file, as `problem_of` says it; None where it is one.
    """

    path: str
    relative: str
    size_bytes: int = 0
    mtime_ns: int = 0
    problem: str | None = None


def entries_below(folder: str, warnings: list[str]) -> Iterator[Entry]:
    """Yield what is below a folder; warnings are added for links to folders that are read already.

    So a link to a folder around it does not make the same files again and again.

    Raises:
        OSError: a folder cannot be listed.
    """
    root = folder.rstrip("/")
    found = os.stat(folder)  # noqa: PTH116
    yield from _below(root or "/", "", {(found.st_dev, found.st_ino)}, warnings)


def _below(root: str, prefix: str, seen: set[tuple[int, int]], warnings: list[str]) -> Iterator[Entry]:
    place = f"{root}/{prefix}" if prefix else root
    with os.scandir(place) as listing:
        names = sorted((entry.name for entry in listing), key=os.fsencode)
    for name in names:
        relative = f"{prefix}{name}"
        path = f"{root.rstrip('/')}/{relative}"
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            yield Entry(path, relative, problem=problem_of(path))
            continue
        if stat.S_ISREG(status.st_mode):
            yield Entry(path, relative, status.st_size, status.st_mtime_ns)
        elif not stat.S_ISDIR(status.st_mode):
            yield Entry(path, relative, problem=problem_of(path))
        elif (status.st_dev, status.st_ino) in seen:
            warnings.append(f"{path} is a link to a folder that is read already; it is read once")
        else:
            seen.add((status.st_dev, status.st_ino))
            yield from _below(root, f"{relative}/", seen, warnings)
