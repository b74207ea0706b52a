"""Histograms of folds of the rows, by which what is chosen on some rows is judged on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mlclf.data.arrow.row_hashes import mixed
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.checks import check_finite
from mlclf.decisions.histograms.bins import bins_for
from mlclf.decisions.histograms.counting import MOST_ROWS, Bins, CellsByLabel, by_label, count_cells
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.histograms.tables import METADATA_KEY, histogram_of, table_of
from mlclf.errors import RunError

NUM_FOLDS = 10
MAX_BINS = 4096
BUDGET_BYTES = 64 << 20
_SALT = np.uint64(0xA24BAED4963EE407)
"""Folds must not follow the split of the rows, which hashes the same identities."""


def fold_of(identities: Tensor, num_folds: int = NUM_FOLDS) -> Tensor:
    """The fold of each row by what it is, see `Cells`: [n] int32 of [n] int64."""
    numbers = identities.cpu().numpy().view(np.uint64)
    return torch.from_numpy((mixed(numbers ^ _SALT) % np.uint64(num_folds)).astype(np.int32))


class FoldHistograms:
    """One histogram for each of V folds; rows of one identity are in one fold.

    Cells of weight 1 are counted in one pass over all folds, whose bins lie side by side until they are asked for.
    """

    def __init__(self, num_labels: int, num_folds: int = NUM_FOLDS, num_bins: int | None = None) -> None:
        bins = num_bins if num_bins is not None else min(MAX_BINS, bins_for(num_labels * num_folds, BUDGET_BYTES))
        self._apart = [LabelHistogram(num_labels, bins) for _ in range(num_folds)]
        self._beside: LabelHistogram | None = None

    @classmethod
    def of(cls, histograms: Sequence[LabelHistogram]) -> FoldHistograms:
        """Folds that were counted before."""
        folds = cls.__new__(cls)
        folds._apart, folds._beside = list(histograms), None
        return folds

    @property
    def histograms(self) -> list[LabelHistogram]:
        """[V], all of the same labels and bins."""
        if self._beside is not None:
            for index, histogram in enumerate(self._apart):
                histogram.merge(_taken_from(self._beside, index, histogram))
            self._beside = None
        return self._apart

    def prepare(self) -> None:
        """Make room for cells of weight 1, before several threads count at once."""
        if self._beside is None:
            first = self._apart[0]
            self._beside = LabelHistogram(first.num_labels, first.num_bins * len(self._apart))

    def update(self, cells: Cells, part: slice | None = None) -> None:
        """Count rows, each in its fold; see `LabelHistogram.update` for `part`."""
        fold = fold_of(cells.identities, len(self._apart))
        weights = cells.cell_weights()
        if weights is None and not cells.logits.is_cuda:
            self._count(cells, fold, part or slice(0, cells.logits.shape[1]))
            return
        for index, histogram in enumerate(self._apart):
            some = cells.where(fold == index)
            histogram.update(some.logits, some.labels, some.mask, some.cell_weights(), part)

    def _count(self, cells: Cells, fold: Tensor, part: slice) -> None:
        check_finite(cells.logits, cells.mask)
        self.prepare()
        assert self._beside is not None
        if not len(cells):
            return
        if int(self._beside.rows.max()) + len(cells) > MOST_ROWS:
            _ = self.histograms  # these can count further
            self.prepare()
        mask = None if cells.mask is None else by_label(cells.mask)
        first_bins = fold * self._apart[0].num_bins
        scored = CellsByLabel(by_label(cells.logits.float()), by_label(cells.labels), mask, None, first_bins)
        states = self._beside
        least, greatest, filled = states.lazy_ends
        bins = Bins(states.counts, None, least, greatest, len(self._apart), filled)
        states.rows[part] += count_cells(bins.of(part), scored)[1]

    def to_table(self) -> pa.Table:
        """Return the bins of all folds as one table, with a column `fold` before those of `table_of`."""
        tables = [table_of(histogram) for histogram in self.histograms]
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
            histograms.append(histogram_of(part.replace_schema_metadata({METADATA_KEY: document})))
        return cls.of(histograms)


_KEY_PREFIX = b"mlclf_fold_"


def _key_of(fold: int) -> bytes:
    return _KEY_PREFIX + str(fold).encode()


def _taken_from(beside: LabelHistogram, fold: int, like: LabelHistogram) -> LabelHistogram:
    """The histogram of one fold out of that in which the bins of all lie side by side."""
    bins = slice(fold * like.num_bins, (fold + 1) * like.num_bins)
    taken = LabelHistogram(like.num_labels, like.num_bins)
    taken.counts = beside.counts[:, :, bins].contiguous()
    taken.least, taken.greatest = beside.least[:, bins].contiguous(), beside.greatest[:, bins].contiguous()
    taken.positive_rows = taken.counts[:, 1].sum(1)
    taken.rows = taken.positive_rows + taken.counts[:, 0].sum(1)
    if bool(taken.rows.any()):
        taken.least_weight = taken.greatest_weight = torch.ones_like(taken.least_weight)
    return taken
