"""Where the bytes are: files, folders, globs and URIs → a list of sources, each file once."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlclf.errors import DataError

SUFFIXES = (".parquet", ".parq", ".pq")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """One file: its name as shown to people, its path, and the filesystem that opens it.

    Attributes:
        name: path or URI as the user would write it.
        path: path inside `filesystem`.
        relative: path below the argument that named it; outputs mirror it.
        partition: values of hive folders (`key=value`) between the argument and the file.
    """

    name: str
    path: str
    relative: str
    filesystem: Any
    size_bytes: int
    partition: tuple[tuple[str, str | None], ...] = ()

    def open_parquet(self, metadata: pq.FileMetaData | None = None, buffer_size: int = 0) -> pq.ParquetFile:
        """Open as Parquet without read-ahead (its cache has no bound), page checksums verified."""
        return pq.ParquetFile(
            self.path,
            filesystem=self.filesystem,
            metadata=metadata,
            pre_buffer=False,
            buffer_size=buffer_size,
            page_checksum_verification=True,
        )

    def magic(self) -> tuple[bytes, bytes]:
        """The first and the last four bytes; empty where they cannot be read."""
        try:
            with self.filesystem.open_input_file(self.path) as file:
                size = file.size()
                return file.read_at(4, 0), file.read_at(4, max(0, size - 4))
        except OSError:
            return b"", b""


def find_sources(arguments: Sequence[str]) -> tuple[list[Source], list[str]]:
    """List the files that the arguments name, and warnings for those named more than once.

    Raises:
        DataError: an argument names nothing, or a folder without Parquet files.
    """
    if not arguments:
        raise DataError("no data was given; name at least one Parquet file, folder, glob or URI")
    sources: list[Source] = []
    warnings: list[str] = []
    seen: set[tuple[str, str]] = set()
    for argument in arguments:
        for source in _resolve(os.fspath(argument)):
            identity = (type(source.filesystem).__name__, _identity(source))
            if identity in seen:
                warnings.append(f"{source.name} was given more than once; it is read once")
            else:
                seen.add(identity)
                sources.append(source)
    return sources, warnings


def _identity(source: Source) -> str:
    local = isinstance(source.filesystem, pafs.LocalFileSystem)
    return os.path.realpath(source.path) if local else source.path


def _resolve(argument: str) -> list[Source]:
    if "://" in argument and not argument.startswith("file://"):
        return _resolve_uri(argument)
    path = unquote(argument.removeprefix("file://")) if argument.startswith("file://") else argument
    local = pafs.LocalFileSystem()
    if Path(path).is_dir():
        return _in_folder(path, local, argument, prefix="")
    if Path(path).exists():
        return [_local_file(path)]
    if glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True), key=os.fsencode)
        sources = [
            source
            for match in found
            for source in (_in_folder(match, local, match, prefix="") if Path(match).is_dir() else [_local_file(match)])
        ]
        if sources:
            return sources
        raise DataError(f"no file matches {argument!r}; check the pattern, and quote it so that the shell leaves it")
    raise DataError(f"{argument}: no such file; check the path")


def _local_file(path: str) -> Source:
    size = Path(path).stat().st_size
    return Source(path, path, Path(path).name, pafs.LocalFileSystem(), size, _partition_of(Path(path).parts[:-1]))


def _resolve_uri(uri: str) -> list[Source]:
    filesystem, path = _open_filesystem(uri)
    scheme = uri.split("://", 1)[0] + "://"
    try:
        info = filesystem.get_file_info(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{_without_credentials(uri)}: cannot be reached ({_plain(error)})") from error
    if info.type == pafs.FileType.Directory:
        return _in_folder(path, filesystem, uri, prefix=scheme)
    if info.type == pafs.FileType.File:
        return [Source(_without_credentials(uri), path, Path(path).name, filesystem, info.size or 0)]
    raise DataError(f"{_without_credentials(uri)}: no such file; check the path")


def _open_filesystem(uri: str) -> tuple[Any, str]:
    """Open a URI with pyarrow's own filesystems, else with fsspec."""
    try:
        return pafs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError):
        pass
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{_without_credentials(uri)}: no filesystem opens this URI ({_plain(error)}); "
            "install the extra for it, such as 'mlclf[s3]' or 'mlclf[gcs]'"
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def _without_credentials(uri: str) -> str:
    """The URI without user, password and query, fit for logs."""
    scheme, _, rest = uri.partition("://")
    rest = rest.split("?", 1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rsplit('@', 1)[-1]}{slash}{path}"


def _plain(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _in_folder(path: str, filesystem: Any, argument: str, prefix: str) -> list[Source]:
    """Parquet files below a folder, sorted by the bytes of their paths; hidden names are passed over."""
    infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    root = path.rstrip("/")
    sources = []
    for info in infos:
        relative = info.path[len(root) :].lstrip("/") if info.path.startswith(root) else info.base_name
        parts = relative.split("/")
        hidden = any(part.startswith((".", "_")) and "=" not in part for part in parts)
        if info.type == pafs.FileType.File and not hidden and info.path.endswith(SUFFIXES):
            name = prefix + info.path
            sources.append(
                Source(name, info.path, relative, filesystem, info.size or 0, _partition_of(parts[:-1])),
            )
    if not sources:
        raise DataError(
            f"{_without_credentials(argument)}: no Parquet file in this folder "
            f"(looked for {', '.join('*' + suffix for suffix in SUFFIXES)}, also in its folders)"
        )
    return sorted(sources, key=lambda source: os.fsencode(source.path))


def _partition_of(parts: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    pairs = [part.split("=", 1) for part in parts if "=" in part and not part.startswith("=")]
    return tuple((unquote(key), None if value == HIVE_NULL else unquote(value)) for key, value in pairs)
