"""Inputs and outputs are kept apart: neither lies inside the other, through links, patterns and URIs too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path
from urllib.parse import unquote

from mlclf.errors import ConfigError
from mlclf.files import real_path


def check_outside(out: Path, place: Path, arguments: Sequence[str]) -> None:
    """Refuse an output inside a folder that the arguments read, or one that a pattern among them would read next time.

    Args:
        out: the output as it was given.
        place: where that really is.
        arguments: files, folders, globs and URIs of data.

    Raises:
        ConfigError: they overlap.
    """
    for argument in arguments:
        path = local_path(argument)
        for folder in () if path is None else _folders(path):
            if place.is_relative_to(real_path(folder)):
                raise ConfigError(f"{out}: --out must not be in the input folder {folder}; give another --out")
        if path is not None and has_magic(path) and not Path(path).exists() and _reads(path, place):
            raise ConfigError(f"{out}: --out must not be in what {argument!r} reads; give another --out")


def check_not_inside(out: Path, place: Path, paths: Iterable[str | Path]) -> None:
    """Refuse to replace a folder that holds one of these files.

    Raises:
        ConfigError: one of them lies there, or is that.
    """
    for path in paths:
        if real_path(path).is_relative_to(place):
            raise ConfigError(f"{out}: --out must not hold the input {path}; give another --out")


def local_path(argument: str) -> str | None:
    """The path that an argument names; None for a URI of another machine.

    >>> local_path("file:///data/a%20b"), local_path("data"), local_path("s3://bucket/data")
    ('/data/a b', 'data', None)
    """
    if argument.startswith("file://"):
        return unquote(argument.removeprefix("file://").removeprefix("localhost"))
    return None if "://" in argument else argument


def _folders(path: str) -> Iterator[Path]:
    """The folders that an argument names."""
    if Path(path).is_dir():
        yield Path(path)
    elif has_magic(path) and not Path(path).exists():
        yield from (Path(match) for match in glob(path, recursive=True) if Path(match).is_dir())  # noqa: PTH207


def _reads(pattern: str, place: Path) -> bool:
    """Whether a pattern matches a folder at `place`, one above it, or files in it."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    base = real_path("/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."))
    if not place.is_relative_to(base):
        return False
    below = place.relative_to(base).parts
    wanted = [part for part in parts[first:] if part]
    return any(_matches(below[:depth], wanted) for depth in range(1, len(below) + 1)) or (
        "**" in wanted[:-1] and _matches((*below, "part-00000.parquet"), wanted)
    )


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, in which `**` is any number of folders."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[skipped:], wanted[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
