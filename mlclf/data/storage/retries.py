"""Requests made again after faults that may pass, with growing random waits, until a deadline."""

from __future__ import annotations

import atexit
import ctypes
import random
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

import pyarrow.fs as pafs

from mlclf.errors import DataError, RemoteError
from mlclf.machine.signals import pause as wait_for
from mlclf.machine.signals import result_of

ATTEMPT_SECONDS = 30.0
"""A request without an answer for so long is given up and made again; it asks for at most PART_BYTES."""

DEADLINE_SECONDS = 120.0
"""Opening a file, or reading a part of it, must succeed within this time, whatever the number of attempts."""

BACKOFF_SECONDS = 0.2
"""The wait before attempt n + 1 is drawn from zero to this × 2ⁿ⁻¹ ("full jitter"), so that readers come back apart."""

BACKOFF_LIMIT_SECONDS = 10.0

PASSING_CODES = (
    *("INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "THROTTLING", "SLOW_DOWN"),
    *("REQUEST_TIMEOUT", "NETWORK_CONNECTION", "UNKNOWN"),
)
PASSING_STATUSES = (408, 425, 429)
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
LASTING = (
    *(IsADirectoryError, NotADirectoryError, NotImplementedError),
    *(ValueError, TypeError, LookupError, AttributeError, ImportError),
)

T = TypeVar("T")

_jitter = random.Random()
_under_way: set[Future[Any]] = set()


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
            final = verdict_of(error)
            if not (said and isinstance(error, TimeoutError) and seconds < patience):  # the deadline says nothing new
                said = text_of_fault(error, secrets)
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


def verdict_of(error: Exception) -> type[OSError] | None:
    """Return None for a fault that may pass, else the class of the error to raise."""
    text, status = str(error), _status_of(error)
    is_about_credentials = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
    if is_about_credentials or status in (401, 403) or DENIED.search(text):
        return PermissionError
    if isinstance(error, FileNotFoundError) or status == 404 or MISSING.search(text):
        return FileNotFoundError
    if aws := AWS.search(text):
        status = int(aws[2]) if aws[2] else None
    lasts = isinstance(error, LASTING) or (aws and aws[1] not in PASSING_CODES)
    if lasts or (status is not None and status < 500 and status not in PASSING_STATUSES):
        return RemoteError
    return None


def _status_of(error: Exception) -> int | None:
    """The HTTP status that an exception of an fsspec library holds: aiohttp, requests, gcsfs."""
    of_response = getattr(getattr(error, "response", None), "status_code", None)
    found = (getattr(error, "status", None), of_response, getattr(error, "code", None))
    return next((value for value in found if isinstance(value, int) and 300 <= value < 600), None)


def text_of_fault(error: Exception, secrets: Sequence[str] = ()) -> str:
    """The first line of an error's text, or its class, without secrets."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    for secret in secrets:
        text = text.replace(secret, "…")
    return text[:300].rstrip(" .;:")


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Return `function()`, or raise TimeoutError and leave it running in its thread."""
    future = in_thread(function)
    _under_way.add(future)
    future.add_done_callback(_under_way.discard)
    try:
        return result_of(future, seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {seconds:.3g} seconds") from None


def in_thread(function: Callable[[], T]) -> Future[T]:
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
