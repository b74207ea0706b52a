"""From a URI to the filesystem that reads it, with credentials and timeouts."""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from mlclf.addresses import S3_FLAGS, S3_TEXTS, parts_of, secrets_of, without_credentials
from mlclf.data.storage import retries
from mlclf.data.storage.remote_files import RemoteFiles
from mlclf.data.storage.retries import persist, text_of_fault
from mlclf.errors import DataError

CONNECT_SECONDS = 10.0
"""For one connection; S3 only."""


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
        request_timeout=retries.ATTEMPT_SECONDS,
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
        limited += f"{'&' if '?' in uri else '?'}retry_limit_seconds={retries.ATTEMPT_SECONDS:.0f}"
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
            f"{without_credentials(uri)}: no filesystem opens this URI ({text_of_fault(error, secrets_of(uri))}); "
            "install the extra for it, such as 'mlclf[s3]' or 'mlclf[gcs]'"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, authority
