"""The claim to an output: one job at a time may write to a folder, and loses that right when its process ends.

Beside the output `scores` a job has the hidden folder `.scores.mlclf`. The file `lock` in it is locked (flock) as long
as the process lives, whatever kills it, so what else is in there belongs to nobody once the lock can be had.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlclf.errors import ConfigError
from mlclf.files import is_temporary
from mlclf.outputs.exchange import JOURNAL, NEW, OLD

INSIDE = ".mlclf"
"""The hidden folder in an output that cannot be renamed."""

LOCK, BUCKETS = "lock", "buckets"
OWN = (LOCK, NEW, OLD, BUCKETS, JOURNAL)
_NAME_BYTES, _TRIES = 150, 1_000


@dataclass
class Claim:
    """The right to write to one output.

    Attributes:
        work: the hidden folder that has the lock.
        made: folders above the output that were made for it, the outermost last.
    """

    work: Path
    made: tuple[Path, ...]
    _lock: int

    @classmethod
    def of(cls, out: Path, place: Path, job: str) -> Claim:
        """Take the claim to `place`, at once or not at all.

        Raises:
            ConfigError: another job has it, or nothing can be written there.
        """
        made = tuple(path for path in place.parents if not path.exists())
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = place / INSIDE if _is_bound(place) else beside(place)
            return cls(work, made, _locked(out, work, job))
        except OSError as error:
            _remove_made(made)
            raise ConfigError(
                f"{out}: cannot be written to ({error.strerror or error}); check who may write there, or give another "
                "--out"
            ) from None

    def release(self) -> None:
        """Give the claim up; its hidden folder goes too, where nothing is left in it."""
        try:
            (self.work / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                self.work.rmdir()
            _remove_made(self.made)
        finally:
            os.close(self._lock)


def beside(place: Path) -> Path:
    """The hidden folder of the output at `place`.

    >>> beside(Path("/data/scores"))
    PosixPath('/data/.scores.mlclf')
    """
    name = os.fsencode(place.name)
    if len(name) > _NAME_BYTES:
        name = name[:_NAME_BYTES] + b"-" + hashlib.sha256(name).hexdigest()[:16].encode()
    return place.parent / f".{os.fsdecode(name)}{INSIDE}"


def is_own(path: Path) -> bool:
    """Whether something in a hidden folder is of a job there."""
    return path.name in OWN or is_temporary(path)


def discard(path: Path) -> None:
    """Remove a file or a folder; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_bound(place: Path) -> bool:
    """Whether nothing can be written beside an output that is there."""
    return place.is_dir() and not os.access(place.parent, os.W_OK | os.X_OK)


def _locked(out: Path, work: Path, job: str) -> int:
    """The descriptor of the locked file in a hidden folder."""
    for _ in range(_TRIES):
        try:
            work.mkdir(exist_ok=True)
            strange = next((path for path in work.iterdir() if not is_own(path)), None)
            strange = work if work.is_symlink() else strange
            if strange is not None:
                raise ConfigError(f"{out}: {strange} is in the way and not of mlclf; move it, or give another --out")
            lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # the job before has just ended
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, work / LOCK):
                os.truncate(lock, 0)
                os.write(lock, json.dumps({"job": job, "process": os.getpid()}).encode())
                return lock
        except BlockingIOError:
            owner = _owner(lock)
            os.close(lock)
            raise ConfigError(
                f"{out}: {owner} is writing there; wait until it has ended, or give another --out"
            ) from None
        except OSError:
            os.close(lock)
            raise
        os.close(lock)
    raise ConfigError(f"{out}: other jobs start and end there all the time; give another --out")


def _is_at(lock: int, path: Path) -> bool:
    """Whether a descriptor is that of the file that is at a path now."""
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        return False


def _owner(lock: int) -> str:
    try:
        owner = json.loads(os.pread(lock, 4096, 0))
        return f"another job ({owner['job']!s:.20}, process {int(owner['process'])})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another job"


def _remove_made(made: tuple[Path, ...]) -> None:
    for path in made:
        with suppress(OSError):
            path.rmdir()
