"""How well each row ranks its labels: precision and nDCG at k, label ranking average precision, coverage, loss."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cell_slices import CellSlice
from mlclf.decisions.cells.top_labels import top_labels
from mlclf.decisions.histograms.counting import true_places

TOP_COUNTS = (1, 3, 5)
RANKINGS = (
    *(f"p_at_{count}" for count in TOP_COUNTS),
    *(f"ndcg_at_{count}" for count in TOP_COUNTS),
    *("label_ranking_average_precision", "coverage_error", "label_ranking_loss"),
)
_NUM_TOP = len(TOP_COUNTS)
_MOST_TOP = max(TOP_COUNTS)
_DISCOUNTS = [1 / math.log2(1 + rank) for rank in range(1, _MOST_TOP + 1)]

_ALL_BUT_LOWEST = 0x7FFFFFFE
_OF_ZERO = _ALL_BUT_LOWEST - 2
"""The key of a score of 0, next to that of cells that are not seen."""


class RowRankings(Metric):
    """Means over rows of how well their scores rank their labels; see `row_rankings` for the definitions.

    Rows count that have an observed label.

    States, float64, weighted by the row, summed over ranks: `sums` [9], in the order of `RANKINGS`; `labelled_rows` [].
    """

    full_state_update = False
    sums: Tensor
    labelled_rows: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.add_state("sums", torch.zeros(len(RANKINGS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("labelled_rows", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, part: CellSlice, rankings: Tensor) -> None:
        """Add a slice of rows and what `row_rankings` says of it, [b, 9] float64."""
        self.add(part.row_sums(rankings), part.row_sums(part.labelled()))

    def add(self, sums: Tensor, labelled_rows: Tensor) -> None:
        """Add weighted sums over rows: of their rankings, [9] float64, and of those with an observed label, []."""
        self.sums += sums
        self.labelled_rows += labelled_rows

    def compute(self) -> Tensor:
        """Return `means()`."""
        return self.means()

    def means(self) -> Tensor:
        """Return [9] float64, the means in the order of `RANKINGS`; NaN without a row that has an observed label."""
        return self.sums / self.labelled_rows


def row_rankings(part: CellSlice) -> Tensor:
    """Rank the observed labels of each row by their scores, and measure the ranking.

    - `p_at_k`: positives among the k largest scores ÷ k, even where the row has fewer labels. Ties in label order.
    - `ndcg_at_k`: Σ 1/log2(1 + rank) over the positives of rank ≤ k, ÷ the most that can be (Järvelin and Kekäläinen
      2002); 0 without positives. Ties in label order, while scikit-learn averages over them.
    - `label_ranking_average_precision`: mean over the row's positives of the share of positives among the labels that
      score at least as much; 1 for a row of one class.
    - `coverage_error`: how many labels score at least as much as the row's lowest positive; 0 without positives.
    - `label_ranking_loss`: share of pairs of a positive and a negative where the negative scores at least as much; 0
      for a row of one class (Tsoumakas, Katakis and Vlahavas 2010 for these three; as scikit-learn has them).

    One sort of a row of integers gives all: the bits of a score in [0, 1] grow with it and leave the lowest bit free
    for the label. Cost K log K a row; a row with ties that matter costs several times more.

    Returns:
        [b, 9] float64, in the order of `RANKINGS`; 0 for a row without an observed label.
    """
    keys = _falling_keys(part)
    hits = _hits_of(keys)
    values = _of_distinct(hits, keys)
    tied = _tied_rows(hits, keys)
    if len(tied):
        scores, labels = part.scores[tied], part.labels[tied]
        values[tied] = _of_tied(keys[tied])
        top = labels.gather(1, top_labels(scores, None if part.seen is None else part.seen[tied], _MOST_TOP))
        values[tied, : 2 * _NUM_TOP] = _at_top(top, hits.positives[tied])
    num_seen = keys.shape[1] if part.seen is None else part.seen.sum(1)
    one_class = (hits.positives == 0) | (hits.positives == num_seen)
    values[:, -3] = values[:, -3].masked_fill(one_class, 1.0)
    pairs = hits.positives * (num_seen - hits.positives)
    values[:, -1] /= pairs.clamp(min=1)
    return values if part.seen is None else values * part.labelled()[:, None]


def _falling_keys(part: CellSlice) -> Tensor:
    """[b, K] int32, sorted: from the largest score to the least, among equal ones positives last, then the unseen.

    The lowest bit says whether the cell is positive, the bits above fall as the score grows. Those of -0.0, doubled,
    are those of 0.0.
    """
    keys = torch.rsub(part.scores.view(torch.int32), _OF_ZERO, alpha=2).bitwise_or_(part.labels.to(torch.int32))
    if part.seen is not None:
        keys = keys.masked_fill(~part.seen, _ALL_BUT_LOWEST)
    if keys.device.type != "cpu":
        return keys.contiguous().sort(1).values
    rows = np.ascontiguousarray(keys.numpy())  # half the time of torch's
    rows.sort(axis=1)  # vectorised, and 30 times as fast
    return torch.from_numpy(rows)


class _Hits(NamedTuple):
    """The p positives of b rows of sorted keys, row by row, from the largest score down."""

    places: Tensor  # [p] int64, among all keys
    ranks: Tensor  # [p] int64, from 1 up
    counts: Tensor  # [p] int64, the positives of its row down to this one
    positives: Tensor  # [b] int64, all those of a row

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums of values [p] float64 over the positives of each row: [b] float64."""
        return torch.segment_reduce(values, "sum", lengths=self.positives, unsafe=True)


