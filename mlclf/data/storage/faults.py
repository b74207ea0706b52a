"""What a failed request means: try again, give up, or say that something is missing or forbidden."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlclf.errors import RemoteError

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


def verdict_of(error: Exception) -> type[OSError] | None:
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


def text_of_fault(error: Exception, secrets: Sequence[str]) -> str:
    """The first line of an error's text, or its class, without secrets."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "…")
    return text[:300].rstrip(" .;:")
