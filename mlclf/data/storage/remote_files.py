"""Reading over a network: URI → a filesystem whose every request is retried, ends by a deadline, and never hangs."""

from __future__ import annotations

import atexit
import ctypes
import io
import os
import random
import re
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from operator import itemgetter
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from mlclf.addresses import S3_FLAGS, S3_TEXTS, parts_of, secrets_of, without_credentials
from mlclf.errors import DataError
from mlclf.machine.signals import pause as wait_for
from mlclf.machine.signals import result_of

ATTEMPT_SECONDS = 30.0
"""A request without an answer for so long is given up and made again; it asks for at most PART_BYTES."""

DEADLINE_SECONDS = 120.0
"""Opening a file, or reading a part of it, must succeed within this time, whatever the number of attempts."""

LISTING_SECONDS = 600.0
"""The same for listing a folder, which is one request for each thousand files; also for one attempt at it."""

CONNECT_SECONDS = 10.0
"""For one connection; S3 only."""

BACKOFF_SECONDS = 0.2
"""The wait before attempt n + 1 is drawn from zero to this × 2ⁿ⁻¹ ("full jitter"), so that readers come back apart."""

BACKOFF_LIMIT_SECONDS = 10.0

PART_BYTES = 8 << 20
"""Longer reads are split into parts, so that a fault costs one part and a slow attempt can be told from a dead one."""

LEAST_BYTES = 4 << 10
"""What a request asks for at least: pyarrow learns what S3 says of a fault only where that fits into the bytes."""

PARALLEL_PARTS = 8
"""Parts of a read, or ranges of a file, that are fetched side by side: one connection seldom fills the line."""

VERSION_NAMES = ("etag", "generation", "last-modified", "lastmodified", "last_modified", "updated", "mtime", "modified")
"""What storages call that by which one version of a file is told from the next, the surest first."""

PASSING_CODES = {"INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "THROTTLING", "SLOW_DOWN", "REQUEST_TIMEOUT"}
PASSING_STATUSES = {408, 425, 429}
DENIED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|\w*SIGNATURE\w*|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION_TOKEN)|AWS Error .* ExpiredToken|HTTP status 40[13]\b"
    r"|google::cloud::Status\((PERMISSION_DENIED|UNAUTHENTICATED)|Azure Error: \[(Authoriz|Authentic)"
)
MISSING = re.compile(
    r"AWS Error (NO_SUCH_BUCKET|NO_SUCH_KEY|RESOURCE_NOT_FOUND)|HTTP status 404\b|^Bucket '.*' not found"
    r"|google::cloud::Status\(NOT_FOUND|Azure Error: \[(Blob|Container|Path|Filesystem)NotFound"
)
AWS = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during")

T = TypeVar("T")

_jitter = random.Random()
_under_way: set[Future[Any]] = set()


class RemoteError(DataError, OSError):
    """The network or the storage service failed. The file itself may be sound, so nothing may set it aside."""


def open_remote(uri: str) -> tuple[pafs.PyFileSystem, str]:
    """Open a URI with pyarrow's own filesystems, else with fsspec: a filesystem for reading, and the path inside it.

    The filesystem raises PermissionError, FileNotFoundError and, for all else, `RemoteError`; the messages are whole
    and hold no credentials. pyarrow's readers pass the exceptions on as they are.

    Raises:
        DataError: nothing opens such URIs, or an S3 option is not known.
    """
    secrets = secrets_of(uri)
    place = without_credentials(uri)
    scheme = uri.partition("://")[0]
    opener = _open_s3 if scheme == "s3" else _open_other
    inner, path, server = persist(partial(opener, uri), f"{place}: opening the storage", secrets)
    shown = place.rstrip("/")
    inside = without_credentials(path).rstrip("/") if "://" in path else path.rstrip("/")
    root = shown.removesuffix(inside) if inside and shown.endswith(inside) else f"{scheme}://"
    return pafs.PyFileSystem(RemoteFiles(inner, root, f"{scheme} {root} {server}", secrets)), path


def name_of(filesystem: Any, path: str) -> str:
    """The URI of a path of a filesystem that `open_remote` returned, without credentials."""
    return str(filesystem.handler.name_of(path))


def persist(
    attempt: Callable[[], T],
    what: str,
    secrets: Sequence[str] = (),
    attempt_seconds: float | None = None,
    deadline_seconds: float | None = None,
) -> T:
    """Return `attempt()`, made again after faults that pass, until the deadline; a stalled attempt is left behind.

    Args:
        what: place and deed, with which messages begin, as in "s3://bucket/a.parquet: reading bytes 0–7".
        secrets: never repeated in a message.
        attempt_seconds: ATTEMPT_SECONDS if None.
        deadline_seconds: DEADLINE_SECONDS if None.

    Raises:
        PermissionError, FileNotFoundError: at once.
        RemoteError: the service refused at once, or no attempt succeeded.
        DataError: from `attempt`, as it is.
    """
    patience = ATTEMPT_SECONDS if attempt_seconds is None else attempt_seconds
    allowed = DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds
    deadline = time.monotonic() + allowed
    attempts, said = 0, ""
    while True:
        attempts += 1
        seconds = min(patience, deadline - time.monotonic())
        try:
            return _within(seconds, attempt)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            final = _verdict(error)
            if not (said and isinstance(error, TimeoutError) and seconds < patience):  # the deadline says nothing new
                said = _said(error, secrets)
        # The causes are not chained: their texts may hold credentials.
        if final is PermissionError:
            raise PermissionError(f"{what}: permission denied ({said}); check the credentials and who may read it")
        if final is FileNotFoundError:
            raise FileNotFoundError(f"{what}: there is no such file or folder ({said}); check the path")
        if final is not None:
            raise RemoteError(f"{what}: refused ({said}); check the address, its options and the region")
        pause = _jitter.uniform(0, min(BACKOFF_LIMIT_SECONDS, BACKOFF_SECONDS * 2.0 ** (attempts - 1)))
        if time.monotonic() + pause >= deadline:
            count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            raise RemoteError(
                f"{what}: must succeed within {allowed:g} seconds, {count} did not, the last with: {said}; "
                "check the network and the storage service, then start again"
            )
        wait_for(pause)


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Return `function()`, or raise TimeoutError and leave it running in its thread."""
    future = _in_thread(function)
    _under_way.add(future)
    future.add_done_callback(_under_way.discard)
    try:
        return result_of(future, seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {seconds:.3g} seconds") from None


def _in_thread(function: Callable[[], T]) -> Future[T]:
    """Start a function in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, name="mlclf-remote", daemon=True).start()
    return future


