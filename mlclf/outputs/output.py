"""One output of a command, from the first look at `--out` to the moment at which it is whole."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlclf.errors import ConfigError, FullDiskError
from mlclf.files import full_disk, is_full, json_bytes, real_path, write_bytes
from mlclf.given_files import found_at
from mlclf.messages import some_of
from mlclf.outputs.apart import check_not_inside, check_outside
from mlclf.outputs.building import Building
from mlclf.outputs.claims import INSIDE, Claim, beside, is_empty
from mlclf.outputs.exchange import JOURNAL
from mlclf.outputs.listing import NAME, Content, Inventory, Listing, entries_below
from mlclf.outputs.replacement import new_folder, put_in_place


class Output:
    """A claimed `--out`; see `claimed`.

    Attributes:
        work: the hidden folder for what is not to be seen.
        needs_bytes: what the job is going to write, as far as it knows.
        goes_on: whether a later job can go on with what is there after an error.
    """

    def __init__(self, claim: Claim, resumes: bool, replaced: Inventory | None, notes: list[str]) -> None:
        self._claim, self._resumes, self._replaced, self._notes = claim, resumes, replaced, notes
        self.work = claim.work
        self.needs_bytes = 0
        self.goes_on = False
        self._existed = claim.place.exists()
        self._building: Building | None = None

    def said(self) -> list[str]:
        """Notes for the user since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def keep_apart(self, paths: Iterable[str | Path]) -> None:
        """Refuse to write where one of these files is.

        Raises:
            ConfigError: one of them lies in the output.
        """
        check_not_inside(self._claim.out, self._claim.place, paths)

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
        in_place = grows and self._replaced is None
        folder = self._claim.place if in_place else new_folder(self._claim)
        folder.mkdir(parents=True, exist_ok=True)
        found = Listing.read(folder) if self._resumes else None
        listing = found or Listing(self._claim.job, dict(bound or {}), tuple(names))
        building = self._building = Building(folder, listing, in_place)
        if found is None:
            listing.begin(folder)
        try:
            yield folder
        except BaseException:
            if in_place and not (self._resumes or self.goes_on):
                building.withdraw(self._existed)
            raise
        building.seal(mark)
        if not in_place:
            self._notes += put_in_place(self._claim, folder, self._replaced)

    @contextmanager
    def part(self, name: str, made_of: str = "") -> Iterator[Path]:
        """Yield a temporary path that becomes the file `name`, listed, when the block ends without an exception."""
        assert self._building is not None  # inside `opened`
        with self._building.part(name, made_of) as temporary:
            yield temporary
        self.goes_on = True

    def rewrite_json(self, name: str, document: object) -> None:
        """Replace a JSON file of a finished output; its list says so before."""
        value, place = json_bytes(document), self._claim.place
        listing = Listing.read(place)
        if listing is not None:
            listing.append(place, name, Content.of_bytes(value))
        write_bytes(place / name, value)

    # ── going on, giving up ─────────────────────────────────────────────────────────────────────────────────────────

    def resumed(self, bound: Mapping[str, Any], what: Mapping[str, str]) -> Inventory | None:
        """The files of a stopped job that this one can resume; None where there are none.

        Args:
            bound: what the output is made of now.
            what: how each of these things is called.

        Raises:
            ConfigError: the output has no list, is of another job, or was made of other things.
        """
        out, place, job = self._claim.out, self._claim.place, self._claim.job
        if is_empty(place):
            return None
        listing = Listing.read(place)
        if listing is None or listing.job != job:
            raise ConfigError(
                f"{out}: --resume goes on with what {job} began, and nothing here says that it did ({NAME}); "
                "give another --out"
            )
        different = [what[name] for name, value in bound.items() if listing.bound.get(name) != value]
        if different:
            raise ConfigError(
                f"{out}: --resume goes on with what was made of the same things, and different from what is there "
                f"{'is' if len(different) == 1 else 'are'} {', '.join(different)}; give what was given before, another "
                "--out, or --overwrite"
            )
        self.goes_on = True
        return Inventory(place, listing)

    def written_bytes(self) -> int:
        """Bytes of the files of this job, hidden ones too."""
        folders = {self.work, self._claim.place / INSIDE}
        if self._building is not None and self._building.in_place:
            folders.add(self._building.folder)
        found = [Path(entry.path) for folder in folders if folder.is_dir() for _, entry in entries_below(folder)]
        return sum(path.stat().st_size for path in found if path.is_file())

    def full_disk(self, error: BaseException, written: int) -> FullDiskError:
        """The error of a full disk, once what cannot be gone on with is removed."""
        in_place = self._building is not None and self._building.in_place
        goes_on = in_place and (self._resumes or self.goes_on)
        ways = "what is whole is kept: make room, then go on with --resume"
        again = "what was begun is removed: make room, then run the same command again"
        message = full_disk(self._claim.out, error, written, self.needs_bytes)
        return FullDiskError(f"{message}; {ways if goes_on else again}", goes_on)


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
        raise ConfigError(f"{str(out)!r} must be a folder, found {found_at(place) or 'a file'}; name a folder")
    if place.is_symlink():
        raise ConfigError(f"{str(out)!r} must be a folder, found links that lead in a circle; name a folder")
    claim = Claim.of(out, place, job)
    try:
        notes, replaced = claim.mend(), None
        if is_empty(place):
            Listing.read(place)  # no output, but if there is a list it is one of ours
        elif not (adds or resume):
            if not overwrite:
                ways = "--resume or --overwrite" if resumable else "--overwrite"
                raise ConfigError(f"{out}: the folder is not empty; give another --out, or {ways}")
            replaced = _replaceable(claim)
        output = Output(claim, resume, replaced, notes)
        try:
            yield output
        except BaseException as error:
            written = output.written_bytes() if is_full(error) else 0
            claim.clean()
            if is_full(error):
                raise output.full_disk(error, written) from error
            raise
        claim.clean()
    finally:
        claim.release()


def _replaceable(claim: Claim) -> Inventory:
    """The files of an output, all of which were written by such a job and are as that left them.

    Raises:
        ConfigError: the output has no list, is of another command, or holds something else; the first is named.
    """
    out, place, job = claim.out, claim.place, claim.job
    listing = Listing.read(place)
    if listing is None:
        names = sorted(path.name for path in place.iterdir() if path.name != INSIDE)
        raise ConfigError(
            f"{out}: --overwrite replaces only what {job} wrote, and this folder has no list of that "
            f"({NAME}; releases before this one wrote none); it holds {some_of(names)}: give another --out, or, if "
            f"nothing of it is needed, remove it first: rm -r {shlex.quote(str(place))}"
        )
    if listing.job != job:
        raise ConfigError(
            f"{out}: --overwrite replaces only what {job} wrote, and this folder is of {listing.job!r:.40}; "
            "give another --out"
        )
    inventory = Inventory(place, listing)
    foreign = inventory.foreign((INSIDE,))
    if foreign is not None:
        raise ConfigError(
            f"{out}: --overwrite replaces only what {job} wrote, and this folder holds {foreign.name!r}, "
            f"which {foreign.reason}; move it away, or give another --out"
        )
    return inventory


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
