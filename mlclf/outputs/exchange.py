"""A finished folder takes the place of another: in one step where the system can, else with a journal."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from mlclf.errors import RunError
from mlclf.files import fsync_path, read_json, safe_relative, write_json
from mlclf.outputs.listing import entries_below

JOURNAL = "ready.json"
"""In the hidden folder: the new output is whole, and is to take its place."""

NEW, OLD = "new", "old"
FORMAT_VERSION = 1

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
_LAST = ("_written.jsonl", "manifest.json", "_SUCCESS")
"""Names by which an output is known to be whole, in the order in which they come."""


def take_place(work: Path, place: Path) -> None:
    """Put the finished folder `new` of a hidden folder at `place`; what was there is in the hidden folder after it.

    With an exchange there is a whole output at `place` at every moment. Without one there is none for a moment, and
    `settle` makes it whole after a crash.
    """
    new = work / NEW
    if not place.exists():
        new.rename(place)
    elif not exchanged(new, place):
        _take_place_by_journal(work, place)
    fsync_path(place.parent)
    fsync_path(work)


def _take_place_by_journal(work: Path, place: Path) -> None:
    _write_journal(work, [])
    place.rename(work / OLD)
    (work / NEW).rename(place)
    fsync_path(place.parent)
    (work / JOURNAL).unlink()


def take_files(work: Path, place: Path, remove: Sequence[str]) -> None:
    """Put what the finished folder `new` of a hidden folder holds into the folder `place`, which stays the same one.

    Args:
        work: a folder in `place`.
        place: a folder that cannot be renamed, such as a mount point.
        remove: names of the files of before.
    """
    coming = set(_files_in(work / NEW))
    gone = [name for name in remove if name not in coming]
    _write_journal(work, gone)
    settle(work, place)


def _write_journal(work: Path, remove: Sequence[str]) -> None:
    """Record that the new output is complete; the inode makes the record void in a copy of the folder."""
    inode = work.stat().st_ino
    write_json(work / JOURNAL, {"format_version": FORMAT_VERSION, "inode": inode, "remove": list(remove)})


def settle(work: Path, place: Path) -> bool:
    """Finish a replacement that a crash interrupted, and return whether there was one.

    Raises:
        RunError: the journal is damaged, or of another folder, of which this one is a copy.
    """
    if not (work / JOURNAL).is_file():
        return False
    journal = read_json(work / JOURNAL, FORMAT_VERSION, "the journal of an output")
    if journal.get("inode") != work.stat().st_ino:
        raise RunError(
            f"{work / JOURNAL}: was written in another folder, of which this one must be a copy; copy the whole output "
            f"again, or remove {work} yourself"
        )
    if work.parent == place:
        _move_files(work, place, journal.get("remove"))
    elif not place.exists() and (work / NEW).is_dir():
        (work / NEW).rename(place)
        fsync_path(place.parent)
    (work / JOURNAL).unlink()
    return True


def _move_files(work: Path, place: Path, remove: object) -> None:
    """Remove the files of before, then move the new ones; may be cut off at any point and done again."""
    if not isinstance(remove, list):
        raise RunError(f"{work / JOURNAL}: must list the files to remove, and does not; remove this file yourself")
    coming = sorted(_files_in(work / NEW), key=_turn) if (work / NEW).is_dir() else []
    for name in [name for name in coming if _turn(name)] + [str(name) for name in remove]:
        path = safe_relative(name, place)
        path.unlink(missing_ok=True)
        remove_empty(path.parent, place)
    for name in coming:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (work / NEW / name).replace(target)
        fsync_path(target.parent)
    fsync_path(place)


def _files_in(folder: Path) -> list[str]:
    return [name for name, entry in entries_below(folder) if entry.is_file(follow_symlinks=False)]


def _turn(name: str) -> int:
    """Order in which a file is moved: the markers of a complete output come last."""
    return _LAST.index(name) + 1 if name in _LAST else 0


def remove_empty(folder: Path, within: Path) -> None:
    """Remove a folder and those above it, up to `within`, as far as they are empty."""
    while folder != within and folder.is_relative_to(within):
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        folder = folder.parent


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    ctypes.set_errno(0)
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(other))
