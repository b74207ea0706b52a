"""One JSON file as an output: it replaces nothing but such a file."""

from __future__ import annotations

import json
from pathlib import Path

from mlclf.errors import ConfigError
from mlclf.files import json_bytes, real_path, write_bytes
from mlclf.given_files import found_at
from mlclf.outputs.listing import Content, Listing

_MOST_BYTES = 1 << 30


def check_document(path: str | Path | None, field: str) -> None:
    """Refuse, before a job begins, to replace a file by a JSON document, unless it is one of the same kind.

    Args:
        path: where the document goes; None for nowhere.
        field: what such a document has beside its `format_version`.

    Raises:
        ConfigError: there is something else at `path`.
    """
    if path is None or not Path(path).exists():
        return
    if not Path(path).is_file():
        raise ConfigError(f"{str(path)!r} must be a regular file, found {found_at(path)}; name a file to write to")
    if not _is_document(Path(path), field):
        raise ConfigError(
            f"{path}: --out replaces only JSON that such a command wrote, with 'format_version' and {field!r}, and "
            "this file is none; name another file"
        )


def write_document(path: str | Path, document: object, field: str) -> None:
    """Replace `path` by a document, whole or not at all; where it is listed as a file of an output, that is kept right.

    Raises:
        ConfigError: something else is there.
    """
    check_document(path, field)
    place, value = real_path(path), json_bytes(document)
    listing = Listing.read(place.parent) if (place.parent / place.name).exists() else None
    if listing is not None and place.name in listing.contents:
        listing.append(place.parent, place.name, Content.of_bytes(value))
    write_bytes(Path(path), value)


def _is_document(path: Path, field: str) -> bool:
    size = path.stat().st_size
    if size == 0:
        return True
    try:
        found = json.loads(path.read_bytes()) if size <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and type(found.get("format_version")) is int and field in found
