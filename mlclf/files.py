"""Files that appear whole or not at all.

Every artefact is written by `committed`: a temporary name in the same folder, fsync, rename, fsync of the folder. A
temporary is called ``.NAME.tmp-PID-RANDOM``; one left by a crash is recognised by that name and never read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, NoReturn

from mlclf.errors import ConfigError, FullDiskError, RunError
from mlclf.given_files import found_at, read_given, reason_of

_TEMPORARY = re.compile(r"\..*\.tmp-\d+-[0-9a-f]{8}", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_NAME_BYTES = 200  # leaves room for the rest of a temporary's name within the 255 bytes of a file name
_READ_BYTES = 1 << 20


@contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without an exception.

    The caller creates and closes the file. After any exception the temporary is gone and `path` is as it was. Missing
    parents are created; a symbolic link is followed, so its target is replaced.

    Raises:
        ConfigError: `path` is a folder or a device.
        FullDiskError: there is no room for it.
    """
    path = real_path(path) if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise ConfigError(f"{str(path)!r} must be a regular file, found {found_at(path)}; name a file to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME_BYTES])
    temporary = path.with_name(f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
    except BaseException as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if is_full(error):
            raise FullDiskError(full_disk(path, error, written)) from error
        raise
    fsync_path(path.parent)


def write_bytes(path: Path, value: bytes) -> None:
    """Replace `path` by a file of these bytes, whole or not at all."""
    with committed(path) as temporary:
        temporary.write_bytes(value)


def write_text(path: Path, value: str) -> None:
    """Replace `path` by a file of this text in UTF-8, line ends as given, whole or not at all."""
    write_bytes(path, value.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as JSON with a newline at its end, whole or not at all.

    Raises:
        ValueError: `value` holds NaN or an infinity: write null for what is undefined.
    """
    write_bytes(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """The bytes that `write_json` writes.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8")


def read_json(
    path: Path, format_version: int | tuple[int, ...], what: str, content: bytes | None = None
) -> dict[str, Any]:
    """Return the JSON object in `path`, whose `format_version` is the one given, or one of those given.

    Args:
        path: the file.
        format_version: the only version that the caller reads, or all of them.
        what: what the file holds, for messages: "thresholds".
        content: the bytes of the file, where they have been read.

    Raises:
        RunError: the file is missing, unreadable, not a JSON object, or of another version.
    """
    try:
        value = parsed_json(read_given(path) if content is None else content)
    except FileNotFoundError:
        raise RunError(
            f"{str(path)!r} must hold {what}, found no such file; check the path or write it again"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{str(path)!r} must hold {what} as JSON, found {reason_of(error)}; restore the file or write it again"
        ) from None
    if not isinstance(value, dict):
        raise RunError(
            f"{str(path)!r} must hold {what} as a JSON object, found {type(value).__name__}; "
            "restore the file or write it again"
        )
    found = value.get("format_version")
    known = (format_version,) if isinstance(format_version, int) else format_version
    if type(found) is not int or found not in known:
        raise RunError(
            f"{str(path)!r} holds {what} of format_version {found!r}, this release of mlclf reads "
            f"{' and '.join(map(str, known))}; "
            "use the release that wrote it or write it again"
        )
    return value


def parsed_json(data: bytes) -> Any:
    """The value of JSON in UTF-8.

    Raises:
        ValueError: it is none, or nested deeper than any document of ours, or holds NaN or an infinity.
    """
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, reading 1 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def append_line(path: Path, text: str) -> None:
    """Add one line to a log, on disk before returning.

    Each line is one write that ends in a newline, so text after the last newline is a line torn by a crash; it is
    dropped before the new line is added. The file is created when missing, its folder is not.

    Raises:
        ValueError: `text` holds a line break.
    """
    if "\n" in text or "\r" in text:
        raise ValueError(f"a log line must not hold a line break, got {text!r}")
    line = text.encode("utf-8") + b"\n"
    is_new = not path.exists()
    with path.open("ab", buffering=len(line) + 1) as file:  # the whole line fits, so flushing is one write
        file.truncate(_end_of_whole_lines(path))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        fsync_path(path.parent)


def safe_relative(path: str, folder: Path) -> Path:
    """Return ``folder / path`` for a path that was read from a file and must stay inside `folder`.

    The file need not exist.

    Raises:
        RunError: the path is empty, absolute, holds ``..`` or NUL, or a symbolic link leads out of `folder`.
    """
    parts = PurePath(path).parts
    inside = bool(parts) and not PurePath(path).is_absolute() and ".." not in parts and "\0" not in path
    if inside:
        try:
            real = (folder / path).resolve()
            is_loop = any(part.is_symlink() for part in (real, *real.parents))
            inside = real.is_relative_to(folder.resolve()) and not is_loop
        except (OSError, RuntimeError):  # Python before 3.13 raises for a loop of symbolic links
            inside = False
    if not inside:
        raise RunError(
            f"path {path!r} must lie inside {str(folder)!r}; the file that names it is damaged or not to be trusted"
        )
    return folder / path


def is_temporary(path: Path) -> bool:
    """Return True for a name that only `committed` gives: no finished file is called so."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room for a file, by the disk, a quota, or a limit on sizes."""
    return isinstance(error, FullDiskError) or (isinstance(error, OSError) and error.errno in _FULL)


def full_disk(path: Path, error: BaseException, written: int, needed: int = 0) -> str:
    """What a person should know where there is no room for a file or a folder.

    Args:
        path: what was to be written.
        error: what the system, or `committed`, says.
        written: bytes that were, before they were removed.
        needed: bytes that it takes in all, about; 0 where that is not known.
    """
    if isinstance(error, FullDiskError):
        error = error.__cause__ or error
    too_large = isinstance(error, OSError) and error.errno == errno.EFBIG
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    needs = f"about {needed:,}" if needed > written else f"more than {written:,}"
    reason = "a file is larger than a limit here allows (ulimit -f)" if too_large else "the disk is full"
    return f"{path}: {reason}: it takes {needs} bytes, {written:,} were written, and {free:,} are free now"


def real_path(path: str | Path) -> Path:
    """Where a path leads through links; as it is where these lead in a circle, which whoever opens it is told."""
    return Path(os.path.realpath(path))


def fsync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_whole_lines(path: Path) -> int:
    """Return the number of bytes up to and with the last newline; only a torn file is read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return 0
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return size
        file.seek(0)
        return file.read().rfind(b"\n") + 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")
