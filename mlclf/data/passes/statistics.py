"""The one pass of statistics: features, labels, weights, and the sizes that the pool is planned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.labels.counts import ColumnCounter, LabelCounts, TagCounter
from mlclf.data.labels.label_columns import LabelColumns
from mlclf.data.labels.label_encoder import Labels, make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.parquet.content import Contents
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import decoded_pieces, located
from mlclf.data.passes.partial_passes import matching_units, piece_rows, without_corrupt
from mlclf.data.passes.repeats import RepeatedRows
from mlclf.data.sampling.census import Census
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import TRAIN, Split
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.row_encoder import RowEncoder, row_weights
from mlclf.data.where.condition import Where
from mlclf.errors import ConfigError, CorruptDataError, DataError
from mlclf.messages import listed

SAMPLE_ROWS = 4096


@dataclass
class Statistics:
    """What one pass over the data finds.

    Attributes:
        plan: what was read: without what was set aside as damaged.
        features, labels: ready to encode.
        label_names: [K].
        counts: label weights by part of the split.
        rows: rows of each part.
        census: how many rows of each part every block holds, where more than a row's number decides.
        row_bytes: bytes of an encoded row, from the rows that took most among those sampled.
        decoded_row_bytes: the same of a decoded row.
        warnings: what was left out or changed, one line each.
        contents: a digest for each file, of all that was read of it.
    """

    plan: Plan
    features: FeatureEncoder
    labels: Labels
    label_names: tuple[str, ...]
    counts: LabelCounts
    rows: dict[int, int]
    census: Census | None
    row_bytes: float
    decoded_row_bytes: float
    warnings: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)


def fit_statistics(
    plan: Plan,
    schema: Schema,
    split: Split,
    *,
    label_values: Mapping[str, int | None],
    options: EncodingOptions,
    threads: int,
    lanes: int = 1,
    where: Where | None = None,
    skip_corrupt: bool = False,
    looks_for_copies: bool = False,
) -> Iterator[tuple[int, Statistics | None]]:
    """Read every row once; yield (rows read so far, None) and at the end (rows, Statistics).

    Features are fitted on the rows that are trained on: all of them with folds, part TRAIN of a held-out split. Where
    something is damaged and `skip_corrupt`, all that is damaged is looked for and the pass starts again without it.
    With `looks_for_copies` a warning says how many rows repeat another one.
    """
    one_pass = partial(
        _one_pass,
        schema=schema,
        split=split,
        label_values=label_values,
        options=options,
        threads=threads,
        lanes=lanes,
        where=where,
        looks_for_copies=looks_for_copies,
    )
    try:
        yield from one_pass(plan)
    except CorruptDataError:
        if not skip_corrupt:
            raise
        sound = without_corrupt(plan, schema, split, where, threads)
        if sound is None:
            raise
        yield from one_pass(sound)


def _one_pass(
    plan: Plan,
    *,
    schema: Schema,
    split: Split,
    label_values: Mapping[str, int | None],
    options: EncodingOptions,
    threads: int,
    lanes: int,
    where: Where | None,
    looks_for_copies: bool,
) -> Iterator[tuple[int, Statistics | None]]:
    if schema.tags and label_values:
        raise ConfigError(
            f"data.label_values: is for label columns, and {schema.labels[0]!r} is a list of tags, which are labels as "
            "they are; leave it out"
        )
    features = FeatureEncoder.fresh(schema.features, options)
    features.folder_types = plan.folder_types
    found = _Pass(plan, schema, split, features, make_labels(schema, label_values), where)
    if looks_for_copies:
        found.copies = RepeatedRows(schema.feature_columns)
    columns = tuple(dict.fromkeys([*found.encoder.columns, *found.selection.columns]))
    contents = Contents(plan, columns)
    pieces = decoded_pieces(
        plan,
        matching_units(plan, where),
        columns,
        piece_rows(plan),
        lambda first_row, table, place: (first_row, table),
        lanes=lanes,
        threads=threads,
        contents=contents,
    )
    read = 0
    for first_row, table in pieces:
        located(plan, first_row, table, found.add)
        read += table.num_rows
        yield read, None
    yield read, replace(found.finish(read), contents=contents.of_files())


class _Pass:
    """What the pass of statistics has found so far."""

    def __init__(
        self, plan: Plan, schema: Schema, split: Split, features: FeatureEncoder, labels: Labels, where: Where | None
    ) -> None:
        self.plan = plan
        self.selection = Selection(split, where=where)
        self.schema, self.split, self.features, self.labels = schema, split, features, labels
        self.encoder = RowEncoder(schema, features, labels, 0, split, schema.weight)
        if isinstance(labels, TagList):
            self.counter: TagCounter | ColumnCounter = TagCounter(labels, split.num_parts)
        else:
            self.counter = ColumnCounter(labels, split.num_parts)
        self.rows: dict[int, int] = dict.fromkeys(range(split.num_parts), 0)
        self.census = None if split.by_number and where is None else Census(plan, split.num_parts)
        self.trained_weight = 0.0
        self.sample: tuple[pa.Table, str] | None = None
        self.copies: RepeatedRows | None = None

    def add(self, first_row: int, table: pa.Table, place: str) -> None:
        """Add the rows of a table."""
        numbers, table = self.selection.kept(first_row, table)
        if not len(numbers):
            return
        weights = row_weights(table, self.schema.weight, place)
        parts = self.split.parts(numbers, table)
        if self.census is not None:
            self.census.add(numbers, parts)
        self.counter.add(table, place, weights, parts)
        trained = parts == TRAIN if self.split.kind == "held_out" else np.ones(len(parts), np.bool_)
        self.trained_weight += float(weights[trained].sum())
        self._fit(table, place, weights, trained)
        if self.copies is not None:
            self.copies.add(table)
        for part, number in zip(*np.unique(parts, return_counts=True), strict=True):
            self.rows[int(part)] += int(number)
        if self.sample is None or _heavier(table, self.sample[0]):
            self.sample = (table.slice(0, SAMPLE_ROWS), place)

    def _fit(self, table: pa.Table, place: str, weights: NDArray[np.float64], chosen: NDArray[np.bool_]) -> None:
        given = None if self.schema.weight is None else weights
        if chosen.all():
            self.features.fit(table, place, given)
        elif chosen.any():
            self.features.fit(table.filter(pa.array(chosen)), place, None if given is None else given[chosen])

    def finish(self, read: int) -> Statistics:
        """Fix the features and the labels."""
        where = self.selection.where
        if where is not None and not sum(self.rows.values()):
            raise DataError(f"data.where keeps none of the {self.plan.readable_rows:,} rows: {where}")
        if not self.trained_weight:
            weightless = "" if self.schema.weight is None else f" or has weight 0 in {self.schema.weight!r}"
            raise DataError(
                f"no row is left to train on: each of the {read:,} rows is held out{weightless}; hold out fewer"
            )
        warnings = self.features.finish()
        if self.features.num_dense + self.features.vocabulary_size == 0:
            raise DataError(listed(["no column is left to learn from:", *warnings]))
        counts = self.counter.finish()
        names = self.labels.names
        if not names and self.schema.tags:
            column = self.schema.labels[0]
            raise DataError(f"column {column!r} holds no tag in any row; name another column with --labels")
        if isinstance(self.labels, LabelColumns):
            warnings += self.labels.mappings() + self.labels.check_declared()
        if self.copies is not None:
            warnings += self.copies.warnings()
        encoded, decoded = self._row_bytes(len(names))
        self.features.counted()
        return Statistics(
            self.plan, self.features, self.labels, names, counts, self.rows, self.census, encoded, decoded, warnings
        )

    def _row_bytes(self, num_labels: int) -> tuple[float, float]:
        """Bytes of an encoded and of a decoded row of the sample."""
        assert self.sample is not None
        table, place = self.sample
        encoded = replace(self.encoder, num_labels=num_labels).row_bytes(table, place)
        return encoded, table.nbytes / table.num_rows


def _heavier(table: pa.Table, other: pa.Table) -> bool:
    """Whether rows of the first table take more bytes; a table of few rows says little."""
    if min(table.num_rows, SAMPLE_ROWS) != min(other.num_rows, SAMPLE_ROWS):
        return bool(table.num_rows > other.num_rows)
    return bool(table.nbytes / table.num_rows > other.nbytes / other.num_rows)
