"""A data set written anew: `shuffle` puts its rows in random order, in well-sized row groups with page checksums.

Every row draws a random number from (seed, unit). The first pass deals the rows to buckets on disk, each of which holds
the rows whose numbers lie in one range; the second reads bucket after bucket, sorts its rows by their numbers and
writes them. So the order is the same whatever the budget, and memory holds little more than one bucket.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlclf.config import Settings
from mlclf.data.decode import decode_unit
from mlclf.data.shards import Plan, Unit, first_line, listed, make_plan
from mlclf.errors import ConfigError, DataError
from mlclf.files import committed, folder_is_empty, is_temporary, swap_folder, write_text

LEAST_BUDGET_BYTES = 16 << 20
MAX_HELD_BYTES = 256 << 20
"""Beyond it larger buckets save no work."""

BUCKET_FILL = 0.6
"""Mean size of a bucket, as a share of the most that is held: buckets differ by chance."""

MAX_BUCKETS = 1_024
LEAST_SLICE_BYTES = 1 << 16
SLICE_BYTES_PER_COLUMN = 256
"""What is written to a bucket at once is worth its headers."""

PIECE_ROWS = 16_384
GROUP_ROWS, LEAST_GROUP_ROWS = 65_536, 1_024
GROUP_BYTES = 32 << 20
FILE_BYTES, FILE_GROUPS = 1 << 30, 16

CODEC = "snappy"
"""Training reads the files many times, and rows of snappy decode 2.7 times as fast as rows of zstd."""

SPILL = pa.ipc.IpcWriteOptions(compression="lz4")
TOP_BITS = 32
"""The upper bits of a row's number decide its bucket."""


@dataclass(frozen=True)
class Step:
    """Where the job is: `done` of `total` rows of a stage, and a line to show, if any."""

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Shuffled:
    """What was written."""

    folder: Path
    rows: int
    files: int
    row_groups: int


