"""Addresses of data (URIs) and the secrets in them: user, password, keys, tokens, signatures.

No file, log or message holds a secret. An address without its secrets still says what data is meant; who wants to read
it again gives the address with them once more, or has them in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

S3_TEXTS = (
    *("access_key", "secret_key", "session_token", "role_arn", "session_name", "external_id"),
    *("region", "scheme", "endpoint_override", "tls_ca_file_path"),
)
S3_FLAGS = ("anonymous", "force_virtual_addressing")
"""What the query of an s3:// URI may say: the arguments of `pyarrow.fs.S3FileSystem` that matter to a reader."""

HARMLESS = frozenset({"region", "scheme", "endpoint_override", "tls_ca_file_path", *S3_FLAGS})
"""Keys of a query whose values are no secrets."""

SHORTEST_SECRET = 4

_IN_TEXT = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:{1,2}[^\s'\"<>|]*://[^\s'\"<>|]*|[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|]*"
)
_CLOSING = ".,;:)]}…"


def is_address(text: str) -> bool:
    """Whether an argument is a URI, and not a path."""
    return "://" in text


def without_credentials(uri: str) -> str:
    """The URI without user, password, query and fragment, fit for logs.

    >>> without_credentials("s3://key:secret@bucket/a.parquet?region=eu-west-1")
    's3://bucket/a.parquet'
    """
    return _of_each(uri, lambda one: _without(one, keep=frozenset()))


def without_secrets(uri: str) -> str:
    """The URI without user, password and fragment, of its query only what is no secret; paths stay as they are.

    >>> without_secrets("s3://key:secret@bucket/a.parquet?region=eu-west-1&session_token=x")
    's3://bucket/a.parquet?region=eu-west-1'
    """
    return _of_each(uri, lambda one: _without(one, keep=HARMLESS)) if is_address(uri) else uri


def secrets_of(uri: str) -> tuple[str, ...]:
    """User, password and values of the query, as written and as meant, the longest first."""
    found: list[str] = []
    for one in uri.split("::"):
        user, _, query, fragment = parts_of(one)
        pairs = [pair.partition("=") for pair in re.split("[&;]", query)]
        found += [user, *user.split(":", 1), query, fragment]
        found += [value for key, _, value in pairs if unquote(key).lower() not in HARMLESS]
    found += [unquote(text) for text in found]
    return tuple(sorted({text for text in found if len(text) >= SHORTEST_SECRET}, key=len, reverse=True))


def hidden(text: str) -> str:
    """A text in which every URI is without its secrets."""
    return _IN_TEXT.sub(_hidden, text) if "://" in text else text


def _hidden(found: re.Match[str]) -> str:
    uri = found[0].rstrip(_CLOSING)
    return without_secrets(uri) + found[0][len(uri) :]


def _of_each(uri: str, change: Callable[[str], str]) -> str:
    """The change of each part of a chain such as ``zip://a.parquet::s3://bucket/b.zip``."""
    return "::".join(change(one) if is_address(one) else one for one in uri.split("::"))


def _without(uri: str, keep: frozenset[str]) -> str:
    scheme = uri.partition("://")[0]
    _, place, query, _ = parts_of(uri)
    kept = [pair for pair in query.split("&") if unquote(pair.partition("=")[0]).lower() in keep]
    return f"{scheme}://{place}" + ("?" + hidden("&".join(kept)) if kept else "")


def parts_of(uri: str) -> tuple[str, str, str, str]:
    """User with password, place, query and fragment of a URI.

    A password may hold a slash that should have been written %2F: what stands before the last @ is taken for user and
    password where a colon before the first slash is not followed by the number of a port.
    """
    rest = uri.partition("://")[2]
    rest, _, fragment = rest.partition("#") if uri.startswith(("http", "abfs", "gs", "gcs")) else (rest, "", "")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    user, at, host = authority.rpartition("@")
    if not at and "@" in path and re.search(r":(?!\d*$)", authority):
        user, at, host = before.rpartition("@")
        return user, host, query, fragment
    return user, host + slash + path, query, fragment
