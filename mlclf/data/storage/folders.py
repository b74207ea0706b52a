"""What is in a folder, and which of its files are read: Parquet files, by their names or their first bytes.

A folder of Delta Lake, Iceberg or Hudi holds Parquet files of which some are no longer part of the table: rows that
were overwritten or deleted. Its log alone tells which, so such a folder is refused, wherever it is below or around.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlclf.errors import DataError
from mlclf.files import real_path
from mlclf.given_files import problem_of
from mlclf.messages import some_of

SUFFIXES = (".parquet", ".parq", ".pq")
"""Of Parquet files, in small or capital letters."""

_UNSURE = re.compile(r"[^.]+|.+\.(?:parquet|parq|pq)\.[a-z0-9]+", re.IGNORECASE)
"""Names without an ending, as Hive writes them, or with one of compression, as of pandas' examples."""

_OTHER_DATA = re.compile(
    r".*(?:\.(?:arff|arrow|avro|csv|feather|ipc|json|jsonl|libsvm|ndjson|orc|svm|svmlight|tsv|txt|xls|xlsx|xmc)"
    r"(?:\.(?:bz2|gz|lz4|xz|zip|zst))?|\.(?:parquet|parq|pq)[.~].*)",
    re.IGNORECASE,
)
_TABLES = (
    (re.compile(r"(?:(.*)/)?_delta_log/[^/]+"), "a Delta table"),
    (re.compile(r"(?:(.*)/)?metadata/[^/]+\.metadata\.json(?:\.gz)?"), "an Iceberg table"),
    (re.compile(r"(?:(.*)/)?\.hoodie/.+"), "a Hudi table"),
)
"""A file of each table format, by its path, and how such a folder is called."""

PARENTS = 16
"""Folders around a file that are looked at."""


def is_hidden(relative: str) -> bool:
    """Whether a file is passed over: a name in its path begins with a dot or an underscore, and is no `key=value`."""
    return any(name.startswith((".", "_")) and "=" not in name for name in relative.split("/"))


class ChosenFiles:
    """Tells of the files of one folder which are read, and what to say of the others.

    Args:
        folder: its name as it is shown.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._hidden: list[str] = []
        self._others: list[str] = []

    def takes(self, relative: str) -> bool | None:
        """Whether a file is read, by its path below the folder; None where its first bytes decide.

        Raises:
            DataError: it is a file of a table format.
        """
        refuse_table(self._folder, [relative])
        name = relative.rpartition("/")[2]
        by_name = name.lower().endswith(SUFFIXES)
        if is_hidden(relative):
            if by_name:
                self._hidden.append(relative)
            return False
        if not by_name and _UNSURE.fullmatch(name):
            return None
        if not by_name and _OTHER_DATA.fullmatch(name):
            self._others.append(relative)
        return by_name

    def passes_over(self, relative: str) -> None:
        """Note a file that its first bytes have shown to be no Parquet."""
        if _OTHER_DATA.fullmatch(relative):
            self._others.append(relative)

    def warnings(self) -> Iterator[str]:
        """Sentences on the files that are passed over, though they look like data."""
        if self._hidden:
            yield (
                f"{self._folder}: {_counted(self._hidden)} passed over, hidden by names that begin with '.' or '_': "
                f"{some_of(sorted(self._hidden))}; name such a file to read it"
            )
        if self._others:
            yield (
                f"{self._folder}: {_counted(self._others)} passed over, not in Parquet: "
                f"{some_of(sorted(self._others))}; 'mlclf convert' writes CSV, Arrow and more as Parquet"
            )

    def nothing(self) -> str:
        """What to say where no file is read."""
        suffixes = ", ".join("*" + suffix for suffix in SUFFIXES)
        message = f"{self._folder}: no Parquet file in this folder (looked for {suffixes}, also in its folders); "
        found = [warning.partition(": ")[2] for warning in self.warnings()]
        return message + ("; ".join(found) if found else "check the path")


def _counted(names: list[str]) -> str:
    return f"{len(names):,} {'files are' if len(names) > 1 else 'file is'}"


def refuse_table(folder: str, files: Iterable[str]) -> None:
    """Refuse the folder of a table format that these files, by their paths below `folder`, are of.

    Raises:
        DataError: one is.
    """
    for relative in files:
        if "metadata/" in relative or "_delta_log/" in relative or ".hoodie/" in relative:
            for pattern, what in _TABLES:
                if (found := pattern.fullmatch(relative)) is not None:
                    place = f"{folder.rstrip('/')}/{found[1]}" if found[1] else folder
                    raise DataError(
                        f"{place}: the folder must hold plain Parquet files, and is {what}, of whose files some may be "
                        "overwritten or deleted; read its rows with a library of that format, and write them as "
                        "Parquet to a folder of their own"
                    )


def refuse_table_around(path: str, seen: set[Path]) -> None:
    """Refuse a path of this machine in the folder of a table format; `seen` are folders that were looked at.

    Raises:
        DataError: a folder around it is one.
    """
    for folder in [Path(path), *real_path(path).parents][:PARENTS]:
        if folder in seen:
            return
        seen.add(folder)
        for inner in ("_delta_log", "metadata", ".hoodie"):
            with suppress(OSError):  # it is not there, or belongs to somebody else
                refuse_table(str(folder), [f"{inner}/{name}" for name in os.listdir(folder / inner)])  # noqa: PTH208


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


def names_below(folder: str, warnings: list[str]) -> Iterator[Entry]:
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
