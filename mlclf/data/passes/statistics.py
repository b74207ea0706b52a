"""The pass of statistics: features and labels fitted, weights and rows counted, sizes of rows measured."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.labels.counts import LabelCounts, make_counter
from mlclf.data.labels.label_encoder import Labels, make_labels
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
from mlclf.progress import Progress

SAMPLE_ROWS = 4096


@dataclass(frozen=True)
class Statistics:
    """What the pass of statistics found.

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
    warnings: list[str]
    contents: list[str]


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
) -> Generator[Progress, None, Statistics]:
    """Read every row once and return what was found; yields the rows read so far.

    Features are fitted on the rows that are trained on: all of them with folds, part TRAIN of a held-out split. Where
    something is damaged and `skip_corrupt`, all that is damaged is looked for and the pass starts again without it.
    With `looks_for_copies` a warning says how many rows repeat another one.
    """
    if schema.tags and label_values:
        raise ConfigError(
            f"data.label_values: is for label columns, and {schema.labels[0]!r} is a list of tags, which are labels as "
            "they are; leave it out"
        )

    def one_pass(readable: Plan) -> Generator[Progress, None, Statistics]:
        features = FeatureEncoder.fresh(schema.features, options)
        features = replace(features, folder_types=readable.folder_types)
        copies = RepeatedRows(schema.feature_columns) if looks_for_copies else None
        found = _Pass(readable, schema, split, features, make_labels(schema, label_values), where, copies)
        columns = tuple(dict.fromkeys([*found.encoder.columns, *found.selection.columns]))
        contents, read = Contents(readable, columns), 0
        for first_row, table in decoded_pieces(
            readable,
            matching_units(readable, where),
            columns,
            piece_rows(readable),
            lambda first_row, table, place: (first_row, table),
            lanes=lanes,
            threads=threads,
            contents=contents,
        ):
            located(readable, first_row, table, found.add)
            read += table.num_rows
            yield Progress("statistics", read, plan.rows)
        return found.statistics(read, contents.of_files())

    try:
        return (yield from one_pass(plan))
    except CorruptDataError:
        sound = without_corrupt(plan, schema, split, where, threads) if skip_corrupt else None
        if sound is None:
            raise
    return (yield from one_pass(sound))


class _Pass:
    """What the pass of statistics has found so far."""

    def __init__(
        self,
        plan: Plan,
        schema: Schema,
        split: Split,
        features: FeatureEncoder,
        labels: Labels,
        where: Where | None,
        copies: RepeatedRows | None,
    ) -> None:
        self.plan, self.selection, self.copies = plan, Selection(split, where=where), copies
        self.schema, self.split, self.features, self.labels = schema, split, features, labels
        self.encoder = RowEncoder(schema, features, labels, 0, split, schema.weight)
        self.counter = make_counter(labels, split.num_parts)
        self.rows: dict[int, int] = dict.fromkeys(range(split.num_parts), 0)
        self.census = None if split.by_number and where is None else Census(plan, split.num_parts)
        self.trained_weight = 0.0
        self.sample: tuple[pa.Table, str] | None = None

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

    def statistics(self, read: int, contents: list[str]) -> Statistics:
        """Fix the features and the labels, of `read` rows in all."""
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
        warnings += self.labels.notes()
        if self.copies is not None:
            warnings += self.copies.warnings()
        assert self.sample is not None
        table, place = self.sample
        encoded = replace(self.encoder, num_labels=len(names)).row_bytes(table, place)
        self.features.counted()
        return Statistics(
            self.plan,
            self.features,
            self.labels,
            names,
            counts,
            self.rows,
            self.census,
            row_bytes=encoded,
            decoded_row_bytes=table.nbytes / table.num_rows,
            warnings=warnings,
            contents=contents,
        )


def _heavier(table: pa.Table, other: pa.Table) -> bool:
    """Whether rows of the first table take more bytes; a table of few rows says little."""
    if min(table.num_rows, SAMPLE_ROWS) != min(other.num_rows, SAMPLE_ROWS):
        return bool(table.num_rows > other.num_rows)
    return bool(table.nbytes / table.num_rows > other.nbytes / other.num_rows)
