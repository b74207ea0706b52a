"""How well the pool mixes data whose labels are sorted: the deviation of batch means, against a random order.

A batch takes equal parts of its rows from the slabs in the pool, and slabs come from units in random order. So a batch
is a sample of clusters: the rows of one unit that are in the pool together. With B rows a batch, D clusters in the
pool, C in all, prevalence p, and V the variance of the prevalence between clusters, weighted by their rows,

    Var(batch mean) = (p(1−p) − V) / B + V / D · (C − D) / (C − 1)

where a random order gives p(1−p) / B (Cochran, Sampling Techniques, 1977, chapter 10: two-stage sampling).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.labels.label_columns import UNOBSERVED, LabelColumns
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.schema.schema import Schema

BATCH_ROWS = 4_096
CHANCE = 5.0
"""Standard errors by which clusters must differ more than by chance before a label counts as sorted."""

PIECE_ROWS = 65_536
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mixing:
    """What the pool achieves.

    Attributes:
        label_names: [K].
        ratios: [K] float64, standard deviation of batch means over that of a random order, 1 or more; NaN for labels
            of one class, or without an observed row.
        batch_rows, slabs: what it is computed for.
        clusters: runs of rows that enter the pool together; about `live` of them are in it at a time.
    """

    label_names: tuple[str, ...]
    ratios: Floats
    batch_rows: int
    slabs: int
    clusters: int
    live: float

    def to_json(self) -> dict[str, Any]:
        """The values that JSON can hold; undefined is None."""
        ratios = [None if math.isnan(ratio) else ratio for ratio in self.ratios.tolist()]
        defined = [ratio for ratio in ratios if ratio is not None]
        worst = max(defined, default=None)
        return {
            "batch_rows": self.batch_rows,
            "slabs": self.slabs,
            "clusters": self.clusters,
            "live_clusters": self.live,
            "worst": None
            if worst is None
            else {"label": self.label_names[ratios.index(worst)], "deviation_ratio": worst},
            "median_deviation_ratio": float(np.median(defined)) if defined else None,
            "labels": dict(zip(self.label_names, ratios, strict=True)),
        }


def estimate_mixing(
    plan: Plan,
    schema: Schema,
    label_values: Mapping[str, int | None],
    *,
    slabs: int,
    slab_rows: int,
    lanes: int = 2,
    batch_rows: int = BATCH_ROWS,
) -> Mixing:
    """Read the label columns once and return how far batch means deviate.

    Args:
        plan, schema: the data, and which columns are labels.
        label_values: text of a value → 0, 1 or None, as for a fit.
        slabs, slab_rows: shape of the pool.
        lanes: units larger than a slab that enter the pool side by side.
        batch_rows: rows of a batch.

    Raises:
        DataError: the labels cannot be read.
    """
    labels = make_labels(schema, label_values)
    counter = _TagCounts(labels) if isinstance(labels, TagList) else _ColumnCounts(labels)
    tally = ClusterTally()
    side_by_side = max(1, min(lanes, len(plan.units)))
    rows = slab_rows * max(1, slabs // side_by_side)
    for pieces in _clusters(plan, schema.labels, rows):
        for piece, place in pieces:
            counter.add(piece, place)
        tally.add(*counter.take())
    spans = sum(-(-unit.rows // slab_rows) for unit in plan.units)
    live = live_clusters(tally.clusters, spans, plan.rows, slabs, batch_rows)
    return Mixing(counter.names, tally.ratios(live, batch_rows, plan.rows), batch_rows, slabs, tally.clusters, live)


def live_clusters(clusters: int, spans: int, rows: int, slabs: int, batch_rows: int) -> float:
    """Clusters that a batch takes rows from: those in the pool, or more where all of the pool makes no batch.

    Between the two extremes it is their hypotenuse, within a tenth of what a simulation gives.

    Args:
        clusters, spans: how many there are; a span fills one slab, a cluster is made of one or more.
        rows: of the data.
        slabs: in the pool.
        batch_rows: rows of a batch.
    """
    return min(float(clusters), clusters * math.hypot(slabs / spans, batch_rows / rows))


def _clusters(plan: Plan, columns: Sequence[str], most_rows: int) -> Iterator[Iterator[tuple[pa.Table, str]]]:
    """For each run of a unit's rows that is in the pool together, its tables with their places."""
    for unit in plan.units:
        size = -(-unit.rows // -(-unit.rows // most_rows))
        decoded = decode_unit(plan, unit, columns, min(PIECE_ROWS, size))
        for _, pieces in groupby(_cut(plan, decoded, unit.first_row, size), key=itemgetter(0)):
            yield ((table, place) for _, table, place in pieces)


def _cut(
    plan: Plan, pieces: Iterator[tuple[int, pa.Table]], start: int, size: int
) -> Iterator[tuple[int, pa.Table, str]]:
    """Pieces of a unit cut where a cluster ends: (number of the cluster, table, place)."""
    for first_row, table in pieces:
        row = first_row
        while row < first_row + table.num_rows:
            cluster = (row - start) // size
            stop = min(first_row + table.num_rows, start + (cluster + 1) * size)
            part = table.slice(row - first_row, stop - row)
            yield cluster, part, plan.place_of(plan.groups_of(row, stop - row))
            row = stop


class _ColumnCounts:
    """Positive and observed rows of label columns since the last `take`."""

    def __init__(self, labels: LabelColumns) -> None:
        self._labels, self.names = labels, labels.names
        self._positives, self._observed = np.zeros(len(self.names)), np.zeros(len(self.names))

    def add(self, table: pa.Table, place: str) -> None:
        table = self._labels.spread(table, place)
        for index, name in enumerate(self.names):
            codes = self._labels.encode_column(name, table, place)
            self._positives[index] += np.count_nonzero(codes == 1)
            self._observed[index] += np.count_nonzero(codes != UNOBSERVED)

    def take(self) -> tuple[Floats, Floats]:
        """[K] and [K]."""
        found = self._positives, self._observed
        self._positives, self._observed = np.zeros(len(self.names)), np.zeros(len(self.names))
        return found


class _TagCounts:
    """Rows of each tag, and rows that observe all of them, since the last `take`."""

    def __init__(self, labels: TagList) -> None:
        self._labels = labels
        self._positives, self._observed = np.zeros(0), 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._labels.numbers)

    def add(self, table: pa.Table, place: str) -> None:
        _, tags, absent = self._labels.pairs(table, place)
        counts = np.bincount(self._labels.numbered(tags), minlength=len(self.names))
        self._positives = grown(self._positives, len(counts)) + counts
        self._observed += int(np.count_nonzero(~absent))

    def take(self) -> tuple[Floats, Floats]:
        """[K so far] and [1]: every tag is observed in as many rows."""
        found = self._positives, np.array([float(self._observed)])
        self._positives, self._observed = np.zeros(len(self.names)), 0
        return found


