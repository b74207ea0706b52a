"""The cache: encoded slabs on a local disk, which later epochs read straight into the pool."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlclf.data.parquet.content import content_digest
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.spans import Span
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab import Slab
from mlclf.errors import ConfigError, MlclfError
from mlclf.files import read_json, write_json

MAGIC = b"mlclf slab 2\n"
HEADER_BYTES = 4096
SHARE_OF_FREE = 0.5
"""At most this much of the space that is free at the start is taken."""

ORIGIN, ORIGIN_VERSION = "data.json", 1
"""Beside slabs: of what data they are."""

SLAB_NAME = re.compile(r"\d+-\d+\.slab|\.\d+-\d+\.slab\.\d+-[0-9a-f]+|data\.json")
"""A slab, or the name that it has while it is written, or what says of what data they are."""


class SlabCache:
    """A file for each slab of one plan, encoded in one way.

    Several processes may share a folder: a file is written under another name and renamed. One that is missing, short,
    damaged, or of other rows (it may not have reached the disk before the machine went down) is read as absent.
    """

    def __init__(self, folder: Path, key: str, origin: Mapping[str, Any] | None = None) -> None:
        self.folder = folder / key[:32]
        self._key = key
        self._origin = origin
        self._left: float | None = None

    def has(self, span: Span) -> bool:
        """Whether the rows of a span may be here."""
        return self._path(span).exists()

    def read(self, span: Span, slab: Slab) -> bool:
        """Fill a slab with the rows of a span; False if they are not in the cache. The slab loses what it held."""
        try:
            with self._path(span).open("rb") as file:
                header = _header_of(file.read(HEADER_BYTES))
                if header is None or header["key"] != self._key or header["span"] != [span.first_row, span.rows]:
                    return False
                return _read_into(file, header, slab)
        except OSError:
            return False

    def write(self, span: Span, slab: Slab) -> None:
        """Keep the rows of a slab; nothing is kept without space left, or where it cannot be written."""
        arrays = {name: array[: slab.rows] for name, array in slab.arrays.items()}
        for name in ("offsets", "ids", "values"):
            array = getattr(slab, name)
            if array is not None:
                arrays[name] = array
        size = HEADER_BYTES + sum(array.nbytes for array in arrays.values())
        path = self._path(span)
        if slab.keys is not None or not self._has_room(size):
            return
        header = {
            "key": self._key,
            "span": [span.first_row, span.rows],
            "rows": slab.rows,
            "first_row": slab.first_row,
            "complete": slab.complete,
            "place": slab.place,
            "arrays": [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()],
            "digest": content_digest(map(_bytes_of, arrays.values())),
        }
        head = _head(json.dumps(header).encode())
        if len(head) > HEADER_BYTES:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._origin is not None and not (self.folder / ORIGIN).exists():
                write_json(self.folder / ORIGIN, {"format_version": ORIGIN_VERSION, **self._origin})
            with temporary.open("wb") as file:
                file.write(head)
                for array in arrays.values():
                    file.write(_bytes_of(array))
            temporary.replace(path)
            self._left = None if self._left is None else self._left - size
        except OSError:
            temporary.unlink(missing_ok=True)
            self._left = 0  # a full disk, or a folder that may not be written: the data itself is read instead

    def _path(self, span: Span) -> Path:
        return self.folder / f"{span.first_row:012}-{span.rows}.slab"

    def _has_room(self, size: int) -> bool:
        if self._left is None:
            existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            self._left = shutil.disk_usage(existing).free * SHARE_OF_FREE
        return size <= self._left


def open_cache(folder: Path, plan: Plan, contents: Sequence[str], encoder: RowEncoder, where: object) -> SlabCache:
    """The cache in a folder for encoded rows of a plan; `contents` are digests of its files (see `Contents`).

    Raises:
        ConfigError: the folder has rows of the same files with other content; names the file.
    """
    origin = {
        "plan": plan.digest,
        "columns": sorted(encoder.columns),
        "where": str(where),
        "contents": list(contents),
    }
    check_origin(folder, plan, origin)
    return SlabCache(folder, cache_key(plan, contents, encoder, where), origin)


def remove_cache(folder: Path) -> bool:
    """Remove all slabs below a folder, and those folders that are empty then; whether there were any."""
    slabs = [path for path in folder.glob("*/*") if SLAB_NAME.fullmatch(path.name) and path.is_file()]
    for path in slabs:
        path.unlink(missing_ok=True)
    for path in [*{path.parent for path in slabs}, folder]:
        with suppress(OSError):
            path.rmdir()
    return bool(slabs)


def check_origin(folder: Path, plan: Plan, origin: Mapping[str, Any]) -> None:
    """Refuse data whose files have the sizes and footers of those that a cache is of, but other content.

    A file that is written anew has another footer but by chance: whoever sees the same one with other bytes has changed
    it in place, or has a damaged disk, and should know before a model is made of it.

    Raises:
        ConfigError: names the file.
    """
    for path in folder.glob(f"*/{ORIGIN}"):
        try:
            known = read_json(path, ORIGIN_VERSION, "what a cache is of")
        except MlclfError:
            continue  # its slabs are looked at one by one
        same = all(known.get(name) == origin[name] for name in ("plan", "columns", "where"))
        before = known.get("contents")
        if same and isinstance(before, list) and before != origin["contents"]:
            pairs = zip(plan.shards, before, origin["contents"], strict=False)
            name = next((shard.source.name for shard, was, now in pairs if was != now), "the data")
            raise ConfigError(
                f"{name}: has the size and the footer of the file that the cache in {folder} was made of, and other "
                f"content: was it changed in place, or is it damaged? Where the change is meant, remove what is "
                f"cached of it: rm -r {shlex.quote(str(path.parent))}"
            )


def cache_key(plan: Plan, contents: Sequence[str], encoder: RowEncoder, where: object) -> str:
    """Hex digest of all that decides what an encoded row is; `contents` are digests of the plan's files."""
    digest = hashlib.sha256(" ".join([plan.digest, *contents]).encode())
    described = [
        encoder.features.to_json(),
        encoder.columns,
        repr(encoder.layout),
        repr(encoder.split),
        getattr(encoder.labels, "names", None),
        sorted(getattr(encoder.labels, "declared", {}).items()),
        None if where is None else str(where),
    ]
    digest.update(json.dumps(described).encode())
    for name, array in sorted(encoder.features.arrays().items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _head(text: bytes) -> bytes:
    """The first bytes of a file: its kind, the SHA-256 of the header, and the header."""
    digest = hashlib.sha256(text).hexdigest().encode()
    return (MAGIC + digest + b"\n" + text).ljust(HEADER_BYTES)


def _header_of(block: bytes) -> dict[str, Any] | None:
    """The header of a file; None where it is not whole, or not as it was written."""
    text = block[len(MAGIC) + 65 :].rstrip(b" ")
    if len(block) < HEADER_BYTES or block != _head(text):
        return None
    header: dict[str, Any] = json.loads(text)
    return header


def _read_into(file: BufferedReader, header: dict[str, Any], slab: Slab) -> bool:
    """Read the arrays of a file into a slab; False where they are not those that the slab holds, short or damaged."""
    rows = header["rows"]
    stored = {name: (kind, tuple(shape)) for name, kind, shape in header["arrays"]}
    views: dict[str, NDArray[Any]] = {name: array[:rows] for name, array in slab.arrays.items()}
    if any(stored.get(name) != (str(view.dtype), view.shape) for name, view in views.items()):
        return False
    ragged = {name: np.empty(shape, kind) for name, (kind, shape) in stored.items() if name not in views}
    targets = [_bytes_of((views | ragged)[name]) for name in stored]
    is_short = any(file.readinto(target) < len(target) for target in targets)
    if is_short or content_digest(targets) != header["digest"]:
        return False
    slab.rows, slab.first_row = rows, header["first_row"]
    slab.complete, slab.place = header["complete"], header["place"]
    slab.offsets, slab.ids, slab.values = (ragged.get(name) for name in ("offsets", "ids", "values"))
    return True


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