def _hits_of(keys: Tensor) -> _Hits:
    positive = keys & 1
    places = true_places(positive.view(-1).bool())
    positives = positive.sum(1, dtype=torch.int32).long()
    rows = torch.repeat_interleave(positives, output_size=len(places))
    ranks = places - rows * keys.shape[1] + 1
    before = positives.cumsum(0) - positives
    counts = torch.arange(1, len(places) + 1, device=keys.device) - before.index_select(0, rows)
    return _Hits(places, ranks, counts, positives)


def _tied_rows(hits: _Hits, keys: Tensor) -> Tensor:
    """The rows with a positive that ties, [t] int64.

    Among ties a positive comes last, so its key differs from the one before by no more than the lowest bit.
    """
    flat, before = keys.view(-1), (hits.places - 1).clamp_(min=0)
    ties = ((flat.index_select(0, hits.places) ^ flat.index_select(0, before)) < 2) & (hits.ranks > 1)
    if not bool(ties.any()):
        return hits.places[:0]
    return torch.unique_consecutive(hits.places[ties] // keys.shape[1])  # type: ignore[no-any-return]  # torch has no type


def _of_distinct(hits: _Hits, keys: Tensor) -> Tensor:
    """Measures of rows without ties, the loss as a count of pairs: [b, 9] float64."""
    positives = hits.positives
    ranks = hits.ranks.double()
    average = hits.row_sums(hits.counts / ranks) / positives.clamp(min=1)
    lowest = (positives.cumsum(0) - 1).clamp(min=0)
    coverage = ranks.index_select(0, lowest).where(positives > 0, 0.0) if len(ranks) else torch.zeros_like(average)
    wrong_pairs = hits.row_sums(ranks) - (positives * (positives + 1) / 2).double()
    across = torch.stack([average, coverage, wrong_pairs], 1)
    return torch.cat([_at_top(keys[:, :_MOST_TOP] & 1, positives), across], 1)


def _of_tied(keys: Tensor) -> Tensor:
    """The same for rows with ties, whose labels all rank as the last of them; precision and nDCG at k are left 0."""
    num_labels, positive = keys.shape[1], keys & 1
    last = torch.ones_like(keys, dtype=torch.bool)
    last[:, :-1] = (keys[:, 1:] ^ keys[:, :-1]) > 1
    places = torch.arange(num_labels, device=keys.device).where(last, num_labels)
    ends = places.flip(1).cummin(1).values.flip(1)
    hits = positive.cumsum(1).gather(1, ends)
    ranks = ends + 1
    average = (positive * hits / ranks.double()).sum(1) / hits[:, -1].clamp(min=1)
    coverage = (positive * ranks).amax(1)
    wrong_pairs = (positive * (ranks - hits)).sum(1)
    across = torch.stack([average, coverage.double(), wrong_pairs.double()], 1)
    return torch.cat([across.new_zeros(len(keys), 2 * _NUM_TOP), across], 1)


def _at_top(top: Tensor, positives: Tensor) -> Tensor:
    """Precision and nDCG at 1, 3 and 5 of rows with the labels [b, ≤ 5] at their top: [b, 6] float64.

    There are few different tops, and all have been measured before.
    """
    code = torch.zeros_like(positives)
    for rank, column in enumerate(top.unbind(1)):
        code = code.add_(column, alpha=1 << rank)
    return _measured_tops(top.device).index_select(0, code.add_(positives.clamp(max=_MOST_TOP), alpha=1 << _MOST_TOP))


@cache
def _measured_tops(device: torch.device) -> Tensor:
    """[6 · 2⁵, 6] float64, by the positives of the row, 5 for more, and the labels at its top as bits."""
    tops = [
        _measured_top([code >> rank & 1 for rank in range(_MOST_TOP)], positives)
        for positives in range(_MOST_TOP + 1)
        for code in range(1 << _MOST_TOP)
    ]
    return torch.tensor(tops, dtype=torch.float64, device=device)


def _measured_top(top: list[int], positives: int) -> list[float]:
    """Precision, then nDCG, at 1, 3 and 5 of a row with these labels at its top and so many positives."""
    gains = [discount * label for discount, label in zip(_DISCOUNTS, top, strict=True)]
    most = [sum(_DISCOUNTS[: min(positives, count)]) or 1.0 for count in TOP_COUNTS]
    precisions = [sum(top[:count]) / count for count in TOP_COUNTS]
    return precisions + [sum(gains[:count]) / ideal for count, ideal in zip(TOP_COUNTS, most, strict=True)]