def grown(values: Floats, size: int) -> Floats:
    """The values with zeros after them: [size]."""
    return np.pad(values, (0, size - len(values)))


@dataclass
class ClusterTally:
    """Sums over clusters, from which the variance between them follows; nothing is kept of a single cluster.

    Attributes:
        positives, squares: [K], Σ c and Σ c²/n over clusters of c positive in n observed rows.
        observed, inverses, counted: [K] or [1], Σ n, Σ 1/n and the number of clusters with n > 0.
    """

    clusters: int = 0
    positives: Floats = field(default_factory=lambda: np.zeros(0))
    squares: Floats = field(default_factory=lambda: np.zeros(0))
    observed: Floats = field(default_factory=lambda: np.zeros(1))
    inverses: Floats = field(default_factory=lambda: np.zeros(1))
    counted: Floats = field(default_factory=lambda: np.zeros(1))

    def add(self, positives: Floats, observed: Floats) -> None:
        """Take in a cluster: [K] positive rows, and [K] or [1] observed rows; K may grow from one to the next."""
        inverse = np.divide(1.0, observed, out=np.zeros(len(observed)), where=observed > 0)
        self.clusters += 1
        self.positives = grown(self.positives, len(positives)) + positives
        self.squares = grown(self.squares, len(positives)) + positives**2 * inverse
        self.observed = self.observed + observed
        self.inverses = self.inverses + inverse
        self.counted = self.counted + (observed > 0)

    def ratios(self, live: float, batch_rows: int, rows: int) -> Floats:
        """Deviation of batch means against a random order: [K] float64, 1 or more, NaN for labels of one class.

        What clusters of this size differ by chance is taken off first, and a label whose clusters do not differ by
        clearly more has ratio 1.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = self.positives / self.observed
            spread = rate * (1 - rate)
            # Σ n (p_u − p)² / p(1−p) has the expectation and about the variance below when rows are in random order
            found = (self.squares - self.positives * rate) / spread
            chance = (self.counted - 1) * self.observed / (self.observed - 1)
            error = np.sqrt(np.maximum(2 * self.counted + (1 / spread - 6) * self.inverses, 1))
            excess = np.where(found - chance > CHANCE * error, (found - chance) / self.observed, 0)
            missed = np.maximum(0, self.counted - live) / np.maximum(1, self.counted - 1)
            observed_batch = batch_rows * self.observed / rows
            ratios = np.sqrt(np.maximum(1, 1 + excess * (observed_batch * missed / live - 1)))
        return np.where(spread > 0, ratios, np.nan)
