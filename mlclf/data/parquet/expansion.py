"""What text takes once its dictionary is looked up, which no footer says: 250 KB may hold a megabyte 20,000 times over.

Before a row group is decoded for the first time its dictionaries are read. Where their longest value could make the
rows of a piece too large, the column is read as codes, and what its values take is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlclf.data.arrow.arrays import is_bytes, is_list, is_text
from mlclf.data.parquet.plan import Unit
from mlclf.data.parquet.shards import Shard
from mlclf.errors import DataError
from mlclf.messages import quoted

MOST_PIECE_BYTES = 256 << 20
"""Of one column in a piece, which is decoded as a whole."""

COUNTED_ROWS = 4_096
KEPT_RESULTS = 100_000

_lock = Lock()
_sound: OrderedDict[tuple[str, str, int, str], None] = OrderedDict()
"""Columns of row groups that were found to be small, by path and version of the file."""


def check_expansion(shard: Shard, unit: Unit, columns: Sequence[str], piece_rows: int) -> None:
    """Refuse columns of text whose values take too much in pieces of so many rows.

    Raises:
        DataError: names file, row group, column and what its values take.
    """
    if shard.source.is_remote or not shard.source.version:
        return
    texts = [name for name in columns if any(map(_is_of_any_length, _leaves(shard.schema.field(name).type)))]
    for group in unit.groups if texts else ():
        rows = min(piece_rows, shard.group_rows[group])
        if rows * shard.group_bytes[group] > MOST_PIECE_BYTES:
            unknown = [name for name in texts if _key(shard, group, name) not in _sound]
            if unknown:
                _check_group(shard, group, unknown, rows)
                _remember(shard, group, unknown)


def _key(shard: Shard, group: int, name: str) -> tuple[str, str, int, str]:
    return shard.source.path, shard.source.version, group, name


def _remember(shard: Shard, group: int, names: Sequence[str]) -> None:
    with _lock:
        for name in names:
            _sound[_key(shard, group, name)] = None
        while len(_sound) > KEPT_RESULTS:
            _sound.popitem(last=False)


def _check_group(shard: Shard, group: int, names: Sequence[str], piece_rows: int) -> None:
    metadata = shard.metadata or pq.read_metadata(shard.source.path, filesystem=shard.source.filesystem)
    with pq.ParquetFile(
        shard.source.path,
        filesystem=shard.source.filesystem,
        metadata=metadata,
        read_dictionary=_paths(metadata, names),
        pre_buffer=False,
        buffer_size=1 << 16,
    ) as file:
        first = next(file.iter_batches(1, row_groups=[group], columns=list(names), use_threads=False), None)
        if first is None:
            return
        for name in first.schema.names:
            longest = max((_longest(array) for array in _dictionaries(first.column(name))), default=0)
            if longest * piece_rows > MOST_PIECE_BYTES:
                _check_column(shard, file, group, name, piece_rows)


def _check_column(shard: Shard, file: pq.ParquetFile, group: int, name: str, piece_rows: int) -> None:
    """Count what the values of a column take, piece by piece."""
    rows, total = 0, 0
    for batch in file.iter_batches(
        min(COUNTED_ROWS, piece_rows), row_groups=[group], columns=[name], use_threads=False
    ):
        total += sum(map(_looked_up_bytes, _dictionaries(batch.column(0))))
        rows += batch.num_rows
        if total > MOST_PIECE_BYTES:
            raise DataError(
                f"{shard.source.name} row group {group} column {quoted(name)}: the values of {piece_rows:,} rows must "
                f"take at most {MOST_PIECE_BYTES:,} bytes, found {total:,} in {rows:,} rows, which the file holds once "
                "and refers to; leave the column out of a fit with --exclude, or write row groups of fewer rows"
            )
        if rows >= piece_rows:
            rows, total = 0, 0


def _leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not kind.num_fields:
        yield kind
    for index in range(kind.num_fields):
        yield from _leaves(kind.field(index).type)


def _is_of_any_length(kind: pa.DataType) -> bool:
    return is_text(kind) or (is_bytes(kind) and not pa.types.is_fixed_size_binary(kind))


def _paths(metadata: pq.FileMetaData, names: Sequence[str]) -> list[str]:
    """Paths of the stored columns of text in columns."""
    stored = (metadata.schema.column(index) for index in range(metadata.num_columns))
    starts = tuple(f"{name}." for name in names)
    return [
        column.path
        for column in stored
        if column.physical_type == "BYTE_ARRAY" and (column.path in names or column.path.startswith(starts))
    ]


def _dictionaries(array: pa.Array) -> Iterator[pa.DictionaryArray]:
    """The dictionary arrays in an array."""
    kind, types = array.type, pa.types
    if types.is_dictionary(kind):
        yield array
    elif types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _dictionaries(pc.struct_field(array, index))
    elif is_list(kind):
        yield from _dictionaries(array.flatten())


def _longest(array: pa.DictionaryArray) -> int:
    if not any(map(_is_of_any_length, _leaves(array.type))) or not len(array.dictionary):
        return 0
    return int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)


def _looked_up_bytes(array: pa.DictionaryArray) -> int:
    """Bytes of the values of a dictionary array."""
    if not _longest(array):
        return 0
    lengths = pc.fill_null(pc.binary_length(array.dictionary), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    codes = array.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(lengths[codes].sum())
