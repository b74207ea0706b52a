"""Parquet parts of scores or decisions: one file for each input file, each written atomically."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.shards import Shard
from mlclf.errors import ConfigError
from mlclf.outputs.building import SUCCESS
from mlclf.outputs.listing import Inventory
from mlclf.outputs.output import Output
from mlclf.progress import Progress

WHAT = {"run": "the run", "thresholds": "the thresholds", "arguments": "the arguments"}
"""What parts are made of, beside the input, as people are told of it."""


class Parts:
    """The parts of an output: one Parquet file for each file of a plan, each written atomically.

    A later job that resumes keeps the parts that were made of the same things. A part whose input has been written
    since is made anew.
    """

    def __init__(self, output: Output, plan: Plan, *, resume: bool, bound: Mapping[str, Any]) -> None:
        """Find the parts that are there already; nothing is changed yet.

        Args:
            output: claimed by the job.
            plan: the input.
            resume: whether parts are kept.
            bound: what all parts are made of, by the names of `WHAT`.

        Raises:
            ConfigError: what is there was made of other things, has changed since, or belongs to no file of the input.
        """
        self.output, self.plan, self.bound = output, plan, dict(bound)
        self.names = part_names(plan)
        self.notes: list[str] = []
        self._kept: set[str] = set()
        found = output.resumed(bound, WHAT) if resume else None
        if found is not None:
            self._look_at(found)

    def _look_at(self, found: Inventory) -> None:
        """Find the parts that can be kept."""
        sources = dict(zip(self.names, self.plan.shards, strict=True))
        anew = []
        for name in sorted({*found.listing.contents, *self.names} - {SUCCESS}):
            path = found.folder / name
            if not path.is_symlink() and not path.exists():
                continue
            reason = (
                "is not on the list of what was written" if name not in found.listing.contents else "has changed since"
            )
            if path.is_symlink() or not path.is_file() or not found.is_ours(name):
                raise ConfigError(f"{path}: {reason}; move it away, or give another --out")
            if name not in sources:
                raise ConfigError(
                    f"{path}: was made of a file that is not in the input now; give the same input, or another --out, "
                    "or --overwrite"
                )
            if found.listing.made_of.get(name) == digest_of(sources[name]):
                self._kept.add(name)
            else:
                anew.append(name)
        if anew:
            more = f" and {len(anew) - 1:,} more" if len(anew) > 1 else ""
            self.notes.append(f"{anew[0]!r}{more}: made anew, as the input has been written since")

    def write(
        self, job: str, tables: Callable[[int], Iterator[pa.Table]], no_rows: Callable[[int], pa.Table]
    ) -> Iterator[Progress]:
        """Write the parts that are missing, yielding progress; in the end comes `_SUCCESS`.

        Args:
            job: the stage of the progress.
            tables: number of a file to the rows of its part, a table for some of its rows at a time.
            no_rows: number of a file to the same columns without a row.
        """
        done, total = 0, self.plan.rows
        with self.output.opened(grows=True, bound=self.bound) as folder:
            (folder / SUCCESS).unlink(missing_ok=True)
            for index, (name, shard) in enumerate(zip(self.names, self.plan.shards, strict=True)):
                if name not in self._kept:
                    with self.output.part(name, digest_of(shard)) as temporary:
                        for rows in _written(temporary, tables(index), no_rows(index)):
                            yield Progress(job, done + rows, total)
                    yield Progress(job, done + shard.rows, total)  # the part has its name now
                done += shard.rows


def _written(path: Path, tables: Iterator[pa.Table], no_rows: pa.Table) -> Iterator[int]:
    """Write tables, the first of which fixes the schema, or else `no_rows`; yields how many rows are written."""
    first, done = next(tables, no_rows), 0
    with pq.ParquetWriter(path, first.schema, write_page_checksum=True) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            done += table.num_rows
            yield done


def empty_keys(shard: Shard, key: str | None) -> dict[str, pa.ChunkedArray]:
    """An empty key column, of the type that it has in a file."""
    if key is None or key not in shard.schema.names:
        return {}
    return {key: pa.chunked_array([], shard.schema.field(key).type)}


def part_names(plan: Plan) -> list[str]:
    """Name of each file's part below the output folder: the input's relative path, made unique.

    `a.pq` goes to `a.parquet`, and to `a.pq.parquet` where another file has that name. No part is called as a folder of
    another.
    """
    relative = [
        "/".join(part for part in Path(shard.source.relative).parts if part not in ("..", "/", "."))
        for shard in plan.shards
    ]
    wanted = [str(Path(name).with_suffix(".parquet")) for name in relative]
    names: dict[int, str] = {}
    taken, folders = set[str](), set[str]()
    by_right = sorted(range(len(wanted)), key=lambda index: (wanted[index] != relative[index], index))
    for index in by_right:
        numbered = (f"{relative[index]}-{number}.parquet" for number in count(2))
        for name in chain([wanted[index], f"{relative[index]}.parquet"], numbered):
            above = {str(folder) for folder in PurePosixPath(name).parents}
            if name not in taken and name not in folders and not above & taken:
                break
        names[index] = name
        taken.add(name)
        folders |= above
    return [names[index] for index in range(len(wanted))]


def digest_of(shard: Shard) -> str:
    """Digest that changes when a file is written: of its path, size, times and footer.

    A file on this machine that has been written since has another one, whatever its time of writing was set to.
    """
    source = shard.source
    about: list[object] = [source.name, source.size_bytes, source.version, shard.fingerprint]
    if not source.is_remote:
        status = Path(source.path).stat()
        about = [os.path.realpath(source.path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        about.append(shard.fingerprint)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def digest_of_json(document: object) -> str:
    """Digest of a JSON document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
