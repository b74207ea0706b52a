"""Which files the data arguments name: files, folders, globs and URIs become a list of sources, each file once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from glob import escape, glob, has_magic
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from mlclf.addresses import without_credentials
from mlclf.data.storage.folders import ChosenFiles, is_hidden, names_below, refuse_table_around
from mlclf.data.storage.retries import text_of_fault
from mlclf.data.storage.sources import LEAST_BYTES, Source
from mlclf.data.storage.uris import open_remote
from mlclf.errors import DataError, RemoteError
from mlclf.given_files import is_folder, problem_of
from mlclf.messages import listed, quoted, some_of
from mlclf.outputs.output import settle_before_reading

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def find_sources(arguments: Sequence[str]) -> tuple[list[Source], list[str]]:
    """List the files that the arguments name, and warnings for those named more than once.

    Raises:
        DataError: an argument names nothing, or a folder without Parquet files.
        RemoteError: the network failed for the only argument with a problem.
    """
    if not arguments:
        raise DataError("no data was given; name at least one Parquet file, folder, glob or URI")
    sources: list[Source] = []
    warnings: list[str] = []
    seen: set[tuple[str, str]] = set()
    looked_at: set[Path] = set()
    problems: list[DataError] = []
    for argument in arguments:
        try:
            resolved = _sources_of(os.fspath(argument), warnings, looked_at)
        except DataError as error:
            problems.append(error)
            continue
        for source in sorted(resolved, key=lambda source: os.fsencode(source.path)):
            path = source.path if source.is_remote else os.path.realpath(source.path)
            identity = source.filesystem.type_name, path
            if identity in seen:
                warnings.append(f"{source.name} was given more than once; it is read once")
            else:
                seen.add(identity)
                sources.append(source)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise DataError("\n".join(map(str, problems)))
    return _with_own_outputs(sources), warnings


def _with_own_outputs(sources: Sequence[Source]) -> list[Source]:
    """Number the relative paths that two arguments share: `part.parquet`, `part-2.parquet`."""
    taken: set[str] = set()
    result = []
    for source in sources:
        stem, dot, suffix = source.relative.rpartition(".")
        relative, number = source.relative, 1
        while relative in taken:
            number += 1
            relative = f"{stem}-{number}{dot}{suffix}"
        taken.add(relative)
        result.append(replace(source, relative=relative))
    return result


def _sources_of(argument: str, warnings: list[str], seen: set[Path]) -> list[Source]:
    """The files of one argument; `seen` are folders that are of no table format."""
    is_file_uri = argument.startswith("file://")
    if "://" in argument and not is_file_uri:
        return _at_uri(argument, warnings)
    path = unquote(argument.removeprefix("file://").removeprefix("localhost")) if is_file_uri else argument
    settle_before_reading(path)
    others = [match for match in glob(path, recursive=True) if match != path] if has_magic(path) else []  # noqa: PTH207
    if others or (has_magic(path) and not os.path.lexists(path)):
        if os.path.lexists(path):
            names = sorted(match[len(_without_magic(path)) :] for match in others)
            warnings.append(
                f"{path} is the name of a file, and a pattern that {some_of(names)} match(es): all of them are read; "
                f"{quoted(escape(path))} is the file alone"
            )
            others.append(path)
        return _matching(path, others, warnings, seen)
    refuse_table_around(path, seen)
    if is_folder(path):
        chosen = ChosenFiles(argument)
        return _some(_below(path, chosen, warnings), chosen, warnings)
    problem = problem_of(path)
    if problem is not None:
        raise DataError(f"{argument}: {problem}")
    return [_local_file(path)]


def _some(sources: list[Source], chosen: ChosenFiles, warnings: list[str]) -> list[Source]:
    """The files of a folder, if there are any."""
    if not sources:
        raise DataError(chosen.nothing())
    warnings += chosen.warnings()
    return sources


def _matching(pattern: str, matches: Sequence[str], warnings: list[str], seen: set[Path]) -> list[Source]:
    """Files that a pattern matches and those in the folders that it matches; hidden names only if it names them."""
    base = _without_magic(pattern)
    asked = is_hidden(pattern[len(base) :])
    found: dict[str, Source] = {}
    problems: list[str] = []
    passed_over = ChosenFiles(pattern)
    for match in matches:
        problem = None if is_folder(match) else problem_of(match)
        if problem is not None:
            problems.append(f"{match}: {problem}")
            continue
        below = match[len(base) :].strip("/")
        if not asked and is_hidden(below):
            passed_over.takes(below)
            continue
        refuse_table_around(match, seen)
        chosen = ChosenFiles(match)
        for source in _below(match, chosen, warnings) if is_folder(match) else [_local_file(match)]:
            relative = source.path[len(base) :].lstrip("/")
            if asked or not is_hidden(relative):
                partition = _partition_of(source.path, relative.count("/"))
                found[source.path] = replace(source, relative=relative, partition=partition)
        warnings += chosen.warnings()
    warnings += passed_over.warnings()
    if problems:
        raise DataError(listed(sorted(problems)))
    if not found:
        raise DataError(
            f"no Parquet file matches {pattern!r}; check the pattern, and quote it so that the shell leaves it"
        )
    return list(found.values())


def _without_magic(pattern: str) -> str:
    """The folders of a pattern before the first that has a wildcard.

    >>> _without_magic("data/day=*/part-?.parquet")
    'data/'
    """
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    return "".join(part + "/" for part in parts[:first])


def _local_file(path: str) -> Source:
    status = Path(path).stat()
    return _source(path, path, Path(path).name, pafs.LocalFileSystem(), status.st_size, status.st_mtime_ns)


def _at_uri(uri: str, warnings: list[str]) -> list[Source]:
    filesystem, path = open_remote(uri)
    name = without_credentials(uri)
    try:
        info = filesystem.get_file_info(path)
    except (PermissionError, FileNotFoundError) as error:
        raise DataError(str(error)) from None
    if info.type == pafs.FileType.Directory:
        chosen = ChosenFiles(name)
        return _some(_below_uri(path, filesystem, chosen), chosen, warnings)
    if info.type == pafs.FileType.File:
        relative = Path(name if "://" in path else path).name
        return [_source(name, path, relative, filesystem, info.size, info.mtime_ns)]
    hint = "; patterns are for local files: name the folder instead" if has_magic(path) else "; check the path"
    raise DataError(f"{name}: no such file{hint}")


def _below(folder: str, chosen: ChosenFiles, warnings: list[str]) -> list[Source]:
    """Parquet files below a folder of this machine.

    Raises:
        DataError: it cannot be listed, or what is called like a Parquet file is no file: all of those are named.
    """
    local = pafs.LocalFileSystem()
    sources: list[Source] = []
    problems = []
    try:
        for entry in names_below(folder, warnings):
            is_parquet = chosen.takes(entry.relative)
            if entry.problem is not None and is_parquet:
                problems.append(f"{entry.path}: {entry.problem}")
            elif entry.problem is not None and os.path.islink(entry.path) and not is_hidden(entry.relative):  # noqa: PTH114
                warnings.append(f"{entry.path} is passed over: {entry.problem}")
            elif is_parquet is not False and entry.problem is None:
                source = _source(entry.path, entry.path, entry.relative, local, entry.size_bytes, entry.mtime_ns)
                _take(source, is_parquet, chosen, sources)
    except OSError as error:
        raise DataError(
            f"{folder}: the folder cannot be listed ({text_of_fault(error)}); check who may read it"
        ) from None
    if problems:
        raise DataError(listed(problems))
    return sources


def _below_uri(path: str, filesystem: Any, chosen: ChosenFiles) -> list[Source]:
    """Parquet files below a folder of a storage service."""
    try:
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except RemoteError:
        raise
    except OSError as error:
        raise DataError(str(error)) from None
    root = path.rstrip("/")
    sources: list[Source] = []
    for info in infos:
        relative = info.path[len(root) :].lstrip("/") if info.path.startswith(root) else info.base_name
        is_parquet = info.type == pafs.FileType.File and chosen.takes(relative)
        if is_parquet is not False:
            name = filesystem.handler.name_of(info.path)
            source = _source(name, info.path, relative, filesystem, info.size, info.mtime_ns)
            _take(source, is_parquet, chosen, sources)
    return sources


def _take(source: Source, is_parquet: bool | None, chosen: ChosenFiles, sources: list[Source]) -> None:
    """Add a file to those that are read, where its name or its first bytes say that it is Parquet."""
    if is_parquet or (source.size_bytes >= LEAST_BYTES and b"PAR1" in source.magic()):
        sources.append(source)
    else:
        chosen.passes_over(source.relative)


def _source(
    name: str, path: str, relative: str, filesystem: Any, size_bytes: int | None, mtime_ns: int | None
) -> Source:
    inside = name if "://" in path else path  # the paths of HTTP are URIs, with their query
    version = "" if mtime_ns is None else str(mtime_ns)
    return Source(
        name, path, relative, filesystem, size_bytes or 0, _partition_of(inside, relative.count("/")), version
    )


def _partition_of(path: str, num_below: int = 0) -> tuple[tuple[str, str | None], ...]:
    """Values of the folders called `key=value` below the argument, and of those that it ends in.

    Folders above the data say nothing of it: of `run=3/data/day=1/a.parquet` only the day is a column.

    Args:
        path: of a file, as far as it is written out.
        num_below: how many of its folders are below the argument.
    """
    folders = path.split("/")[:-1]
    first = len(folders) - num_below
    while first > 0 and _is_pair(folders[first - 1]):
        first -= 1
    pairs = [part.split("=", 1) for part in folders[first:] if _is_pair(part)]
    return tuple((unquote(key), None if value == HIVE_NULL else unquote(value)) for key, value in pairs)


def _is_pair(folder: str) -> bool:
    return "=" in folder and not folder.startswith("=")
