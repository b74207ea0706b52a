"""One file of the data, on this machine or a storage service: opened for reading, and noticed when it changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlclf.data.storage.byte_ranges import chunk_ranges
from mlclf.data.storage.remote_files import RemoteFile
from mlclf.errors import ChangedDataError, DataError, RemoteError

LEAST_BYTES = 12
"""Of a Parquet file: four at its beginning, eight at its end."""

READ_AHEAD_BYTES = 256 << 20
"""Of a unit of a remote file; no more is read ahead of decoding."""

REMOTE_BUFFER_BYTES = 4 << 20
INT96_UNIT = "us"
"""Timestamps of Impala and of Spark before 3 are read in microseconds: in nanoseconds years beyond 2262 wrap around."""

STEADY = "data must stay as it is while a command reads it; start again"


class Stamp(NamedTuple):
    """What tells a file from another one under its name.

    Attributes:
        size_bytes: of the file.
        written: when, or which version: a time in nanoseconds, an ETag; empty where nothing tells.
        place: of a local file, what changes also where its time is set back, or its links change.
    """

    size_bytes: int
    written: str
    place: str = ""


@dataclass(frozen=True)
class Source:
    """One file: its name as shown to people, its path, and the filesystem that opens it.

    Attributes:
        name: path or URI as the user would write it.
        path: path inside `filesystem`.
        relative: path below the argument that named it, unique; outputs mirror it.
        partition: values of hive folders (`key=value`) in and below the path as given.
        version: changes when the file is written again; empty where the filesystem tells no time of writing.
        stamp: of the file as it was when its footer was read; None before.
    """

    name: str
    path: str
    relative: str
    filesystem: Any
    size_bytes: int
    partition: tuple[tuple[str, str | None], ...] = ()
    version: str = ""
    stamp: Stamp | None = field(default=None, compare=False)

    @property
    def is_remote(self) -> bool:
        """Whether reading goes over a network, or at least through a URI."""
        return not isinstance(self.filesystem, pafs.LocalFileSystem)

    def stamp_now(self, opened: RemoteFile | None = None) -> Stamp:
        """The stamp of what is there now; of a remote file, as it was when it was opened."""
        if self.is_remote:
            file = opened or self.filesystem.handler.open_file(self.path)
            return Stamp(file.size, file.version)
        status = Path(self.path).stat()
        return Stamp(status.st_size, str(status.st_mtime_ns), f"{status.st_ino} {status.st_ctime_ns}")

    def open_parquet(self, metadata: pq.FileMetaData | None = None, buffer_size: int = 0) -> pq.ParquetFile:
        """Open as Parquet, page checksums verified; read in buffers of `buffer_size` bytes (0: whole column chunks)."""
        if self.is_remote:
            return _parquet(pa.PythonFile(self._opened(), mode="r"), metadata, REMOTE_BUFFER_BYTES)
        return _parquet(self.path, metadata, buffer_size, filesystem=self.filesystem)

    def open_unit(
        self, groups: Sequence[int], columns: Sequence[str], metadata: pq.FileMetaData | None = None
    ) -> pq.ParquetFile:
        """Open a remote file to read columns of row groups: their chunks are fetched first, side by side, and held.

        Chunks of more than READ_AHEAD_BYTES are read in large buffers instead.
        """
        file = self._opened()
        footer = metadata or pq.read_metadata(pa.PythonFile(file, mode="r"))
        ranges = chunk_ranges(footer, groups, columns, file.size)
        is_held = sum(end - start for start, end in ranges) <= READ_AHEAD_BYTES
        if is_held:
            file.hold(ranges)
        return _parquet(pa.PythonFile(file, mode="r"), footer, 0 if is_held else REMOTE_BUFFER_BYTES)

    def _opened(self) -> RemoteFile:
        """A remote file, which is the one that was planned."""
        file: RemoteFile = self.filesystem.handler.open_file(self.path)
        check_stamp(self, self.stamp_now(file))
        return file

    def magic(self) -> tuple[bytes, bytes]:
        """The first and the last four bytes; empty where they cannot be read.

        Raises:
            RemoteError: the network failed.
        """
        try:
            with self.filesystem.open_input_file(self.path) as file:
                size = file.size()
                return file.read_at(4, 0), file.read_at(4, max(0, size - 4))
        except RemoteError:
            raise
        except OSError:
            return b"", b""


def _parquet(opened: Any, metadata: pq.FileMetaData | None, buffer_size: int, **where: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        opened,
        metadata=metadata,
        buffer_size=buffer_size,
        pre_buffer=False,
        coerce_int96_timestamp_unit=INT96_UNIT,
        page_checksum_verification=True,
        **where,
    )


def check_stamp(source: Source, now: Stamp) -> None:
    """Refuse a file that was written again since its footer was read.

    Raises:
        ChangedDataError: its size or its time of writing is another one.
    """
    was = source.stamp
    if was is None or was[:2] == now[:2]:
        return
    if was.size_bytes != now.size_bytes:
        found = f"it had {was.size_bytes:,} bytes, has {now.size_bytes:,}"
    elif source.is_remote:
        found = "the storage says that it was written again"
    else:
        found = f"it was written at {_time(was.written)}, now at {_time(now.written)}"
    raise ChangedDataError(f"{source.name}: has changed while it was read: {found}; {STEADY}")


@contextmanager
def steady(path: Path) -> Iterator[None]:
    """Refuse a local file that is another one, or gone, when the block ends, or fails for what it has read.

    Raises:
        ChangedDataError: its size or its time of writing is another one.
    """
    source = Source(str(path), str(path), path.name, pafs.LocalFileSystem(), 0)
    source = replace(source, stamp=source.stamp_now())

    def check() -> None:
        try:
            check_stamp(source, source.stamp_now())
        except FileNotFoundError:
            raise ChangedDataError(f"{path}: is gone, it was there before; {STEADY}") from None

    try:
        yield
    except DataError:
        check()
        raise
    check()


def _time(nanoseconds: str) -> str:
    return datetime.fromtimestamp(int(nanoseconds) / 1e9, UTC).strftime("%H:%M:%S.%f UTC")
