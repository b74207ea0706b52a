"""Move a finished folder to its output path, whatever is there: an old output, a mount point, foreign files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlclf.errors import ConfigError
from mlclf.outputs.claims import INSIDE, Claim, is_empty
from mlclf.outputs.exchange import NEW, OLD, take_files, take_place
from mlclf.outputs.listing import NAME, Inventory, entries_below


def new_folder(claim: Claim) -> Path:
    """The folder in which a new output is built: on the file system, and where need be in the folder, of the old.

    A mount point cannot be renamed, nor should the folder be in which somebody, this process too, is at home.
    """
    place = claim.place
    stays = place.is_dir() and (_is_home(place) or os.path.ismount(place) or _is_mounted(place))
    return place / INSIDE / NEW if stays else claim.work / NEW


def put_in_place(claim: Claim, new: Path, replaced: Inventory | None) -> Iterator[str]:
    """Move a finished folder to the output path; yields notes for the user.

    Args:
        claim: to the output.
        new: the folder.
        replaced: the files of the output that it replaces.

    Raises:
        ConfigError: something came there since; the new output is kept under another name.
    """
    work, place = new.parent, claim.place
    foreign = replaced.foreign((INSIDE,)) if replaced else None
    if foreign is not None or not (replaced or is_empty(place)):
        kept = _free_name(claim, "new")
        new.rename(kept)
        what = "something" if foreign is None else f"{foreign.name!r}, which {foreign.reason},"
        raise ConfigError(f"{claim.out}: {what} came there while {claim.job} ran; the new output is whole in {kept}")
    if work.parent == place:
        files = [name for name, entry in entries_below(place, (INSIDE,)) if entry.is_file(follow_symlinks=False)]
        take_files(work, place, [name for name in files if name != NAME])
        return
    if place.is_dir():
        shutil.copymode(place, new)
    take_place(work, place)
    for old in (work / NEW, work / OLD):
        if old.is_dir() and replaced is not None:
            foreign = replaced.moved_to(old).foreign()
            if foreign is not None:  # it came at the very moment of the exchange
                kept = _free_name(claim, "old")
                old.rename(kept)
                yield f"{claim.out}: {foreign.name!r} {foreign.reason}; the old output is kept in {kept}"


def _free_name(claim: Claim, what: str) -> Path:
    """A free name for an output that cannot have its own."""
    name, place = f"{what}-{secrets.token_hex(4)}", claim.place
    return place / name if claim.is_inside else place.with_name(f"{place.name}.{name}")


def _is_home(place: Path) -> bool:
    """Whether the current folder is at or below a path."""
    try:
        return Path.cwd().is_relative_to(place)
    except FileNotFoundError:  # it has been removed
        return False


def _is_mounted(place: Path) -> bool:
    """Whether something is mounted at a path, a folder of the same file system too."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = (line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in lines)
    return os.fsencode(place) in points
