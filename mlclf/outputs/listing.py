"""The list of what was written to a folder: only these files, unchanged, may be replaced.

`_written.jsonl` has one JSON object a line. The first says whose output this is; each of the others names a file with
its size and SHA-256, and is on disk before the file has its name. A file that is written again has several lines, and
each of these contents is one of ours. Until the line that says `finished` the files of the names in `open` are ours
whatever they hold: logs and checkpoints of a fit that has not ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlclf.errors import ConfigError
from mlclf.files import append_line, is_temporary, sha256_of, write_text

NAME = "_written.jsonl"
FORMAT_VERSION = 1
HASH_THREADS = 4


class Content(NamedTuple):
    """Size and SHA-256 of a file."""

    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        return cls(path.stat().st_size, sha256_of(path))

    @classmethod
    def of_bytes(cls, value: bytes) -> Content:
        return cls(len(value), hashlib.sha256(value).hexdigest())


class Stamp(NamedTuple):
    """Size, times and inode of a file, which show without reading it that it was not written since."""

    num_bytes: int
    written_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.lstat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@dataclass
class Listing:
    """What was written to a folder.

    Attributes:
        job: the command that wrote it.
        bound: what the output was made of, for a job that goes on with it.
        open: names and patterns (`checkpoints/*/*.safetensors`) of files that are still being written.
        finished: whether the job came to its end.
        contents: what each file may hold, by its relative name.
        made_of: digest of what each file was made of, where the job says it.
    """

    job: str
    bound: dict[str, Any] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    finished: bool = False
    contents: dict[str, set[Content]] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Listing | None:
        """The list in a folder, None where there is none; a last line that a crash cut off is left out.

        Raises:
            ConfigError: the list is damaged or of another version.
        """
        path = folder / NAME
        try:
            text = path.read_text("utf-8") if path.is_file() and not path.is_symlink() else None
            if text is None:
                return None
            first, *rest = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            if first["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {first['format_version']!r}")
            listing = cls(str(first["job"]), dict(first["bound"]), tuple(map(str, first["open"])))
            for line in rest:
                listing._add(line)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path}: must be the list of what was written here, and cannot be read ({str(error)[:200]}); "
                "give another --out, or remove the folder yourself"
            ) from None
        return listing

    def _add(self, line: Mapping[str, Any]) -> None:
        if line.get("finished") is True:
            self.finished = True
            return
        name = str(line["file"])
        self.contents.setdefault(name, set()).add(Content(int(line["bytes"]), str(line["sha256"])))
        if "made_of" in line:
            self.made_of[name] = str(line["made_of"])

    @property
    def header(self) -> str:
        """The first line."""
        return json.dumps(
            {"format_version": FORMAT_VERSION, "job": self.job, "bound": self.bound, "open": list(self.open)}
        )

    def begin(self, folder: Path) -> None:
        """Write the first line, before any file is there."""
        write_text(folder / NAME, self.header + "\n")

    def append(self, folder: Path, name: str, content: Content, made_of: str | None = None) -> None:
        """Add a file to the list, before the file gets its final name."""
        line: dict[str, Any] = {"file": name, "bytes": content.num_bytes, "sha256": content.sha256}
        if made_of is not None:
            line["made_of"] = made_of
        append_line(folder / NAME, json.dumps(line))
        self._add(line)

    def finish(self, folder: Path) -> None:
        """Mark the job as finished: no file may change any more."""
        append_line(folder / NAME, json.dumps({"finished": True}))
        self.finished = True

    def is_open(self, name: str) -> bool:
        """Whether a file of this name may hold anything, since the job has not finished."""
        return not self.finished and any(_fits(name, pattern) for pattern in self.open)

    def folders(self) -> set[str]:
        """Folders of the files that are listed."""
        return {str(parent) for name in self.contents for parent in PurePosixPath(name).parents} - {"."}

    def may_open(self, folder: str) -> bool:
        """Whether files that are still being written may lie below a folder."""
        return not self.finished and any(_begins(folder, pattern) for pattern in self.open)


class Foreign(NamedTuple):
    """Something in an output that may not be replaced, and why."""

    name: str
    reason: str


class Inventory:
    """Checks a folder against its file list; a second check reads only files written since the first."""

    def __init__(self, folder: Path, listing: Listing) -> None:
        self.folder, self.listing = folder, listing
        self._known: dict[str, Stamp] = {}

    def foreign(self, leave_out: Sequence[str] = ()) -> Foreign | None:
        """The first file or folder that is not listed or has changed; None where all may be replaced."""
        looked_at: list[str] = []
        folders = self.listing.folders()
        for name, entry in entries_below(self.folder, leave_out):
            if entry.is_dir(follow_symlinks=False):
                if name not in folders and not self.listing.may_open(name):
                    return Foreign(name, "is not on the list")
            elif name == NAME or (is_temporary(Path(name)) and entry.is_file(follow_symlinks=False)):
                continue
            elif not entry.is_file(follow_symlinks=False):
                return Foreign(name, "is not on the list")
            elif not self.listing.is_open(name):
                if name not in self.listing.contents:
                    return Foreign(name, "is not on the list")
                looked_at.append(name)
        return self._changed(looked_at)

    def _changed(self, names: Iterable[str]) -> Foreign | None:
        new = [name for name in names if self._known.get(name) != Stamp.of(self.folder / name)]
        stamps = [Stamp.of(self.folder / name) for name in new]
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            for name, stamp, is_ours in zip(new, stamps, pool.map(self.is_ours, new), strict=True):
                if not is_ours:
                    return Foreign(name, "has changed since")
                self._known[name] = stamp
        return None

    def moved_to(self, folder: Path) -> Inventory:
        """The same files in a folder that has another name now."""
        moved = Inventory(folder, self.listing)
        moved._known = self._known
        return moved

    def is_ours(self, name: str) -> bool:
        """Whether a file holds what was written to it."""
        path, contents = self.folder / name, self.listing.contents.get(name, set())
        size = path.stat().st_size
        return any(content.num_bytes == size for content in contents) and Content(size, sha256_of(path)) in contents


def entries_below(folder: Path, leave_out: Sequence[str] = ()) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Relative names of all that is below a folder, in their order, a folder before what it holds; links are leaves.

    Args:
        folder: where to look.
        leave_out: names directly in the folder that are passed over.
    """
    waiting = [("", folder)]
    while waiting:
        prefix, path = waiting.pop()
        with os.scandir(path) as found:
            here = sorted(found, key=lambda entry: entry.name)
        inner = []
        for entry in here:
            if prefix or entry.name not in leave_out:
                yield prefix + entry.name, entry
                if entry.is_dir(follow_symlinks=False):
                    inner.append((f"{prefix}{entry.name}/", Path(entry.path)))
        waiting.extend(reversed(inner))


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _begins(folder: str, pattern: str) -> bool:
    parts, wanted = folder.split("/"), pattern.split("/")
    return len(parts) < len(wanted) and all(map(fnmatchcase, parts, wanted))
