"""The folder that a job writes: what is refused, and how it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

from mlclf.data.shards import Plan
from mlclf.errors import ConfigError
from mlclf.files import folder_is_empty, is_temporary, swap_folder, write_text

LEAST_BUDGET_BYTES = 16 << 20


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; what it holds in `data` becomes `folder` when the block ends."""
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_name(f".{place.name[:50]}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        (work / "data").mkdir(parents=True)
        yield work
        write_text(work / "data" / "_SUCCESS", "")
        swap_folder(work / "data", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_numbers(seed: int, budget: int) -> None:
    if seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {seed}")
    if budget < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"--memory-budget must be at least {LEAST_BUDGET_BYTES >> 20} MiB ({LEAST_BUDGET_BYTES:,} bytes), "
            f"got {budget:,} bytes"
        )


def check_out(folder: Path, arguments: Sequence[str], overwrite: bool, job: str, inner: Sequence[str] = ()) -> None:
    """Refuse a folder that belongs to somebody else, before any data is read; `inner` are folders of the job in it."""
    place = folder.resolve()
    for argument in arguments:
        for given in _folders(argument):
            if place.is_relative_to(given.resolve()):
                raise ConfigError(f"{folder}: --out must not be in the input folder {given}; give another --out")
    if folder_is_empty(folder):
        return
    if not overwrite:
        raise ConfigError(f"{folder}: the folder is not empty; give another --out, or --overwrite")
    strange = [path.name for path in sorted(folder.iterdir()) if not _is_own(path, inner)]
    if strange:
        raise ConfigError(
            f"{folder}: --overwrite replaces only what {job} wrote, and this folder holds {strange[0]!r}; "
            "give another --out"
        )


def _folders(argument: str) -> list[Path]:
    """The local folders that an argument names."""
    is_uri = argument.startswith("file://")
    path = unquote(argument.removeprefix("file://").removeprefix("localhost")) if is_uri else argument
    if Path(path).is_dir():
        return [Path(path)]
    found = glob(path, recursive=True) if has_magic(path) else []  # noqa: PTH207  # Path.glob refuses absolute patterns
    return [Path(match) for match in found if Path(match).is_dir()]


def _is_own(path: Path, inner: Sequence[str] = ()) -> bool:
    if path.is_dir() and path.name in inner:
        return all(map(_is_own, path.iterdir()))
    number = path.name.removeprefix("part-").removesuffix(".parquet")
    is_part = path.name == f"part-{number}.parquet" and number.isdigit()
    return is_part or path.name == "_SUCCESS" or is_temporary(path)


def check_sources(folder: Path, plan: Plan) -> None:
    """Refuse to replace a folder that holds a part of the input."""
    for shard in plan.shards:
        local = isinstance(shard.source.filesystem, pafs.LocalFileSystem)
        if local and Path(shard.source.path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder}: --out must not hold the input {shard.source.name}; give another --out")
