"""Rows dealt to buckets on disk by a random number, and given back in its order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BUCKET_FILL = 0.6
"""Mean size of a bucket, as a share of the most that is held: buckets differ by chance."""

MAX_BUCKETS = 1_024
LEAST_SLICE_BYTES = 1 << 16
SLICE_BYTES_PER_COLUMN = 256
"""What is written to a bucket at once is worth its headers."""

SPILL = pa.ipc.IpcWriteOptions(compression="lz4")
TOP_BITS = 32
"""The upper bits of a row's number decide its bucket."""


@dataclass
class Bucket:
    """Rows on disk whose numbers have upper bits in [low, high), as Arrow streams one after the other.

    No file stays open between two of them, so the number of buckets is not bounded by the system's limit.
    """

    path: Path
    low: int
    high: int
    num_bytes: int = 0

    def append(self, batch: pa.RecordBatch) -> None:
        with self.path.open("ab") as file, pa.ipc.new_stream(file, batch.schema, options=SPILL) as stream:
            stream.write_batch(batch)
        self.num_bytes += batch.nbytes

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in the order in which they came; the file is removed at the end."""
        if not self.path.exists():
            return
        with pa.OSFile(str(self.path)) as file:
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as stream:
                    yield from stream
        self.path.unlink()


@dataclass
class Held:
    """Rows in memory: the chunks of every column, the last of which holds the rows' numbers."""

    columns: list[list[pa.Array]]
    num_bytes: int = 0

    def add(self, arrays: Sequence[pa.Array]) -> None:
        for chunks, array in zip(self.columns, arrays, strict=True):
            chunks.append(array)
            self.num_bytes += array.nbytes

    def numbers(self) -> NDArray[np.uint64]:
        """[n] uint64."""
        return np.concatenate([chunk.to_numpy() for chunk in self.columns[-1]])

    def take(self, order: NDArray[np.int64]) -> list[pa.Array]:
        """The columns with their rows in this order; nothing is held after it, each column given up in its turn."""
        index, arrays = pa.array(order), []
        for chunks in self.columns:
            array = pa.concat_arrays(chunks)
            chunks.clear()
            arrays.append(array.take(index))
        self.num_bytes = 0
        return arrays


@dataclass
class Dealer:
    """Deals rows to buckets in a folder and gives them back in the order of their numbers.

    Attributes:
        schema: of the rows; their numbers come after its columns.
        held_bytes: the most that is held of rows to deal, and of a bucket.
    """

    schema: pa.Schema
    folder: Path
    held_bytes: int
    made: int = 0

    def buckets(self, low: int, high: int, num_bytes: float) -> list[Bucket]:
        """New buckets for the rows of a range, which are about so large."""
        slices = max(LEAST_SLICE_BYTES, SLICE_BYTES_PER_COLUMN * len(self.schema))
        most = min(MAX_BUCKETS, max(2, self.held_bytes // slices), high - low)
        count = max(1, min(most, int(num_bytes / (BUCKET_FILL * self.held_bytes)) + 1))
        bounds = [low + (high - low) * index // count for index in range(count + 1)]
        self.made += count
        names = [f"{self.made - count + index}.arrows" for index in range(count)]
        return [Bucket(self.folder / name, *bounds[index : index + 2]) for index, name in enumerate(names)]

    def deal(self, pieces: Iterable[Sequence[pa.Array]], buckets: Sequence[Bucket]) -> Iterator[int]:
        """Put each row into its bucket, yielding the number of rows so far."""
        held, done = self.nothing(), 0
        for arrays in pieces:
            held.add(arrays)
            done += len(arrays[-1])
            if held.num_bytes >= self.held_bytes:
                self._spill(held, buckets)
            yield done
        if held.num_bytes:
            self._spill(held, buckets)

    def _spill(self, held: Held, buckets: Sequence[Bucket]) -> None:
        lows = np.array([bucket.low for bucket in buckets], np.uint64)
        places = np.searchsorted(lows, held.numbers() >> np.uint64(64 - TOP_BITS), "right").astype(np.uint16) - 1
        order = np.argsort(places, kind="stable")
        counts = np.bincount(places, minlength=len(buckets)).tolist()
        batch = pa.RecordBatch.from_arrays(held.take(order), [str(index) for index in range(len(held.columns))])
        start = 0
        for bucket, count in zip(buckets, counts, strict=True):
            if count:
                bucket.append(batch.slice(start, count))
            start += count

    def sorted(self, bucket: Bucket) -> Iterator[pa.Table]:
        """The rows of a bucket by their numbers; one that is too large for memory is dealt again."""
        if bucket.num_bytes > self.held_bytes and bucket.high - bucket.low > 1:
            parts = self.buckets(bucket.low, bucket.high, bucket.num_bytes)
            for _ in self.deal((batch.columns for batch in bucket.batches()), parts):
                pass
            for part in parts:
                yield from self.sorted(part)
            return
        held = self.nothing()
        for batch in bucket.batches():
            held.add(batch.columns)
        if held.num_bytes:
            order = np.argsort(held.numbers(), kind="stable")
            yield pa.Table.from_arrays(held.take(order)[:-1], schema=self.schema)

    def nothing(self) -> Held:
        return Held([[] for _ in range(len(self.schema) + 1)])
