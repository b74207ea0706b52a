"""Files that are read over a network: each request is made again after faults, and given up by a deadline."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from mlclf.addresses import without_credentials
from mlclf.data.storage.retries import in_thread, persist

LISTING_SECONDS = 600.0
"""The same for listing a folder, which is one request for each thousand files; also for one attempt at it."""

PART_BYTES = 8 << 20
"""Longer reads are split into parts, so that a fault costs one part and a slow attempt can be told from a dead one."""

LEAST_BYTES = 4 << 10
"""What a request asks for at least: pyarrow learns what S3 says of a fault only where that fits into the bytes."""

PARALLEL_PARTS = 8
"""Parts of a read, or ranges of a file, that are fetched side by side: one connection seldom fills the line."""

VERSION_NAMES = ("etag", "generation", "last-modified", "lastmodified", "last_modified", "updated", "mtime", "modified")
"""What storages call that by which one version of a file is told from the next, the surest first."""


T = TypeVar("T")


class RemoteFiles(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Reads files of another filesystem, by `persist`.

    Args:
        inner: a filesystem of pyarrow, or PyFileSystem(FSSpecHandler(…)).
        root: what comes before a path to make its URI.
        identity: the same for two filesystems with the same files.
        secrets: never repeated in a message.
    """

    def __init__(self, inner: pafs.FileSystem, root: str, identity: str, secrets: Sequence[str]) -> None:
        self.inner = inner
        self.root = root
        self.identity = identity
        self.secrets = secrets

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFiles) and self.identity == other.identity and bool(self.inner == other.inner)

    __hash__ = None  # type: ignore[assignment]  # as pyarrow's filesystems

    def name_of(self, path: str) -> str:
        return self.root + (without_credentials(path) if "://" in path else path)

    def get_type_name(self) -> str:
        return self.identity

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Iterable[str]) -> list[pafs.FileInfo]:
        return [self._persist(partial(self.inner.get_file_info, path), path, "looking it up") for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        request: Callable[[], list[pafs.FileInfo]] = partial(self.inner.get_file_info, selector)
        return self._persist(request, selector.base_dir, "listing the folder", LISTING_SECONDS, LISTING_SECONDS)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.open_file(path), mode="r")

    open_input_stream = open_input_file

    def open_file(self, path: str) -> RemoteFile:
        """Open a file for reading; `open_input_file` gives the same to pyarrow."""
        size, version, read = self._persist(partial(self._open, path), path, "opening")
        return RemoteFile(self.name_of(path), size, read, self.secrets, version)

    def _open(self, path: str) -> tuple[int, str, Callable[[int, int], bytes]]:
        """Return size and version of a file and a function (start, length) → bytes, safe to call from many threads."""
        if not isinstance(self.inner, pafs.PyFileSystem):
            file = self.inner.open_input_file(path)
            return file.size(), _version(file.metadata() or {}), lambda start, length: file.read_at(length, start)
        filesystem = self.inner.handler.fs
        info = filesystem.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(f"it is a {info['type']}")
        if info["size"] is None:
            raise ValueError("the server does not tell the size of the file")
        return info["size"], _version(info), lambda start, length: filesystem.cat_file(path, start, start + length)

    def _persist(self, attempt: Callable[[], T], path: str, deed: str, *seconds: float) -> T:
        return persist(attempt, f"{self.name_of(path)}: {deed}", self.secrets, *seconds)

    def _refuse(self, *arguments: object) -> None:
        raise NotImplementedError("remote data is only read")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
    move = copy_file = open_output_stream = open_append_stream = _refuse


def _version(told: Mapping[Any, Any]) -> str:
    """What changes when a file is written again, as far as the storage tells it on opening."""
    by_name = {(key.decode() if isinstance(key, bytes) else str(key)).lower(): value for key, value in told.items()}
    found = (by_name.get(name) for name in VERSION_NAMES)
    return next((str(value) for value in found if value), "")


class RemoteFile(io.RawIOBase):
    """A file that is read part by part, each by `persist`.

    Attributes:
        size: in bytes.
        version: changes when the file is written again; empty where the storage does not tell.
    """

    def __init__(
        self,
        name: str,
        size: int,
        read_range: Callable[[int, int], bytes],
        secrets: Sequence[str] = (),
        version: str = "",
    ) -> None:
        self.name = name
        self.size = size
        self.version = version
        self._read_range = read_range
        self._secrets = secrets
        self._position = 0
        self._held: list[tuple[int, bytes]] = []

    def hold(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch ranges of bytes (start, end), rising and apart, side by side; reads inside them then cost nothing."""
        parts = [part for start, end in ranges for part in _parts(start, end)]
        fetched = dict(zip(parts, self._fetched(parts), strict=True))
        self._held = [(start, b"".join(fetched[part] for part in _parts(start, end))) for start, end in ranges]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        start = min(self._position, self.size)
        length = self.size - start if size is None or size < 0 else min(size, self.size - start)
        data = self._read(start, length)
        self._position = start + length
        return data

    def _read(self, start: int, length: int) -> bytes:
        number = bisect_right(self._held, start, key=itemgetter(0)) - 1
        if number >= 0:
            first, data = self._held[number]
            held = data[start - first : start - first + length]
            if held:
                return held if len(held) == length else held + self._read(start + len(held), length - len(held))
        return b"".join(self._fetched(_parts(start, start + length)))

    def _fetched(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of parts (start, length), some of them fetched side by side."""
        if len(parts) == 1:
            return [self._part(*parts[0])]
        done: list[bytes] = []
        running: deque[Future[bytes]] = deque()
        for part in parts:
            if len(running) == PARALLEL_PARTS:
                done.append(running.popleft().result())
            running.append(in_thread(partial(self._part, *part)))
        return done + [future.result() for future in running]

    def _part(self, start: int, length: int) -> bytes:
        return persist(
            partial(self._attempt, start, length),
            f"{self.name}: reading bytes {start:,}–{start + length - 1:,}",
            self._secrets,
        )

    def _attempt(self, start: int, length: int) -> bytes:
        asked = min(self.size, start + max(length, LEAST_BYTES)) - start
        data = self._read_range(start, asked)
        if len(data) != asked:
            raise ConnectionError(f"{len(data):,} of {asked:,} bytes came")
        return data if asked == length else data[:length]


def _parts(start: int, end: int) -> list[tuple[int, int]]:
    """(start, length) of each part of a range."""
    return [(first, min(PART_BYTES, end - first)) for first in range(start, end, PART_BYTES)]
