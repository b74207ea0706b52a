"""Parquet parts of scores and decisions that mirror the files they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mlclf.data.shards import Plan, Shard
from mlclf.decisions.best_labels import DECIDED, TOP_LABELS, TOP_SCORES, decided_lists
from mlclf.decisions.score_columns import KIND_KEY, PROBABILITY
from mlclf.errors import ConfigError
from mlclf.files import committed, folder_is_empty, write_text

WIDE_LABELS = 1000
"""Up to this many labels there is a column for each; above it the best ones come as lists."""

DEFAULT_TOP = 100


class Parts:
    """A folder with one Parquet file for each file of a plan, each whole or not at all; `_SUCCESS` comes last."""

    def __init__(self, folder: Path, *, resume: bool, overwrite: bool) -> None:
        """Look at the folder and change nothing yet.

        Raises:
            ConfigError: it is not empty, and neither to be resumed nor to be replaced.
        """
        if not folder_is_empty(folder) and not (resume or overwrite):
            raise ConfigError(f"{folder}: the folder is not empty; give another --out, or --resume or --overwrite")
        self.folder, self._resume, self._overwrite = folder, resume, overwrite

    def missing(self, plan: Plan) -> Iterator[tuple[int, Path, int]]:
        """Yield (index of a file, its part, rows of the files before it) for parts that are to be written."""
        if self._overwrite:
            clear_parts(self.folder)
        done = 0
        for index, name in enumerate(part_names(plan)):
            path = self.folder / name
            if not (self._resume and path.exists()):
                yield index, path, done
            done += plan.shards[index].rows

    def finish(self) -> Path:
        """Write `_SUCCESS` and return the folder."""
        write_text(self.folder / "_SUCCESS", "")
        return self.folder


class PartWriter:
    """Writes the tables of one part; the first fixes the schema."""

    def __init__(self, temporary: Path) -> None:
        self._path = temporary
        self._writer: pq.ParquetWriter | None = None

    @property
    def is_empty(self) -> bool:
        return self._writer is None

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, write_page_checksum=True)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def written_part(path: Path) -> Iterator[PartWriter]:
    """A writer of one part, which is there once the block has ended well."""
    with committed(path) as temporary:
        writer = PartWriter(temporary)
        try:
            yield writer
        finally:
            writer.close()


def wide_columns(scores: Tensor, decisions: Tensor, label_names: Sequence[str]) -> dict[str, pa.Array]:
    """A score and a decision of every label, of scores [n, K] float32 and decisions [n, K] bool."""
    columns = {f"score_{name}": pa.array(scores[:, index].numpy()) for index, name in enumerate(label_names)}
    return columns | {
        f"decision_{name}": pa.array(decisions[:, index].numpy()) for index, name in enumerate(label_names)
    }


def top_columns(scores: Tensor, decisions: Tensor, top: int, label_names: Sequence[str]) -> dict[str, pa.Array]:
    """The `top` labels with the largest of scores [n, K] float32 as lists, and all that are decided on.

    Both fall by score, ties in label order.
    """
    count = min(top, scores.shape[1])
    order = torch.sort(scores, dim=1, descending=True, stable=True)
    names = pa.array(label_names, pa.string()).take(pa.array(order.indices[:, :count].reshape(-1).numpy()))
    offsets = pa.array(range(0, (len(scores) + 1) * count, count), pa.int32())
    values = pa.array(order.values[:, :count].reshape(-1).numpy())
    return {
        TOP_LABELS: pa.ListArray.from_arrays(offsets, names),
        TOP_SCORES: pa.ListArray.from_arrays(offsets, values),
        DECIDED: decided_lists(scores.numpy(), decisions.numpy(), label_names),
    }


def score_table(keys: Mapping[str, pa.ChunkedArray], columns: Mapping[str, pa.Array]) -> pa.Table:
    """Columns of scores behind those of keys, with what the scores are."""
    return pa.table(dict(keys) | dict(columns), metadata={KIND_KEY: PROBABILITY})


def empty_keys(shard: Shard, key: str | None) -> dict[str, pa.ChunkedArray]:
    """No value of the key column, of the type that it has in a file."""
    if key is None or key not in shard.schema.names:
        return {}
    return {key: pa.chunked_array([], shard.schema.field(key).type)}


def part_names(plan: Plan) -> list[str]:
    """Where the part of each file goes, below the output folder: the input's own relative path, made distinct."""
    names: list[str] = []
    for index, shard in enumerate(plan.shards):
        parts = [part for part in Path(shard.source.relative).parts if part not in ("..", "/", ".")]
        name = str(Path(*parts).with_suffix(".parquet"))
        names.append(name if name not in names else f"{index:05d}/{name}")
    return names


def clear_parts(folder: Path) -> None:
    """Remove an earlier output: its mark first, then its parts."""
    (folder / "_SUCCESS").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*.parquet")):
        path.unlink()