def shuffle(
    data: str | Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Shuffled:
    """Write the rows of a data set in random order, the same for the same seed, as Parquet files in `out`.

    All columns are kept; those that the folders' names give become columns. Where shards differ in the type of a
    column, it gets the narrowest type that holds all of them; a column that a shard lacks is null there. The disk that
    `out` is on holds the rows twice for a while. `out` appears whole, or stays as it was.

    Args:
        data: files, folders, globs or URIs.
        out: the folder to write, on local disk.
        seed: 0 or more.
        overwrite: replace what an earlier shuffle wrote to `out`.
        memory_budget: bytes that the rows in memory may occupy; None for `runtime.memory_budget`.

    Raises:
        ConfigError: `out` is not empty, or overlaps the input; the seed or the budget is out of range.
        DataError: the data cannot be read, or shards have types for a column that do not go together.
    """
    steps = shuffle_steps(data, out, seed=seed, overwrite=overwrite, memory_budget=memory_budget)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Shuffled = stop.value
            return result


def shuffle_steps(
    data: str | Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    memory_budget: int | None = None,
) -> Generator[Step, None, Shuffled]:
    """The job of `shuffle`, yielding progress; returns what was written."""
    folder, arguments = Path(out), [data] if isinstance(data, str) else list(data)
    budget = Settings().runtime.memory_budget if memory_budget is None else memory_budget
    _check_numbers(seed, budget)
    _check_out(folder, arguments, overwrite)
    plan = make_plan(arguments)
    _check_sources(folder, plan)
    schema = unified_schema(plan)
    for warning in plan.warnings:
        yield Step("data", note=warning)
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_name(f".{place.name[:50]}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        (work / "buckets").mkdir(parents=True)
        result = yield from _shuffled(plan, schema, seed, budget, work)
        write_text(work / "data" / "_SUCCESS", "")
        swap_folder(work / "data", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Shuffled(folder, *result)


def _shuffled(
    plan: Plan, schema: pa.Schema, seed: int, budget: int, work: Path
) -> Generator[Step, None, tuple[int, int, int]]:
    """The two passes; returns the numbers of rows, files and row groups."""
    dealer = _Dealer(plain_schema(schema), work / "buckets", min(MAX_HELD_BYTES, budget // 4))
    buckets = dealer.buckets(0, 1 << TOP_BITS, sum(unit.rows * (unit.row_bytes + 8) for unit in plan.units))
    for done in dealer.deal(_numbered(plan, dealer, seed), buckets):
        yield Step("deal", done, plan.rows)
    row_bytes = sum(bucket.num_bytes for bucket in buckets) / plan.rows
    groups = even_parts(plan.rows, group_rows(row_bytes, budget))
    files = even_parts(len(groups), max(FILE_GROUPS, int(FILE_BYTES / (groups[0] * row_bytes))))
    tables = cut((table for bucket in buckets for table in dealer.sorted(bucket)), groups)
    done = 0
    for index, count in enumerate(files):
        with (
            committed(work / "data" / f"part-{index:05d}.parquet") as temporary,
            pq.ParquetWriter(
                temporary, schema, compression=CODEC, use_dictionary=repeating(schema), write_page_checksum=True
            ) as writer,
        ):
            for table in islice(tables, count):
                writer.write_table(table if table.schema.types == schema.types else table.cast(schema), GROUP_ROWS)
                done += table.num_rows
                yield Step("write", done, plan.rows)
    return done, len(files), len(groups)


def group_rows(row_bytes: float, budget: int) -> int:
    """Rows of a row group: GROUP_BYTES of them, if these are neither too few nor too many for the reader.

    >>> group_rows(400, 512 << 20), group_rows(4096, 512 << 20), group_rows(1 << 20, 512 << 20)
    (65536, 8192, 256)
    """
    wanted = min(GROUP_ROWS, max(LEAST_GROUP_ROWS, int(min(GROUP_BYTES, budget / 4) / row_bytes)))
    return max(1, min(wanted, int(budget / 2 / row_bytes)))


def repeating(schema: pa.Schema) -> list[str]:
    """Paths of the stored columns that are worth a dictionary: all but floats.

    These hardly repeat; with a dictionary they take more room, and twice the time to write.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    stored = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    leaves = [stored.column(index) for index in range(len(stored.names))]
    return [leaf.path for leaf in leaves if leaf.physical_type not in ("FLOAT", "DOUBLE")]


def even_parts(total: int, most: int) -> list[int]:
    """Sizes of the fewest parts that have at most `most` each, the larger ones first.

    >>> even_parts(10, 4)
    [4, 3, 3]
    """
    count = -(-total // most)
    size, larger = divmod(total, count)
    return [size + 1] * larger + [size] * (count - larger)


def cut(tables: Iterable[pa.Table], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the rows of `tables`, which are as many, in tables of these sizes."""
    source = iter(tables)
    waiting: list[pa.Table] = []
    for size in sizes:
        while sum(table.num_rows for table in waiting) < size:
            waiting.append(next(source))
        whole = pa.concat_tables(waiting)
        waiting = [whole.slice(size)] if whole.num_rows > size else []
        part = whole.slice(0, size)
        del whole
        yield part


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def _check_numbers(seed: int, budget: int) -> None:
    if seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {seed}")
    if budget < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"--memory-budget must be at least {LEAST_BUDGET_BYTES >> 20} MiB ({LEAST_BUDGET_BYTES:,} bytes), "
            f"got {budget:,} bytes"
        )


def _check_out(folder: Path, arguments: Sequence[str], overwrite: bool) -> None:
    """Refuse a folder that belongs to somebody else, before any data is read."""
    place = folder.resolve()
    for argument in arguments:
        for given in _folders(argument):
            if place.is_relative_to(given.resolve()):
                raise ConfigError(f"{folder}: --out must not be in the input folder {given}; give another --out")
    if folder_is_empty(folder):
        return
    if not overwrite:
        raise ConfigError(f"{folder}: the folder is not empty; give another --out, or --overwrite")
    strange = [path.name for path in sorted(folder.iterdir()) if not _is_own(path)]
    if strange:
        raise ConfigError(
            f"{folder}: --overwrite replaces only what shuffle wrote, and this folder holds {strange[0]!r}; "
            "give another --out"
        )


def _folders(argument: str) -> list[Path]:
    """The local folders that an argument names."""
    is_uri = argument.startswith("file://")
    path = unquote(argument.removeprefix("file://").removeprefix("localhost")) if is_uri else argument
    if Path(path).is_dir():
        return [Path(path)]
    found = glob(path, recursive=True) if has_magic(path) else []  # noqa: PTH207  # Path.glob refuses absolute patterns
    return [Path(match) for match in found if Path(match).is_dir()]


def _is_own(path: Path) -> bool:
    number = path.name.removeprefix("part-").removesuffix(".parquet")
    is_part = path.name == f"part-{number}.parquet" and number.isdigit()
    return is_part or path.name == "_SUCCESS" or is_temporary(path)


def _check_sources(folder: Path, plan: Plan) -> None:
    """Refuse to replace a folder that holds a part of the input."""
    for shard in plan.shards:
        local = isinstance(shard.source.filesystem, pafs.LocalFileSystem)
        if local and Path(shard.source.path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder}: --out must not hold the input {shard.source.name}; give another --out")


# ── one schema for all shards ───────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Column:
    """A column of the unified schema: its field, and the type and the file that last decided it."""

    field: pa.Field
    kind: pa.DataType
    file: str
    shards: int = 1


def unified_schema(plan: Plan) -> pa.Schema:
    """Return one schema for all shards, columns in the order in which they turn up.

    Metadata is kept where all shards agree on it. A dictionary column stays one if it is one in every shard.

    Raises:
        DataError: types do not go together, or there is no column; names every such column once.
    """
    columns: dict[str, _Column] = {}
    problems: dict[str, str] = {}
    for shard in plan.shards:
        for found in shard.schema:
            name, file = found.name, shard.source.name
            known = columns.get(name)
            if known is None:
                columns[name] = _Column(_unordered(found), found.type, file)
                continue
            known.shards += 1
            merged = _merged(known.field, found)
            if merged is None:
                problems.setdefault(
                    name,
                    f"column {name!r} must have types that go together, got {known.kind} in {known.file} and "
                    f"{found.type} in {file}",
                )
            elif merged.type != known.field.type:
                columns[name] = _Column(merged, found.type, file, known.shards)
            else:
                known.field = merged
    if problems:
        raise DataError(listed(list(problems.values())) + "\ncast it where the files are written")
    if not columns:
        raise DataError("the data has no columns; check the path or the export that wrote the files")
    everywhere = len(plan.shards)
    fields = [c.field if c.shards == everywhere else c.field.with_nullable(True) for c in columns.values()]
    return pa.schema(fields, _agreed([shard.schema.metadata for shard in plan.shards]))


def _unordered(found: pa.Field) -> pa.Field:
    """A field whose dictionary, if it has one, has room for the values of all shards, in no order of their own."""
    if not pa.types.is_dictionary(found.type):
        return found.with_type(plain(found.type))
    return found.with_type(pa.dictionary(pa.int32(), plain(found.type.value_type)))


def _merged(known: pa.Field, found: pa.Field) -> pa.Field | None:
    """One field for both, None where their types do not go together."""
    metadata = _agreed([known.metadata, found.metadata])
    nullable = known.nullable or found.nullable
    kind = _merged_type(known.type, _unordered(found).type)
    return None if kind is None else pa.field(known.name, kind, nullable, metadata)


def _merged_type(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if kind == other:
        return kind
    kind, other = plain(kind), plain(other)
    if pa.types.is_null(kind) or pa.types.is_null(other):
        return other if pa.types.is_null(kind) else kind
    if _is_number(kind) and _is_number(other):  # Arrow does not merge booleans with integers
        kind, other = (pa.int8() if pa.types.is_boolean(each) else each for each in (kind, other))
    if _is_text(kind) != _is_text(other):
        return None  # Arrow would make them binary
    sizes = {each.list_size if pa.types.is_fixed_size_list(each) else None for each in (kind, other)}
    if len(sizes) > 1:
        return None  # Arrow would make them lists of any length
    try:
        schemas = [pa.schema([pa.field("", each)]) for each in (kind, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _agreed(metadata: Sequence[dict[bytes, bytes] | None]) -> dict[bytes, bytes] | None:
    """The entries that all have."""
    first, *others = [each or {} for each in metadata]
    return {key: value for key, value in first.items() if all(each.get(key) == value for each in others)} or None


def plain(kind: pa.DataType) -> pa.DataType:
    """The type whose values stand for themselves: dictionaries looked up, views of text and bytes laid out."""
    types = pa.types
    if types.is_dictionary(kind):
        return plain(kind.value_type)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted)
    if types.is_struct(kind):
        return pa.struct([_plain_field(inner) for inner in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return kind


def _plain_field(inner: pa.Field) -> pa.Field:
    return inner.with_type(plain(inner.type))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the rows while they are dealt."""
    return pa.schema([_plain_field(each) for each in schema])


# ── buckets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Bucket:
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
class _Held:
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
class _Dealer:
    """Deals rows to buckets in a folder and gives them back in the order of their numbers.

    Attributes:
        schema: of the rows; their numbers come after its columns.
        held_bytes: the most that is held of rows to deal, and of a bucket.
    """

    schema: pa.Schema
    folder: Path
    held_bytes: int
    made: int = 0

    def buckets(self, low: int, high: int, num_bytes: float) -> list[_Bucket]:
        """New buckets for the rows of a range, which are about so large."""
        slices = max(LEAST_SLICE_BYTES, SLICE_BYTES_PER_COLUMN * len(self.schema))
        most = min(MAX_BUCKETS, max(2, self.held_bytes // slices), high - low)
        count = max(1, min(most, int(num_bytes / (BUCKET_FILL * self.held_bytes)) + 1))
        bounds = [low + (high - low) * index // count for index in range(count + 1)]
        self.made += count
        names = [f"{self.made - count + index}.arrows" for index in range(count)]
        return [_Bucket(self.folder / name, *bounds[index : index + 2]) for index, name in enumerate(names)]

    def deal(self, pieces: Iterable[Sequence[pa.Array]], buckets: Sequence[_Bucket]) -> Iterator[int]:
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

    def _spill(self, held: _Held, buckets: Sequence[_Bucket]) -> None:
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

    def sorted(self, bucket: _Bucket) -> Iterator[pa.Table]:
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

    def nothing(self) -> _Held:
        return _Held([[] for _ in range(len(self.schema) + 1)])


def _numbered(plan: Plan, dealer: _Dealer, seed: int) -> Iterator[list[pa.Array]]:
    """Every row in the order of the plan, in pieces: its columns, then its number."""
    seen = 1.0
    for index, unit in enumerate(plan.units):
        random = np.random.Philox(key=np.random.SeedSequence([seed, index]).generate_state(2, np.uint64))
        names = plan.shards[unit.shard].schema.names
        rows = int(max(1, min(PIECE_ROWS, dealer.held_bytes / 4 / max(seen, unit.row_bytes))))
        for first_row, table in decode_unit(plan, unit, names, rows):
            arrays = aligned(table, dealer.schema, plan, unit, first_row)
            seen = max(seen, sum(array.nbytes for array in arrays) / table.num_rows)
            yield [*arrays, pa.array(random.random_raw(table.num_rows))]


def aligned(table: pa.Table, schema: pa.Schema, plan: Plan, unit: Unit, first_row: int) -> list[pa.Array]:
    """The columns of the schema: cast where they are of another type, null where they are missing.

    Raises:
        DataError: a value does not fit the type that the column has by all files together.
    """
    arrays = []
    for column in schema:
        if column.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, column.type))
            continue
        chunks = table.column(column.name)
        array = chunks.chunk(0) if chunks.num_chunks == 1 else pa.concat_arrays(chunks.chunks)
        try:
            arrays.append(array if array.type == column.type else array.cast(column.type))
        except pa.ArrowException as error:
            place = plan.place_of(plan.groups_of(first_row, table.num_rows))
            raise DataError(
                f"{place} column {column.name!r}: {array.type} must become {column.type}, the type that holds "
                f"what all files have ({first_line(error)}); cast it where the files are written"
            ) from error
    return arrays
