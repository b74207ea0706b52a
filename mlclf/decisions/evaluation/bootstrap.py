"""Poisson bootstrap: sums of replicates over a stream, and the intervals between their percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice
from mlclf.decisions.metrics.confusion import at_half, confusion
from mlclf.decisions.metrics.log_loss import cell_losses

LEVEL = 0.95
_DISTINCT_KEPT = 4096
_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
_FACTORS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB
_CELL_SUMS = ("flagged", "hits", "flagged_at_half", "hits_at_half", "positives", "weights", "loss", "squared_error")


def replicate_weights(identities: Tensor, num_replicates: int) -> Tensor:
    """How often each identity is drawn into each replicate: [n, R + 1] uint8 of [n] int64.

    Column 0 is the data as it is, 1 everywhere; the others are Poisson(1) (Chamandy, Muralidharan, Najmi and Naidu,
    "Estimating uncertainty for massive data streams", Google 2012). They are a pure function of identity and
    replicate: SplitMix64 in counter mode, 16 bits for a draw. So rows of one identity are drawn together in every
    label, shard and rank, and replicates of parts add up to those of the whole.
    """
    counters = torch.arange(1, -(-num_replicates // 4) + 1, device=identities.device)
    bits = _mixed(identities[:, None] + counters * _GOLDEN).view(torch.int16)
    draws, share = torch.zeros_like(bits, dtype=torch.uint8), 0.0
    for count in range(8):  # a draw is above `count` with probability 1 - share
        share += math.exp(-1) / math.factorial(count)
        draws += (bits >= round(share * 65_536) - 32_768).view(torch.uint8)
    return torch.cat([draws.new_ones(len(draws), 1), draws[:, :num_replicates]], 1)


class ReplicateSums(Metric):
    """Weighted sums over the rows of each replicate of a bootstrap; replicate 0 is the data as it is.

    The sums of cells are kept per label where R × K of them fit the budget, else pooled over the labels, so that
    averages over labels have no interval.

    States, float64, summed over ranks:
        cells: [R + 1, 8, K or 1], decisions, positives and losses, in the order of `_CELL_SUMS`.
        rows: [R + 1, M], what the caller says of each row.
        labelled_rows: [R + 1], rows with an observed label.
    """

    full_state_update = False
    cells: Tensor
    rows: Tensor
    labelled_rows: Tensor

    def __init__(self, num_labels: int, num_row_values: int, num_replicates: int, budget_bytes: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        bytes_per_label = 8 * len(_CELL_SUMS) * (num_replicates + 1)
        self.per_label = num_labels == 1 or num_labels * bytes_per_label <= budget_bytes
        kept = num_labels if self.per_label else 1
        shapes = {
            "cells": (num_replicates + 1, len(_CELL_SUMS), kept),
            "rows": (num_replicates + 1, num_row_values),
            "labelled_rows": (num_replicates + 1,),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: CellSlice, decisions: Tensor, row_values: Tensor, drawn: Tensor) -> None:
        """Add a slice of rows.

        Sums within a slice are made in float32, which is exact for unweighted counts.

        Args:
            part: b rows.
            decisions: [b, K] bool, as taken.
            row_values: [b, M] float64, 0 for a row without an observed label.
            drawn: [b, R + 1] float32, the weights of the rows in the replicates, row weights included.
        """
        kept = []
        for values in _cell_values(part, decisions):
            weighted = values.float() if part.label_weights is None else (values * part.label_weights).float()
            kept.append(weighted if self.per_label else weighted.sum(1, keepdim=True))
        columns = torch.cat([*kept, row_values.float(), part.labelled()[:, None].float()], 1)
        sums = (columns.t() @ drawn).t()  # narrow by wide is the faster order
        num_cells = len(_CELL_SUMS) * kept[0].shape[1]
        self.cells += sums[:, :num_cells].reshape(self.cells.shape)
        self.rows += sums[:, num_cells:-1]
        self.labelled_rows += sums[:, -1]

    def compute(self) -> dict[str, Tensor]:
        """Return the states by name."""
        return {name: getattr(self, name) for name in self.metric_state}

    def sums(self, name: str) -> Tensor:
        """Sums of the cells by name: [R + 1, K or 1] float64."""
        return self.cells[:, _CELL_SUMS.index(name)]

    def counts(self) -> Tensor:
        """Confusion counts [2, 4, R + 1, K or 1] as decided and at 0.5, see `DecisionCounts`."""
        positives, weights = self.sums("positives"), self.sums("weights")
        pairs = (("flagged", "hits"), ("flagged_at_half", "hits_at_half"))
        return torch.stack([confusion(self.sums(a), self.sums(b), positives, weights) for a, b in pairs])


class DistinctCount(Metric):
    """How many identities were seen: exact below 4,096, then within about 3%.

    By the k smallest of their hashes (Bar-Yossef et al., "Counting distinct elements in a data stream", 2002).

    State: `smallest` [4,096] int64, the smallest distinct hashes; the greatest integer where there are fewer.
    """

    full_state_update = False
    smallest: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        none = torch.full((_DISTINCT_KEPT,), torch.iinfo(torch.int64).max)
        self.add_state("smallest", none, dist_reduce_fx=_smallest)

    def update(self, identities: Tensor) -> None:
        """Add identities, [n] int64."""
        hashes = _mixed(identities)
        hashes = hashes[hashes < self.smallest[-1]]
        if len(hashes):
            self.smallest = _smallest(torch.cat([self.smallest, hashes]))

    def compute(self) -> int:
        """Return `count()`."""
        return self.count()

    def count(self) -> int:
        """Return the number of distinct identities."""
        bounds = torch.iinfo(torch.int64)
        filled = int((self.smallest < bounds.max).sum())
        if filled < _DISTINCT_KEPT:
            return filled
        share = (float(self.smallest[-1]) - bounds.min) / 2.0**64
        return round((_DISTINCT_KEPT - 1) / share)


def percentile_interval(replicates: Tensor, level: float = LEVEL) -> Tensor:
    """Between which values the middle share `level` of the replicates lies: [2, …] of [R, …]; NaN ones are left out."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=replicates.dtype, device=replicates.device)
    return replicates.nanquantile(tails, dim=0)


def drawn_weights(part: CellSlice, num_replicates: int) -> Tensor:
    """Weights of the rows of a slice in the data and in each replicate: [b, R + 1] float32, row weights included."""
    drawn = replicate_weights(part.identities, num_replicates).float()
    return drawn if part.row_weights is None else drawn * part.row_weights[:, None].float()


def _cell_values(part: CellSlice, decisions: Tensor) -> Sequence[Tensor]:
    half = at_half(part.scores)
    return (
        part.observed(decisions),
        decisions & part.labels,
        part.observed(half),
        half & part.labels,
        part.labels,
        part.seen_cells(),
        cell_losses(part),
        part.observed((part.scores - part.labels.float()).square()),
    )


def _smallest(hashes: Tensor) -> Tensor:
    distinct: Tensor = torch.unique(hashes)[:_DISTINCT_KEPT]
    missing = _DISTINCT_KEPT - len(distinct)
    return torch.cat([distinct, distinct.new_full((missing,), torch.iinfo(torch.int64).max)])


def _mixed(values: Tensor) -> Tensor:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on int64, whose products wrap around."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        values = (values ^ _shifted(values, shift)) * factor
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros as unsigned integers do."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
