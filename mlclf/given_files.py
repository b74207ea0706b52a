"""Files that a user names: what is there is looked at before anything is opened.

Opening a FIFO waits for a writer, reading a device can last for ever or change it. So what is no regular file is
refused, also where a link leads to it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlclf.messages import first_line, quoted

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
MOST_BYTES = 1 << 30
"""A file that is read whole is no larger."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def found_at(path: str | Path) -> str | None:
    """What there is where a regular file must be, in a few words; None where it is one.

    >>> found_at("/dev/null"), found_at("/nowhere/at/all")
    ('a device', 'no such file')
    """
    try:
        return _kind(os.stat(path).st_mode)  # noqa: PTH116  # as fast as it gets: folders may hold many files
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114
            return f"a link to {quoted(os.readlink(path))}, where nothing is"  # noqa: PTH115
        return "no such file"
    except (OSError, ValueError) as error:  # permissions, a loop of links, a name that is too long, a zero byte
        return reason_of(error).lower()


def problem_of(path: str | Path) -> str | None:
    """Why a path is no regular file and what to do, as the end of a sentence that begins with it; None where it is one.

    >>> problem_of("/nowhere/at/all")
    'no such file; check the path'
    """
    found = found_at(path)
    if found is None or found == "no such file":
        return found and f"{found}; check the path"
    hint = "check the path and who may read it"
    if found in KINDS.values():
        hint = "name a file" if found == "a folder" else "write what it gives to a file, and name that"
    elif found.startswith("a link"):
        hint = "restore that file, or remove the link"
    return f"must be a regular file, found {found}; {hint}"


def _kind(mode: int) -> str | None:
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder; False too for what can be no path."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def read_given(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: there is none, it is too large, or it cannot be read; `reason_of` says what was found.
    """
    found = found_at(path)
    if found is not None:
        raise FileNotFoundError(found) if found == "no such file" else OSError(found)
    descriptor = os.open(path, _FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        found = _kind(status.st_mode)  # should it have been exchanged in between
        if found is None and status.st_size > most_bytes:
            found = f"a file of {status.st_size:,} bytes, more than {most_bytes:,}"
        if found is not None:
            raise OSError(found)
        return file.read()


def reason_of(error: Exception) -> str:
    """What went wrong where a file was read and decoded, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are not UTF-8"
    return (error.strerror if isinstance(error, OSError) and error.strerror else "") or first_line(error)
