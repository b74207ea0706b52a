"""Bootstrap of AUROC and average precision: a coarse histogram of the logits for every replicate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice

_LIMIT = 16.0
_MOST_BINS = 128
_LEAST_BINS = 32
_CHUNK_CELLS = 1 << 17


class ReplicateHistograms(Metric):
    """Counts of negatives and positives in bins of the logit, for each replicate of a bootstrap, replicate 0 the data.

    The bins are uniform on ±16. There are 128 a label, halved down to 32 until R × K × T of them fit the budget; past
    that, those of all labels are pooled, so that averages over labels have no interval.

    State: `counts` [K or 1, 2, T, R + 1] float32, negatives first, summed over ranks.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_labels: int, num_replicates: int, budget_bytes: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        bytes_per_bin = 2 * 4 * (num_replicates + 1)
        fitting = budget_bytes // (bytes_per_bin * num_labels)
        self.per_label = num_labels == 1 or fitting >= _LEAST_BINS
        self.num_bins = _MOST_BINS
        while self.per_label and num_labels > 1 and self.num_bins > fitting:
            self.num_bins //= 2
        self.num_kept, self.num_replicates = (num_labels if self.per_label else 1), num_replicates
        # A placeholder: torchmetrics keeps a copy of every default, and the real state is as large as the budget.
        self.add_state("counts", torch.empty(0), dist_reduce_fx="sum")
        self._clear()

    def _clear(self) -> None:
        shape = (self.num_kept, 2, self.num_bins, self.num_replicates + 1)
        self.counts = torch.zeros(shape, dtype=torch.float32, device=self.counts.device)

    def reset(self) -> None:
        """Empty the histograms."""
        super().reset()
        self._clear()

    def update(self, part: CellSlice, drawn: Tensor) -> None:
        """Add a slice of rows, with their weights in the replicates, [b, R + 1] float32."""
        table = self.counts.view(-1, self.num_replicates + 1)
        for rows in _chunks(len(part.labels), part.labels.shape[1]):
            seen = None if part.seen is None else part.seen[rows]
            bags, row, weights = self._cells(part, rows, seen)
            starts = torch.cat([bags.new_zeros(min(1, len(bags))), (bags[1:] != bags[:-1]).nonzero()[:, 0] + 1])
            table[bags[starts]] += embedding_bag(row, drawn[rows], starts, mode="sum", per_sample_weights=weights)

    def _cells(self, part: CellSlice, rows: slice, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The seen cells of some rows in the order of their bins: bin and row, [c] int64, and weight, [c] float32."""
        labels = part.labels[rows]
        place = (part.logits[rows] + _LIMIT) * (self.num_bins / (2 * _LIMIT))
        bins = place.clamp_(0, self.num_bins - 1).nan_to_num_(0).long() + labels * self.num_bins
        if self.per_label:
            bins += torch.arange(labels.shape[1], device=bins.device) * (2 * self.num_bins)
        cells = (bins << 32) | torch.arange(bins.numel(), device=bins.device).view_as(bins)
        cells = cells.flatten() if seen is None else cells[seen]
        cells = _sorted(cells)
        index = cells & 0xFFFFFFFF
        weights = None if part.label_weights is None else part.label_weights[rows].flatten()[index].float()
        return cells >> 32, index // labels.shape[1], weights

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return what `aurocs` and `average_precisions` return."""
        return self.aurocs(), self.average_precisions()

    def aurocs(self) -> Tensor:
        """Return [R + 1, K or 1] float64, the AUROC of each label in each replicate; ties within a bin count half."""
        return torch.stack([_auroc(counts.double()) for counts in self.counts], 1)

    def average_precisions(self) -> Tensor:
        """Return [R + 1, K or 1] float64, the average precision of each label in each replicate, bins being ties."""
        return torch.stack([_average_precision(counts.double()) for counts in self.counts], 1)

    def pooled(self) -> ReplicateHistograms:
        """Return the histograms of the cells of all labels."""
        pool = ReplicateHistograms(1, self.num_replicates, 0)
        pool.num_bins = self.num_bins
        pool.counts = self.counts.sum(0, keepdim=True)
        return pool


def _chunks(num_rows: int, num_labels: int) -> Iterator[slice]:
    step = max(1, _CHUNK_CELLS // num_labels)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _sorted(values: Tensor) -> Tensor:
    if values.device.type != "cpu":
        return values.sort().values
    values.numpy().sort()  # vectorised, and many times as fast as torch's
    return values


def _auroc(counts: Tensor) -> Tensor:
    """[R + 1] of [2, T, R + 1]."""
    negatives, positives = counts
    below = negatives.cumsum(0) - negatives / 2
    area: Tensor = (positives * below).sum(0) / (positives.sum(0) * negatives.sum(0))
    return area


def _average_precision(counts: Tensor) -> Tensor:
    """[R + 1] of [2, T, R + 1]; NaN without both classes."""
    negatives, positives = counts
    true, false = (part.flip(0).cumsum(0).flip(0) for part in (positives, negatives))
    total = positives.sum(0)
    values: Tensor = (positives * true / (true + false)).nan_to_num(0.0).sum(0) / total
    return values.where(negatives.sum(0) > 0, torch.nan)
