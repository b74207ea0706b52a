"""Histograms of folds of the rows, by which what is chosen on some rows is judged on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mlclf.data.splits import mixed
from mlclf.decisions.cells import Cells
from mlclf.decisions.histogram_tables import METADATA_KEY
from mlclf.decisions.histograms import LabelHistogram, bins_for
from mlclf.errors import RunError

NUM_FOLDS = 10
MAX_BINS = 4096
BUDGET_BYTES = 64 << 20
_SALT = np.uint64(0xA24BAED4963EE407)
"""Folds must not follow the split of the rows, which hashes the same identities."""


class FoldHistograms:
    """One histogram for each of V folds; rows of one identity are in one fold.

    Attributes:
        histograms: [V], all of the same labels and bins.
    """

    def __init__(self, num_labels: int, num_folds: int = NUM_FOLDS, num_bins: int | None = None) -> None:
        bins = num_bins if num_bins is not None else min(MAX_BINS, bins_for(num_labels * num_folds, BUDGET_BYTES))
        self.histograms = [LabelHistogram(num_labels, bins) for _ in range(num_folds)]

    @classmethod
    def of(cls, histograms: Sequence[LabelHistogram]) -> FoldHistograms:
        """Folds that were counted before."""
        folds = cls.__new__(cls)
        folds.histograms = list(histograms)
        return folds

    def update(self, cells: Cells) -> None:
        """Count rows, each in its fold."""
        numbers = cells.identities.numpy().view(np.uint64)
        fold = torch.from_numpy((mixed(numbers ^ _SALT) % np.uint64(len(self.histograms))).astype(np.int64))
        for index, histogram in enumerate(self.histograms):
            part = cells.where(fold == index)
            histogram.update(part.logits, part.labels, part.mask, part.cell_weights())

    def to_table(self) -> pa.Table:
        """Return the bins of all folds as one table, with a column `fold` before those of `LabelHistogram.to_table`."""
        tables = [histogram.to_table() for histogram in self.histograms]
        numbered = [
            table.add_column(0, "fold", pa.array(np.full(len(table), index, np.int32)))
            for index, table in enumerate(tables)
        ]
        documents = {_key_of(index): table.schema.metadata[METADATA_KEY] for index, table in enumerate(tables)}
        return pa.concat_tables([table.replace_schema_metadata(None) for table in numbered]).replace_schema_metadata(
            documents
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> FoldHistograms:
        """Read what `to_table` returned.

        Raises:
            RunError: The table is not one of folds, of another format version, or damaged.
        """
        metadata = table.schema.metadata or {}
        count = sum(key.startswith(_KEY_PREFIX) for key in metadata)
        if count < 2 or "fold" not in table.column_names:
            raise RunError("a table of folds must have a column 'fold' and the metadata of each; it is another file")
        histograms = []
        for index in range(count):
            part = table.filter(pc.equal(table.column("fold"), index)).drop_columns(["fold"])
            document = metadata.get(_key_of(index), b"{}")
            histograms.append(LabelHistogram.from_table(part.replace_schema_metadata({METADATA_KEY: document})))
        return cls.of(histograms)


_KEY_PREFIX = b"mlclf_fold_"


def _key_of(fold: int) -> bytes:
    return _KEY_PREFIX + str(fold).encode()


def summed(histograms: Sequence[LabelHistogram]) -> LabelHistogram:
    """One histogram of all rows."""
    total = LabelHistogram(histograms[0].num_labels, histograms[0].num_bins)
    for histogram in histograms:
        total.merge(histogram)
    return total
