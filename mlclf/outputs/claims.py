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
from mlclf.given_files import found_at
from mlclf.outputs.exchange import JOURNAL, NEW, OLD, settle
from mlclf.outputs.listing import NAME

INSIDE = ".mlclf"
"""The hidden folder in an output that cannot be renamed."""

LOCK, BUCKETS = "lock", "buckets"
OWN = (LOCK, NEW, OLD, BUCKETS, JOURNAL)
_NAME_BYTES, _TRIES = 150, 1_000


@dataclass(frozen=True)
class Claim:
    """The right to write to one output.

    Attributes:
        out: the output, as it was given.
        place: where that really is.
        job: name of the command.
        work: the hidden folder that has the lock.
        made: folders above the output that were made for it, the outermost last.
    """

    out: Path
    place: Path
    job: str
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
            return cls(out, place, job, work, made, _locked(out, work, job))
        except OSError as error:
            _remove_made(made)
            raise ConfigError(
                f"{out}: cannot be written to ({error.strerror or error}); check who may write there, or give another "
                "--out"
            ) from None

    @property
    def is_inside(self) -> bool:
        """Whether the hidden folder lies in the output, beside which nothing can be written."""
        return self.work.parent == self.place

    def mend(self) -> list[str]:
        """Bring an exchange that was cut off to its end, remove what else a killed job has left, and say so."""
        notes = []
        for work in self._hidden():
            if settle(work, self.place):
                notes.append(f"{self.out}: an exchange that was cut off is whole now")
            if self._clear(work):
                notes.append(f"{self.out}: removed what a job that was killed had left in {work}")
        return notes

    def clean(self) -> None:
        """Leave nothing in hidden folders, unless an exchange could not come to its end."""
        for work in self._hidden():
            settle(work, self.place)
            self._clear(work)

    def _hidden(self) -> list[Path]:
        return [work for work in (self.work, self.place / INSIDE) if work.is_dir() and not work.is_symlink()]

    def _clear(self, work: Path) -> bool:
        """Remove what is in a hidden folder, and that unless it has the lock; whether there was anything."""
        left = [path for path in work.iterdir() if is_own(path) and path.name != LOCK]
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if work != self.work:
            (work / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                work.rmdir()
        return bool(left)

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
    """Whether a path in a hidden folder was made by mlclf."""
    return path.name in OWN or is_temporary(path)


def is_empty(place: Path) -> bool:
    """Whether there is no such folder, or nothing in it but what a job that was stopped has left before its first file.

    Raises:
        ConfigError: `place` is not a folder.
    """
    if not place.exists():
        return True
    if not place.is_dir():
        raise ConfigError(f"{str(place)!r} must be a folder, found {found_at(place) or 'a file'}; name a folder")
    return all(path.name in (NAME, INSIDE) or is_temporary(path) for path in place.iterdir())


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
