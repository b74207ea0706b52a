"""One output of a command, from the first look at `--out` to the moment at which it is whole."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from mlclf.errors import ConfigError, FullDiskError
from mlclf.files import (
    committed,
    fsync_path,
    full_disk,
    is_full,
    is_temporary,
    json_bytes,
    kind_of,
    real_path,
    write_bytes,
    write_text,
)
from mlclf.outputs.apart import check_not_inside, check_outside
from mlclf.outputs.claims import INSIDE, LOCK, Claim, beside, discard, is_own
from mlclf.outputs.exchange import JOURNAL, NEW, OLD, remove_empty, settle, take_files, take_place
from mlclf.outputs.listing import HASH_THREADS, NAME, Content, Inventory, Listing, entries_below

SUCCESS = "_SUCCESS"


class Output:
    """A claimed `--out`; see `claimed`.

    Attributes:
        out: as it was given.
        place: where it really is.
        work: the hidden folder for what is not to be seen.
        notes: what a person should know, for the job to say.
        replaces: whether an earlier output is replaced.
        folder: where files are written, inside `opened`.
        needs_bytes: what the job is going to write, as far as it knows.
    """

    def __init__(self, out: Path, place: Path, job: str, work: Path, resumes: bool) -> None:
        self.out, self.place, self.job, self.work, self._resumes = out, place, job, work, resumes
        self.notes: list[str] = []
        self.replaces = False
        self.folder = place
        self.needs_bytes = 0
        self.goes_on = False
        self.listing = Listing(job)
        self._inventory: Inventory | None = None
        self._existed, self._grows = place.exists(), False

    # ── the first look ──────────────────────────────────────────────────────────────────────────────────────────────

    def mend(self) -> None:
        """Bring an exchange that was cut off to its end, and remove what else a killed job has left."""
        for work in self._hidden():
            if settle(work, self.place):
                self.notes.append(f"{self.out}: an exchange that was cut off is whole now")
            if self._clear(work):
                self.notes.append(f"{self.out}: removed what a job that was killed had left in {work}")

    def close(self) -> None:
        """Leave nothing in hidden folders, unless the exchange could not come to its end."""
        for work in self._hidden():
            settle(work, self.place)
            self._clear(work)

    def _hidden(self) -> list[Path]:
        return [work for work in (self.work, self.place / INSIDE) if work.is_dir() and not work.is_symlink()]

    def _clear(self, work: Path) -> bool:
        """Remove what is in a hidden folder, and that unless it has the lock; whether there was anything."""
        left = [path for path in work.iterdir() if is_own(path) and path.name != LOCK]
        for path in left:
            discard(path)
        if work != self.work:
            (work / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                work.rmdir()
        return bool(left)

    def check_replaceable(self) -> None:
        """Make sure that all that is there was written by such a job, and is as that left it.

        Raises:
            ConfigError: the output has no list, is of another command, or holds something else; the first is named.
        """
        listing = Listing.read(self.place)
        if listing is None:
            names = sorted(path.name for path in self.place.iterdir() if path.name != INSIDE)
            raise ConfigError(
                f"{self.out}: --overwrite replaces only what {self.job} wrote, and this folder has no list of that "
                f"({NAME}; releases before this one wrote none); it holds {_some(names)}: give another --out, or, if "
                f"nothing of it is needed, remove it first: rm -r {shlex.quote(str(self.place))}"
            )
        if listing.job != self.job:
            raise ConfigError(
                f"{self.out}: --overwrite replaces only what {self.job} wrote, and this folder is of "
                f"{listing.job!r:.40}; give another --out"
            )
        self._inventory = Inventory(self.place, listing)
        foreign = self._inventory.foreign((INSIDE,))
        if foreign is not None:
            raise ConfigError(
                f"{self.out}: --overwrite replaces only what {self.job} wrote, and this folder holds {foreign.name!r}, "
                f"which {foreign.reason}; move it away, or give another --out"
            )
        self.replaces = True

    def keep_apart(self, paths: Iterable[str | Path]) -> None:
        """Refuse to write where one of these files is.

        Raises:
            ConfigError: one of them lies in the output.
        """
        check_not_inside(self.out, self.place, paths)

    def said(self) -> list[str]:
        """The notes, which are not given twice."""
        notes, self.notes = self.notes, []
        return notes

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def opened(
        self,
        *,
        grows: bool = False,
        bound: Mapping[str, Any] | None = None,
        names: Sequence[str] = (),
        mark: bool = True,
    ) -> Iterator[Path]:
        """Yield the folder to write to; when the block ends it is the output, with its list, whole.

        Args:
            grows: an output that replaces nothing is written in its place, where a later job can go on with it.
            bound: what it is made of, for such a job to compare.
            names: names and patterns of files that may be written there.
            mark: whether `_SUCCESS` is written, after all else.
        """
        self._grows = grows and not self.replaces
        self.folder = self.place if self._grows else self._hidden_new()
        self.folder.mkdir(parents=True, exist_ok=True)
        found = Listing.read(self.folder) if self._resumes else None
        self.listing = found or Listing(self.job, dict(bound or {}), tuple(names))
        if found is None:
            self.listing.begin(self.folder)
        try:
            yield self.folder
        except BaseException:
            if self._grows and not (self._resumes or self.goes_on):
                self._withdraw()
            raise
        self._seal(mark)
        if not self._grows:
            self._show()

    @contextmanager
    def part(self, name: str, made_of: str = "") -> Iterator[Path]:
        """Yield a temporary path that becomes the file `name`, listed, when the block ends without an exception."""
        with committed(self.folder / name) as temporary:
            yield temporary
            self.listing.append(self.folder, name, Content.of(temporary), made_of)
        self.goes_on = True

    def _hidden_new(self) -> Path:
        """The folder in which the new output is built: on the file system, and where need be in the folder, of the old.

        A mount point cannot be renamed, nor should the folder be in which somebody, this process too, is at home.
        """
        if self._stays and self.work.parent != self.place:
            return self.place / INSIDE / NEW
        return self.work / NEW

    @property
    def _stays(self) -> bool:
        """Whether the output must remain the folder that it is."""
        if not self.place.is_dir():
            return False
        bound = self.work.parent == self.place
        return bound or _is_home(self.place) or os.path.ismount(self.place) or _is_mounted(self.place)

    def _seal(self, mark: bool) -> None:
        """List what is not listed yet, say that the job has ended, and bring all of it to the disk."""
        names, folders = [], [self.folder]
        for name, entry in entries_below(self.folder, (INSIDE, NAME)):
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif is_temporary(Path(name)) and self._is_own_folder(name):
                Path(entry.path).unlink()  # of a job before this one, which was killed
            elif self.listing.is_open(name) or not (self._grows or name in self.listing.contents):
                names.append(name)
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            contents = pool.map(Content.of, [self.folder / name for name in names])
            for name, content in zip(names, contents, strict=True):
                self.listing.append(self.folder, name, content)
        if mark:
            self.listing.append(self.folder, SUCCESS, Content.of_bytes(b""))
        if not self.listing.finished:
            self.listing.finish(self.folder)
        if mark:
            write_text(self.folder / SUCCESS, "")
        for folder in reversed(folders):
            fsync_path(folder)

    def _is_own_folder(self, name: str) -> bool:
        folder = str(PurePosixPath(name).parent)
        return folder == "." or folder in self.listing.folders() or self.listing.may_open(folder)

    def _show(self) -> None:
        """Put the finished folder in its place."""
        work = self.folder.parent
        foreign = self._inventory.foreign((INSIDE,)) if self._inventory else None
        if foreign is not None or not (self.replaces or is_empty(self.place)):
            kept = self._visible("new")
            self.folder.rename(kept)
            what = "something" if foreign is None else f"{foreign.name!r}, which {foreign.reason},"
            raise ConfigError(f"{self.out}: {what} came there while {self.job} ran; the new output is whole in {kept}")
        if work.parent == self.place:
            take_files(work, self.place, self._own_names())
            return
        if self.place.is_dir():
            shutil.copymode(self.place, self.folder)
        take_place(work, self.place)
        self._keep_late(work)

    def _keep_late(self, work: Path) -> None:
        """Keep an old output into which something came at the very moment of the exchange."""
        for old in (work / NEW, work / OLD):
            if old.is_dir() and self._inventory is not None:
                self._inventory.folder = old
                foreign = self._inventory.foreign()
                if foreign is not None:
                    kept = self._visible("old")
                    old.rename(kept)
                    what = f"{foreign.name!r} {foreign.reason}"
                    self.notes.append(f"{self.out}: {what}; the old output is kept in {kept}")

    def _visible(self, what: str) -> Path:
        """A free name for an output that cannot have its own."""
        name = f"{what}-{secrets.token_hex(4)}"
        is_bound = self.work.parent == self.place
        return self.place / name if is_bound else self.place.with_name(f"{self.place.name}.{name}")

    def _own_names(self) -> list[str]:
        """Files of the old output."""
        return [
            name
            for name, entry in entries_below(self.place, (INSIDE,))
            if entry.is_file(follow_symlinks=False) and name != NAME
        ]

    def written(self) -> list[Path]:
        """Files of this job, hidden ones too."""
        folders = {self.work, self.place / INSIDE, self.folder} if self._grows else {self.work, self.place / INSIDE}
        found = [Path(entry.path) for folder in folders if folder.is_dir() for _, entry in entries_below(folder)]
        return [path for path in found if path.is_file()]

    def full_disk(self, error: BaseException, written: int) -> FullDiskError:
        """The error of a full disk, once what cannot be gone on with is removed."""
        goes_on = self._grows and (self._resumes or self.goes_on)
        ways = "what is whole is kept: make room, then go on with --resume"
        again = "what was begun is removed: make room, then run the same command again"
        message = full_disk(self.out, error, written, self.needs_bytes)
        return FullDiskError(f"{message}; {ways if goes_on else again}", goes_on)

    # ── going on, adding, giving up ─────────────────────────────────────────────────────────────────────────────────

    def resumed(self, bound: Mapping[str, Any], what: Mapping[str, str]) -> Inventory | None:
        """The files of a job that was stopped, if it was made of the same things; None where nothing is there.

        Args:
            bound: what the output is made of now.
            what: how each of these things is called.

        Raises:
            ConfigError: the output has no list, is of another job, or was made of other things.
        """
        if is_empty(self.place):
            return None
        listing = Listing.read(self.place)
        if listing is None or listing.job != self.job:
            raise ConfigError(
                f"{self.out}: --resume goes on with what {self.job} began, and nothing here says that it did ({NAME}); "
                "give another --out"
            )
        different = [what[name] for name, value in bound.items() if listing.bound.get(name) != value]
        if different:
            raise ConfigError(
                f"{self.out}: --resume goes on with what was made of the same things, and different from what is there "
                f"{'is' if len(different) == 1 else 'are'} {', '.join(different)}; give what was given before, another "
                "--out, or --overwrite"
            )
        self.goes_on = True
        return Inventory(self.place, listing)

    def rewrite_json(self, name: str, document: object) -> None:
        """Replace a JSON file of a finished output; its list says so before."""
        value = json_bytes(document)
        listing = Listing.read(self.place)
        if listing is not None:
            listing.append(self.place, name, Content.of_bytes(value))
        write_bytes(self.place / name, value)

    def _withdraw(self) -> None:
        """Remove what was begun in place: files of open names, the list, and folders left empty."""
        for name, entry in list(entries_below(self.place, (INSIDE,))):
            is_own = self.listing.is_open(name) or (is_temporary(Path(name)) and self._is_own_folder(name))
            if is_own and not entry.is_dir(follow_symlinks=False):
                (self.place / name).unlink(missing_ok=True)
                remove_empty((self.place / name).parent, self.place)
        (self.place / NAME).unlink(missing_ok=True)
        if not self._existed and not any(self.place.iterdir()):
            self.place.rmdir()


@contextmanager
def claimed(
    out: str | Path,
    job: str,
    *,
    arguments: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    resumable: bool = False,
    adds: bool = False,
) -> Iterator[Output]:
    """Claim an output before any data is read; another job there is refused as long as the block runs.

    Args:
        out: the folder.
        job: name of the command.
        arguments: files, folders, globs and URIs that the job reads.
        resume, overwrite: what to do with what is there.
        resumable: whether the job knows `--resume`.
        adds: whether files of an output that is there are added or written again, and nothing is replaced.

    Raises:
        ConfigError: another job writes there, input and output overlap, or what is there is not to be replaced.
        FullDiskError: the disk is full; what cannot be gone on with is removed.
    """
    out = Path(out)
    place = real_path(out)
    if resume and overwrite and resumable:
        raise ConfigError("--resume goes on with what is there and --overwrite replaces it: give one of the two")
    check_outside(out, place, arguments)
    if place.exists() and not place.is_dir():
        raise ConfigError(f"{str(out)!r} must be a folder, found {kind_of(place)}; name a folder")
    if place.is_symlink():
        raise ConfigError(f"{str(out)!r} must be a folder, found links that lead in a circle; name a folder")
    claim = Claim.of(out, place, job)
    try:
        output = Output(out, place, job, claim.work, resume)
        output.mend()
        if is_empty(place):
            Listing.read(place)  # no output, but if there is a list it is one of ours
        elif not (adds or resume):
            if not overwrite:
                ways = "--resume or --overwrite" if resumable else "--overwrite"
                raise ConfigError(f"{out}: the folder is not empty; give another --out, or {ways}")
            output.check_replaceable()
        try:
            yield output
        except BaseException as error:
            written = sum(path.stat().st_size for path in output.written()) if is_full(error) else 0
            output.close()
            if is_full(error):
                raise output.full_disk(error, written) from error
            raise
        output.close()
    finally:
        claim.release()


def settle_before_reading(path: str | Path) -> None:
    """Bring an exchange of the output at a path, or of one that it lies in, to its end where that was cut off.

    Raises:
        ConfigError: a job is writing there now, or what is there cannot be mended by this user.
    """
    try:
        place = real_path(path)
    except (OSError, RuntimeError, ValueError):
        return  # whoever reads it says what is wrong
    for folder in (place, *place.parents):
        if any((work / JOURNAL).is_file() for work in (beside(folder), folder / INSIDE)):
            with claimed(folder, "read", adds=True):
                pass


def is_empty(place: Path) -> bool:
    """Whether there is no such folder, or nothing in it but what a job that was stopped has left before its first file.

    Raises:
        ConfigError: `place` is not a folder.
    """
    if not place.exists():
        return True
    if not place.is_dir():
        raise ConfigError(f"{str(place)!r} must be a folder, found {kind_of(place)}; name a folder")
    return all(path.name in (NAME, INSIDE) or is_temporary(path) for path in place.iterdir())


def _is_home(place: Path) -> bool:
    """Whether the current folder is at or below a path."""
    try:
        return Path.cwd().is_relative_to(place)
    except FileNotFoundError:  # it has been removed
        return False


def _is_mounted(place: Path) -> bool:
    """Whether something is mounted at a path, a folder of the same file system too."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = (line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in lines)
    return os.fsencode(place) in points


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
