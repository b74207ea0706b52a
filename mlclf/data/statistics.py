"""The one pass of statistics: features, labels, weights, and the sizes that the pool is planned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from mlclf.data.features.table import Features
from mlclf.data.labels import ColumnCounter, LabelColumns, LabelCounts, Labels, TagCounter, TagList, make_labels
from mlclf.data.loader import decoded_pieces
from mlclf.data.rows import RowEncoder, row_weights
from mlclf.data.schema import Schema
from mlclf.data.shards import Plan
from mlclf.data.splits import TRAIN, Split, time_values
from mlclf.errors import DataError

PIECE_BYTES = 16 << 20
PIECE_ROWS = 65_536
TIME_SAMPLE = 1_000_000


@dataclass
class Statistics:
    """What one pass over the data finds.

    Attributes:
        features, labels: ready to encode.
        label_names: [K].
        counts: label weights by part of the split.
        rows: rows of each part.
        row_bytes: bytes of an encoded row, from the largest piece sampled.
        warnings: what was left out or changed, one line each.
    """

    features: Features
    labels: Labels
    label_names: tuple[str, ...]
    counts: LabelCounts
    rows: dict[int, int]
    row_bytes: float
    warnings: list[str] = field(default_factory=list)


def piece_rows(plan: Plan) -> int:
    """Rows of a piece whose decoded columns take about PIECE_BYTES."""
    return int(max(64, min(PIECE_ROWS, PIECE_BYTES / max(plan.row_bytes, 1.0))))


def fit_statistics(
    plan: Plan,
    schema: Schema,
    split: Split,
    *,
    label_values: Mapping[str, int | None],
    standardize: bool,
    vocabulary_levels: int,
    hash_limit: int,
    hash_buckets: int,
    threads: int,
) -> Iterator[tuple[int, Statistics | None]]:
    """Read every row once; yield (rows read so far, None) and at the end (rows, Statistics).

    Features are fitted on the rows that are trained on: all of them with folds, part TRAIN of a held-out split.
    """
    features = Features.fresh(
        schema,
        standardize=standardize,
        vocabulary_levels=vocabulary_levels,
        hash_limit=hash_limit,
        hash_buckets=hash_buckets,
    )
    labels = make_labels(schema, label_values)
    encoder = RowEncoder(schema, features, labels, 0, split, schema.weight)
    counter = (
        TagCounter(labels, split.num_parts) if isinstance(labels, TagList) else ColumnCounter(labels, split.num_parts)
    )
    rows: dict[int, int] = dict.fromkeys(range(split.num_parts), 0)
    read = 0
    sample: tuple[int, pa.Table, str] | None = None
    pieces = decoded_pieces(
        plan,
        range(len(plan.units)),
        encoder.columns,
        piece_rows(plan),
        lambda first_row, table, place: (first_row, table, place),
        threads=threads,
    )
    for first_row, table, place in pieces:
        weights = row_weights(table, schema.weight, place)
        parts = split.parts(first_row, table)
        counter.add(table, place, weights, parts)
        for part, number in zip(*np.unique(parts, return_counts=True), strict=True):
            rows[int(part)] += int(number)
        if split.kind == "held_out":
            trained = parts == TRAIN
            _fit_rows(features, table, place, weights, trained, schema.weight)
        else:
            features.fit(table, place, weights if schema.weight else None)
        if sample is None or table.num_rows > sample[1].num_rows:
            sample = (first_row, table.slice(0, 4096), place)
        read += table.num_rows
        yield read, None
    warnings = features.finish()
    if features.num_dense + features.vocabulary_size == 0:
        raise DataError("no column is left to learn from:\n" + "\n".join(warnings))
    counts = counter.finish()
    if isinstance(labels, LabelColumns):
        warnings += labels.mappings()
    if not labels.names:
        raise DataError(f"column {schema.labels[0]!r} holds no tag in any row; name another column with --labels")
    assert sample is not None
    slab = replace(encoder, num_labels=len(labels.names)).encode(*sample, capacity=0)
    size = slab.dense.nbytes + slab.ids.nbytes + slab.offsets.nbytes + slab.codes.nbytes + 24 * len(slab.numbers)
    size += 0 if slab.values is None else slab.values.nbytes
    features.counted()
    yield read, Statistics(features, labels, labels.names, counts, rows, size / max(1, len(slab.numbers)), warnings)


def _fit_rows(
    features: Features,
    table: pa.Table,
    place: str,
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    weight_column: str | None,
) -> None:
    if chosen.all():
        features.fit(table, place, weights if weight_column else None)
    elif chosen.any():
        features.fit(table.filter(pa.array(chosen)), place, weights[chosen] if weight_column else None)


def time_cut(plan: Plan, column: str, fraction: float, threads: int) -> float:
    """The time after which about `fraction` of the rows lie, from an even sample of at most a million rows."""
    step = max(1, plan.rows // TIME_SAMPLE)
    samples = [
        values
        for values in decoded_pieces(
            plan,
            range(len(plan.units)),
            [column],
            PIECE_ROWS,
            lambda first_row, table, place: time_values(table.column(column))[::step],
            threads=threads,
        )
    ]
    values = np.concatenate(samples)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        raise DataError(f"--valid-by time:{column}: the column has fewer than two distinct times; split another way")
    cut = float(np.quantile(values, 1 - fraction, method="lower"))
    return cut if cut < values.max() else float(values[values < values.max()].max())
