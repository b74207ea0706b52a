"""Data that the benchmarks make: tabular, mixed and tagged rows, in eight Parquet files a set.

    python benchmarks/generated.py tabular|mixed|tagged FOLDER --rows N [--checksums] [--sorted-by-label]
                                   [--columns D] [--labels K] [--group-rows R]

Rows are drawn and written a row group at a time, so that memory does not grow with them, and labels follow a model of
the inputs, so that training has something to find. A folder that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILES = 8
GROUP_ROWS = 65_536
LEVELS = (5, 7, 9, 12, 16, 20, 28, 40)
"""Levels of each string column of mixed rows."""

TAGS, TOKENS, VOCABULARY = 1_000, 20, 50_000


def main() -> int:
    arguments = parse_arguments()
    folder, rows = arguments.folder, arguments.rows
    if arguments.kind == "tabular":
        labels = arguments.labels or 20
        options = {"checksums": arguments.checksums, "sorted_by_label": arguments.sorted_by_label}
        tabular(folder, rows, arguments.columns, labels, group_rows=arguments.group_rows, **options)
    elif arguments.kind == "mixed":
        mixed(folder, rows)
    else:
        tagged(folder, rows, arguments.labels or TAGS)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the data of a benchmark.")
    parser.add_argument("kind", choices=["tabular", "mixed", "tagged"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--columns", type=int, default=100, help="float32 columns of tabular rows")
    parser.add_argument("--labels", type=int, help="labels: 20 of tabular rows, 1,000 tags of tagged ones")
    parser.add_argument("--checksums", action="store_true", help="write page checksums (tabular)")
    parser.add_argument("--sorted-by-label", action="store_true", help="negatives of label_0 first (tabular)")
    parser.add_argument("--group-rows", type=int, default=GROUP_ROWS, help="rows of a row group (tabular)")
    return parser.parse_args()


def tabular(
    folder: Path,
    rows: int,
    columns: int = 100,
    labels: int = 20,
    checksums: bool = False,
    sorted_by_label: bool = False,
    group_rows: int = GROUP_ROWS,
) -> None:
    """Float32 columns f0, f1, … and bool columns label_0, label_1, …, of a logistic model."""
    if folder.exists():
        return
    building = fresh(folder)
    tables, positives = tabular_tables(columns, labels), building / "positives.unsorted"
    if sorted_by_label:
        tables = sorted_tables(tables, rows, positives)
    write(building, tables, rows, group_rows, dictionary=[], checksums=checksums)
    positives.unlink(missing_ok=True)
    building.rename(folder)


def tabular_tables(columns: int, labels: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(0)
    weights = random.normal(size=(columns, labels)).astype(np.float32) * 2 / np.sqrt(columns, dtype=np.float32)
    bias = random.uniform(-4, -0.5, labels).astype(np.float32)
    while True:
        inputs = random.standard_normal((columns, GROUP_ROWS), np.float32)
        positive = drawn_labels(random, inputs.T @ weights + bias)
        yield pa.table(
            {f"f{index}": inputs[index] for index in range(columns)}
            | {f"label_{index}": pa.array(positive[:, index]) for index in range(labels)}
        )


def sorted_tables(tables: Iterator[pa.Table], rows: int, positives: Path) -> Iterator[pa.Table]:
    """The first `rows` rows, those without label_0 before those with it, which wait in a file of their own."""
    left, writer = rows, None
    for table in tables:
        table = table.slice(0, left)
        left -= len(table)
        yield table.filter(pc.invert(table["label_0"]))
        writer = writer or pq.ParquetWriter(positives, table.schema, use_dictionary=False)
        writer.write_table(table.filter(table["label_0"]))
        if not left:
            break
    writer.close()
    waiting = pq.ParquetFile(positives)
    for index in range(waiting.num_row_groups):
        yield waiting.read_row_group(index)


def mixed(folder: Path, rows: int) -> None:
    """Eight string columns s0, s1, …, six numeric ones x0, x1, …, nulls in half of them, and label_0 to label_2."""
    if folder.exists():
        return
    building = fresh(folder)
    write(building, mixed_tables(), rows, dictionary=[f"s{index}" for index in range(len(LEVELS))])
    building.rename(folder)


def mixed_tables() -> Iterator[pa.Table]:
    random = np.random.default_rng(0)
    labels, size = 3, GROUP_ROWS
    effects = [random.normal(0, 0.5, (levels, labels)) for levels in LEVELS]
    slopes, bias = random.normal(0, 0.4, (6, labels)), np.array([-1.2, -2.5, -4.0])
    while True:
        columns: dict[str, pa.Array] = {}
        logits = np.tile(bias, (size, 1))
        for index, levels in enumerate(LEVELS):
            codes = (levels * random.random(size) ** 2).astype(np.int32)  # the first levels are the most frequent
            missing = random.random(size) < (0.05 if index % 2 else 0)
            logits += np.where(missing[:, None], 0, effects[index][codes])
            names = pa.array([f"level {index}-{level}" for level in range(levels)])
            columns[f"s{index}"] = names.take(pa.array(codes, mask=missing))
        for index in range(6):
            standard = random.standard_normal(size)
            missing = random.random(size) < (0.1 if index % 2 else 0)
            logits += np.where(missing, 0, standard)[:, None] * slopes[index]
            values = (40 + 12 * standard).round().astype(np.int64) if index < 3 else np.exp(standard) * 1000
            columns[f"x{index}"] = pa.array(values, mask=missing)
        positive = drawn_labels(random, logits)
        yield pa.table(columns | {f"label_{index}": pa.array(positive[:, index]) for index in range(labels)})


def tagged(folder: Path, rows: int, labels: int = TAGS, tokens: int = TOKENS) -> None:
    """A column of `tokens` token ids a row, list<int32> of 0 to 49,999, and one of about five tags, list<string>.

    The tags of a row follow from its first five tokens.
    """
    if folder.exists():
        return
    building = fresh(folder)
    write(building, tagged_tables(labels, tokens), rows, dictionary=["tags.list.element"])
    building.rename(folder)


def tagged_tables(labels: int, tokens: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(0)
    names = pa.array([tag_name(label) for label in range(labels)])
    ends = np.arange(0, (GROUP_ROWS + 1) * tokens, tokens, np.int32)
    while True:
        words = (np.float64(VOCABULARY) ** random.random((GROUP_ROWS, tokens))).astype(np.int32) - 1  # Zipf's law
        tags = np.sort(words[:, :5].astype(np.int64) * 7_919 % labels, axis=1).astype(np.int32)
        distinct = np.ones(tags.shape, bool)
        distinct[:, 1:] = tags[:, 1:] != tags[:, :-1]
        tag_ends = np.concatenate([[0], distinct.sum(1).cumsum()]).astype(np.int32)
        yield pa.table(
            {
                "tokens": pa.ListArray.from_arrays(pa.array(ends), pa.array(words.reshape(-1))),
                "tags": pa.ListArray.from_arrays(pa.array(tag_ends), names.take(pa.array(tags[distinct]))),
            }
        )


def tag_name(label: int) -> str:
    return f"tag-{label:03d}"


def drawn_labels(random: np.random.Generator, logits: NDArray[Any]) -> NDArray[np.bool_]:
    """Labels of rows with these logits: [B, K] → [B, K]."""
    return np.asarray(random.random(logits.shape, np.float32) < 1 / (1 + np.exp(-logits)))


def fresh(folder: Path) -> Path:
    """An empty folder beside `folder`, which takes its name when it is whole."""
    building = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def write(
    folder: Path,
    tables: Iterator[pa.Table],
    rows: int,
    group_rows: int = GROUP_ROWS,
    *,
    dictionary: Sequence[str],
    checksums: bool = False,
) -> None:
    """Write the first `rows` rows to eight files of as many rows each, in row groups of `group_rows`."""
    sizes = [rows * (file + 1) // FILES - rows * file // FILES for file in range(FILES)]
    groups = [[min(group_rows, size - start) for start in range(0, size, group_rows)] for size in sizes]
    cut = cut_tables(tables, [size for file in groups for size in file])
    for file, file_groups in enumerate(groups):
        writer = None
        for table in islice(cut, len(file_groups)):
            writer = writer or pq.ParquetWriter(
                folder / f"part-{file:03d}.parquet",
                table.schema,
                compression="snappy",
                use_dictionary=list(dictionary),
                write_page_checksum=checksums,
            )
            writer.write_table(table)
        if writer:
            writer.close()


def cut_tables(tables: Iterator[pa.Table], sizes: Sequence[int]) -> Iterator[pa.Table]:
    """The rows of the tables, in tables of these sizes."""
    pending = next(tables)
    for size in sizes:
        while len(pending) < size:
            pending = pa.concat_tables([pending, next(tables)])
        yield pending.slice(0, size).combine_chunks()
        pending = pending.slice(size)


if __name__ == "__main__":
    sys.exit(main())
