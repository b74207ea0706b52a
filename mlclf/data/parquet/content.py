"""What files hold: digests of their bytes, fast enough to be taken of all that is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from mlclf.data.parquet.plan import Plan
from mlclf.data.storage.byte_ranges import chunk_ranges

_WORDS = 512
_BLOCK_BYTES = 8 * _WORDS
_READ_BYTES = 4 << 20
_OPEN_FILES = 4


def content_digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hex digest of buffers, in order: the SHA-256 of the sums of their words along the rows and columns of a grid.

    As fast as memory is read, a tenth of the time of a SHA-256 of all bytes. A change of up to three words is always
    seen, and any other that does not leave every sum as it was. It tells damage, not forgery.
    """
    digest = hashlib.sha256()
    for part in parts:
        whole = len(part) // _BLOCK_BYTES * _BLOCK_BYTES
        grid = np.frombuffer(part, np.uint64, whole // 8).reshape(-1, _WORDS)
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(np.add.reduce(grid, axis=1).tobytes())
        digest.update(np.add.reduce(grid, axis=0).tobytes())
        digest.update(part[whole:])
    return digest.hexdigest()


class Contents:
    """Digests of the units of a plan, of the columns that are read: taken on the threads that read them.

    A remote file is told by its version instead, which its storage gives, so that nothing is fetched twice.
    """

    def __init__(self, plan: Plan, columns: Sequence[str]) -> None:
        self._plan, self._columns = plan, columns
        self._digests: dict[int, str] = {}
        self._footers: dict[int, pq.FileMetaData] = {}

    def add(self, index: int) -> None:
        """Take the digest of a unit."""
        unit = self._plan.units[index]
        shard = self._plan.shards[unit.shard]
        stored = [name for name in self._columns if name not in shard.partition]
        if shard.source.is_remote:
            self._digests[index] = repr(shard.source.stamp)
            return
        with open(shard.source.path, "rb", buffering=0) as file:  # noqa: PTH123  # the path may be bytes of any kind
            ranges = chunk_ranges(self._footer(unit.shard), unit.groups, stored, shard.source.size_bytes)
            parts = []
            for start, end in ranges:
                for place in range(start, end, _READ_BYTES):
                    file.seek(place)
                    parts.append(content_digest([file.read(min(_READ_BYTES, end - place))]))
        self._digests[index] = " ".join(parts)

    def _footer(self, index: int) -> pq.FileMetaData:
        """The footer of a file, parsed; those that the plan did not keep are kept while they are in use."""
        shard = self._plan.shards[index]
        found = shard.metadata or self._footers.get(index)
        if found is None:
            found = pq.read_metadata(shard.source.path)
            if len(self._footers) >= _OPEN_FILES:
                self._footers = {}
            self._footers[index] = found
        return found

    def add_all(self, order: Sequence[int], threads: int) -> None:
        """Take the digests of units that nothing else reads now."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self.add, order))

    def of_files(self) -> list[str]:
        """A hex digest for each file of the plan: of its partition, columns and the units that were read."""
        found = [hashlib.sha256(repr((sorted(self._columns), s.partition)).encode()) for s in self._plan.shards]
        for index, digest in sorted(self._digests.items()):
            unit = self._plan.units[index]
            found[unit.shard].update(f"{unit.groups} {digest}\n".encode())
        return [one.hexdigest()[:32] for one in found]
