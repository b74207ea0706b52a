"""RowEncoder: an Arrow table → the rows of a slab: inputs, labels, weights, groups, keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.row_hashes import identities_of
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.numeric import LARGEST, numeric_values
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.labels.label_encoder import Labels
from mlclf.data.sampling.splits import TRAIN, Split
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.slab import RowLayout, Slab
from mlclf.errors import DataError
from mlclf.machine.tally import CountedOnce


@dataclass
class RowEncoder:
    """Turns tables into slabs. Safe to call from several threads, each with its own table.

    Attributes:
        labels: None where the data has no labels (or they are not wanted): every cell is then UNOBSERVED.
        key_columns: columns carried along as they are.
        group: column that names the group of a row, where batches are to hold it.
        numbered: whether the rows of a table may be some of those that follow each other in the plan.
        counted: which rows the tallies of the features have counted.
    """

    schema: Schema
    features: FeatureEncoder
    labels: Labels | None
    num_labels: int
    split: Split = field(default_factory=Split)
    weight: str | None = None
    key_columns: tuple[str, ...] = ()
    numbered: bool = False
    group: str | None = None
    counted: CountedOnce = field(default_factory=CountedOnce)

    @property
    def layout(self) -> RowLayout:
        """What an encoded row holds."""
        return RowLayout(
            self.features.num_dense,
            self.num_labels,
            self.features.num_tokens,
            weighted=self.weight is not None,
            parted=self.split.kind != "none" or self.split.part != TRAIN,
            numbered=self.numbered,
            grouped=self.group is not None,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to be read, each once."""
        label_columns = self.schema.labels if self.labels is not None else ()
        others = [self.weight, self.group, self.split.group, self.split.time, *self.key_columns]
        names = [*self.schema.feature_columns, *label_columns, *(name for name in others if name)]
        return tuple(dict.fromkeys(names))

    def encode(self, numbers: NDArray[np.int64], table: pa.Table, place: str, slab: Slab) -> None:
        """Fill a slab with the rows of a table, whose numbers in the plan are `numbers` [n]."""
        rows, arrays = table.num_rows, slab.arrays
        slab.rows, slab.place, slab.complete = rows, place, True
        slab.first_row = int(numbers[0]) if rows else 0
        if "numbers" in arrays:
            arrays["numbers"][:rows] = numbers
        with self.counted.rows_from(slab.first_row):
            self.features.encode_dense(table, place, arrays["dense"])
            self._encode_tokens(table, place, slab)
        if self.labels is None:
            arrays["codes"][:rows] = UNOBSERVED
            slab.complete = False
        else:
            slab.complete = self.labels.encode(table, place, arrays["codes"][:rows])
        if "weights" in arrays:
            arrays["weights"][:rows] = row_weights(table, self.weight, place)
        if self.group is not None:
            arrays["groups"][:rows] = identities_of(table.column(self.group), numbers)
        if "parts" in arrays:
            arrays["parts"][:rows] = self.split.parts(numbers, table)
        slab.keys = table.select(list(self.key_columns)) if self.key_columns else None

    def _encode_tokens(self, table: pa.Table, place: str, slab: Slab) -> None:
        tokens = self.features.encode_ids(table, place)
        if "tokens" in slab.arrays:
            ids = slab.arrays["tokens"][: table.num_rows]
            ids[:] = tokens.ids.reshape(ids.shape)
            return
        assert tokens.lengths is not None
        slab.offsets = np.zeros(table.num_rows + 1, np.int64)
        np.cumsum(tokens.lengths, out=slab.offsets[1:])
        slab.ids, slab.values = tokens.ids.astype(np.int32), tokens.values

    def row_bytes(self, table: pa.Table, place: str) -> float:
        """Mean bytes of an encoded row of a table."""
        pool = Pool(1, table.num_rows, self.layout)
        slab = pool.acquire()
        assert slab is not None
        self.encode(np.arange(table.num_rows, dtype=np.int64), table, place, slab)
        return float(slab.num_bytes / table.num_rows)


def row_weights(table: pa.Table, column: str | None, place: str) -> NDArray[np.float64]:
    """Weights of the rows: [n] float64, 1 without a weight column.

    Raises:
        DataError: a weight is missing, negative or not finite.
    """
    if column is None:
        return np.ones(table.num_rows)
    where = f"{place} column {column!r}"
    weights = numeric_values(table.column(column), where).astype(np.float64)
    bad = ~(weights >= 0)
    if bad.any():
        first = float(weights[bad][0])
        raise DataError(
            f"{where}: row weights must be 0 or more, found {'null' if np.isnan(first) else first} "
            f"in {int(bad.sum())} rows; fill or drop them where the data is written"
        )
    large = weights > LARGEST
    if large.any():
        raise DataError(
            f"{where}: row weights must be 0 or more and fit float32 (up to 3.4e38), found {float(weights[large][0])} "
            f"in {int(large.sum())} rows; scale them where the data is written"
        )
    return weights
