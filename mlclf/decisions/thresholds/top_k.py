"""The labels of a row with the largest scores, and thresholds that flag those and no others."""

from __future__ import annotations

import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.top_labels import is_top
from mlclf.decisions.histograms.bins import row_slices
from mlclf.decisions.metrics.confusion import f_measure
from mlclf.decisions.thresholds.thresholds import Thresholds


class TopCounts:
    """What flagging the best labels of each row comes to, label by label, over a stream of rows.

    Attributes:
        least: [K] float32, the least score that is flagged; +inf where none is.
        positives, flagged, total: [K] float64, sums of weights: true positives, flagged, positives.
        positive_rows: [K] int64.
    """

    def __init__(self, num_labels: int, count: int) -> None:
        self.count = count
        self.least = torch.full((num_labels,), torch.inf)
        self.positives, self.flagged, self.total = (torch.zeros(num_labels, dtype=torch.float64) for _ in range(3))
        self.positive_rows = torch.zeros(num_labels, dtype=torch.int64)

    def update(self, cells: Cells, scores: Tensor) -> None:
        """Count rows; `scores` [n, K] float32 are those of the cells' logits."""
        weights = cells.cell_weights()
        for rows in row_slices(*scores.shape):
            part = scores[rows]
            mass = torch.ones(part.shape, dtype=torch.float64)
            if weights is not None:
                mass = mass * (weights[rows][:, None] if weights.dim() == 1 else weights[rows])
            seen = mass > 0 if cells.mask is None else cells.mask[rows] & (mass > 0)
            flagged = is_top(part, seen, self.count)
            positive = (cells.labels[rows] != 0) & seen
            self.least = torch.minimum(self.least, part.where(flagged, torch.inf).amin(0))
            self.positives += (mass * (flagged & positive)).sum(0)
            self.flagged += (mass * flagged).sum(0)
            self.total += (mass * positive).sum(0)
            self.positive_rows += positive.sum(0)

    def thresholds(self, objective: str) -> Thresholds:
        """Thresholds that flag these labels, at most `count` of a row, and how they did on the rows counted."""
        never = self.flagged == 0
        threshold = self.least.where(~never, torch.nan)
        return Thresholds(
            thresholds=threshold,
            status=["unattainable" if nothing else "tuned" for nothing in never.tolist()],
            support=self.positive_rows,
            precision=self.positives / self.flagged,
            recall=self.positives / self.total,
            f1=f_measure(self.positives, self.flagged, self.total),
            intervals=torch.stack([torch.zeros_like(threshold), threshold], 1),
            objective=objective,
            method="empirical",
            per_row=self.count,
        )
