"""Histograms of folds of the rows, by which what is chosen on some rows is judged on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mlclf.data.splits import mixed
from mlclf.decisions.cells import Cells
from mlclf.decisions.histograms import LabelHistogram, bins_for

NUM_FOLDS = 5
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

    def update(self, cells: Cells) -> None:
        """Count rows, each in its fold."""
        numbers = cells.identities.numpy().view(np.uint64)
        fold = torch.from_numpy((mixed(numbers ^ _SALT) % np.uint64(len(self.histograms))).astype(np.int64))
        for index, histogram in enumerate(self.histograms):
            part = cells.where(fold == index)
            histogram.update(part.logits, part.labels, part.mask, part.cell_weights())


def summed(histograms: Sequence[LabelHistogram]) -> LabelHistogram:
    """One histogram of all rows."""
    total = LabelHistogram(histograms[0].num_labels, histograms[0].num_bins)
    for histogram in histograms:
        total.merge(histogram)
    return total
