"""The folder in which a new output is written, and its list."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlclf.files import committed, fsync_path, is_temporary, write_text
from mlclf.outputs.claims import INSIDE
from mlclf.outputs.exchange import remove_empty
from mlclf.outputs.listing import HASH_THREADS, NAME, Content, Listing, entries_below

SUCCESS = "_SUCCESS"


@dataclass(frozen=True)
class Building:
    """An output that is being written.

    Attributes:
        folder: where its files are.
        listing: what was written there.
        in_place: whether the folder is the output itself, where a later job can go on with it.
    """

    folder: Path
    listing: Listing
    in_place: bool

    @contextmanager
    def part(self, name: str, made_of: str) -> Iterator[Path]:
        """Yield a temporary path that becomes the file `name`, listed, when the block ends without an exception."""
        with committed(self.folder / name) as temporary:
            yield temporary
            self.listing.append(self.folder, name, Content.of(temporary), made_of)

    def seal(self, mark: bool) -> None:
        """Complete the file list, mark the job as finished, and fsync everything.

        Args:
            mark: whether `_SUCCESS` is written, after all else.
        """
        names, folders = [], [self.folder]
        for name, entry in entries_below(self.folder, (INSIDE, NAME)):
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif self._is_left_over(name):
                Path(entry.path).unlink()
            elif self.listing.is_open(name) or not (self.in_place or name in self.listing.contents):
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

    def withdraw(self, existed: bool) -> None:
        """Remove an unfinished output: its unlisted files, its file list, and folders left empty.

        Args:
            existed: whether the folder was there before, and stays.
        """
        for name, entry in list(entries_below(self.folder, (INSIDE,))):
            if (self.listing.is_open(name) or self._is_left_over(name)) and not entry.is_dir(follow_symlinks=False):
                (self.folder / name).unlink(missing_ok=True)
                remove_empty((self.folder / name).parent, self.folder)
        (self.folder / NAME).unlink(missing_ok=True)
        if not existed and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _is_left_over(self, name: str) -> bool:
        """Whether a file is a temporary one that a killed job left in a folder of this output."""
        folder = str(PurePosixPath(name).parent)
        is_own_folder = folder == "." or folder in self.listing.folders() or self.listing.may_open(folder)
        return is_own_folder and is_temporary(Path(name))