@atexit.register
def _let_go() -> None:
    """Keep the end of the process from waiting for requests that never end: closing S3 waits for all of them.

    Left open, S3 crashes where the process takes down its libraries, so that is left out as well (glibc only).
    """
    if _under_way and wait(_under_way, ATTEMPT_SECONDS).not_done:
        library = ctypes.CDLL(None)
        if hasattr(library, "on_exit"):
            atexit.unregister(pafs.ensure_s3_finalized)
            library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)


def _verdict(error: Exception) -> type[OSError] | None:
    """None for a fault that may pass, else the class to raise."""
    text, status = str(error), _status(error)
    if isinstance(error, PermissionError) or status in (401, 403) or DENIED.search(text):
        return PermissionError
    if "Credentials" in type(error).__name__:
        return PermissionError
    if isinstance(error, FileNotFoundError) or status == 404 or MISSING.search(text):
        return FileNotFoundError
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return RemoteError
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError)):
        return RemoteError
    if aws := AWS.search(text):
        status = int(aws[2]) if aws[2] else None
        passing = aws[1] in PASSING_CODES or aws[1] in ("NETWORK_CONNECTION", "UNKNOWN")
        if not passing:
            return RemoteError
    if status is not None and status < 500 and status not in PASSING_STATUSES:
        return RemoteError
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status that an exception of an fsspec library holds: aiohttp, requests, gcsfs."""
    found = [getattr(error, "status", None), getattr(getattr(error, "response", None), "status_code", None)]
    found.append(getattr(error, "code", None))
    return next((value for value in found if isinstance(value, int) and 300 <= value < 600), None)


def _said(error: Exception, secrets: Sequence[str]) -> str:
    """The first line of an error's text, or its class, without secrets."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "…")
    return text[:300].rstrip(" .;:")


def _open_s3(uri: str) -> tuple[pafs.FileSystem, str, str]:
    """Open s3://[key:secret@]bucket/path[?option=value&…] with timeouts and without retries below ours."""
    user, place, query, _ = parts_of(uri)
    bucket, slash, key = place.partition("/")
    options = _s3_options(uri, query)
    if user:
        options["access_key"], _, options["secret_key"] = (unquote(part) for part in user.partition(":"))
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = str(options.get("endpoint_override") or named)
    if "://" in endpoint:
        scheme, _, endpoint = endpoint.partition("://")
        options.setdefault("scheme", scheme)
    if endpoint:
        options["endpoint_override"] = endpoint.rstrip("/")
    if not endpoint and "region" not in options and not os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}:
        options["region"] = pafs.resolve_s3_region(bucket)
    filesystem = pafs.S3FileSystem(
        request_timeout=ATTEMPT_SECONDS,
        connect_timeout=CONNECT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        **options,
    )
    return filesystem, unquote(bucket + slash + key), endpoint


def _s3_options(uri: str, query: str) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    unknown = sorted({key for key, _, _ in pairs if key not in (*S3_TEXTS, *S3_FLAGS)})
    if unknown:
        raise DataError(
            f"{without_credentials(uri)}: no S3 option is called {', '.join(map(repr, unknown))}; "
            f"there are {', '.join((*S3_TEXTS, *S3_FLAGS))}"
        )
    return {
        key: unquote(value) if key in S3_TEXTS else value.lower() in ("", "1", "true", "yes") for key, _, value in pairs
    }


def _open_other(uri: str) -> tuple[pafs.FileSystem, str, str]:
    """Open a URI with pyarrow's own filesystems, else with fsspec."""
    limited, authority = uri, without_credentials(uri).partition("://")[2].partition("/")[0]
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
        limited += f"{'&' if '?' in uri else '?'}retry_limit_seconds={ATTEMPT_SECONDS:.0f}"
    try:
        filesystem, path = pafs.FileSystem.from_uri(limited)
        return filesystem, path, authority
    except (OSError, ValueError, NotImplementedError):
        pass
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{without_credentials(uri)}: no filesystem opens this URI ({_said(error, secrets_of(uri))}); "
            "install the extra for it, such as 'mlclf[s3]' or 'mlclf[gcs]'"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, authority


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
        return [
            persist(partial(self.inner.get_file_info, path), f"{self.name_of(path)}: looking it up", self.secrets)
            for path in paths
        ]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        found: list[pafs.FileInfo] = persist(
            partial(self.inner.get_file_info, selector),
            f"{self.name_of(selector.base_dir)}: listing the folder",
            self.secrets,
            LISTING_SECONDS,
            LISTING_SECONDS,
        )
        return found

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.open_file(path), mode="r")

    open_input_stream = open_input_file

    def open_file(self, path: str) -> RemoteFile:
        """Open a file for reading; `open_input_file` gives the same to pyarrow."""
        size, version, read = persist(partial(self._open, path), f"{self.name_of(path)}: opening", self.secrets)
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
            running.append(_in_thread(partial(self._part, *part)))
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
