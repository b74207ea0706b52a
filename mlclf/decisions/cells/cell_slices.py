"""Slices of scored rows, checked once and small enough for the processor's cache, that all row-by-row metrics share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.checks import check_finite, check_scores, checked_weights

SLICE_CELLS = 1 << 19
"""Cells of a slice: few enough for temporaries of a few MiB, enough to make the cost of a call vanish."""


@dataclass
class CellSlice:
    """b rows of K labels without padding.

    Attributes:
        logits, scores: [b, K] float32; anything in a cell that is not seen.
        labels: [b, K] bool, positives among the seen cells.
        identities: [b] int64, see `Cells`.
        seen: [b, K] bool, False where the label is hidden or its weight is 0; None where all cells count.
        row_weights: [b] float64; None where all are 1.
        label_weights: [b, K] float64, by which the row's weight is multiplied for a label; None where all are 1.
    """

    logits: Tensor
    scores: Tensor
    labels: Tensor
    identities: Tensor
    seen: Tensor | None
    row_weights: Tensor | None
    label_weights: Tensor | None

    def observed(self, values: Tensor) -> Tensor:
        """The values [b, K], False or 0 in the cells that are not seen."""
        if self.seen is None:
            return values
        return values & self.seen if values.dtype == torch.bool else values.where(self.seen, 0)

    def seen_cells(self) -> Tensor:
        """[b, K] bool, the cells that count."""
        return torch.ones_like(self.labels[:1]).expand_as(self.labels) if self.seen is None else self.seen

    def labelled(self) -> Tensor:
        """[b] bool, the rows with a label that is seen."""
        if self.seen is None:
            return torch.ones(len(self.labels), dtype=torch.bool, device=self.labels.device)
        return self.seen.view(torch.uint8).amax(1).bool()  # a tenth of the time of any

    def label_sums(self, values: Tensor) -> Tensor:
        """Weighted sums over the rows of values that are 0 where nothing is seen: [K] float64 of [b, K]."""
        if self.label_weights is not None:
            values = values * self.label_weights
        if self.row_weights is not None:
            return self.row_weights @ values.double()
        if values.dtype == torch.bool:
            return values.view(torch.uint8).sum(0, dtype=torch.int32).double()
        return values.sum(0, dtype=torch.float64)

    def weight_sums(self) -> Tensor:
        """Sums of the weights of the cells that count: [K] float64."""
        if self.seen is not None:
            return self.label_sums(self.seen)
        rows = self.labels.new_ones(len(self.labels))
        return self.row_sums(rows).expand(self.labels.shape[1])

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums over the rows, weighted by the row: [M] float64 of [b, M], or [] of [b]."""
        return values.double().sum(0) if self.row_weights is None else self.row_weights @ values.double()


def cell_slices(cells: Cells, scores: Tensor, width: int = 1) -> Iterator[CellSlice]:
    """Check scored rows, drop padding, and yield the rest in slices of about `SLICE_CELLS` cells.

    All checks are made before the first slice.

    Args:
        cells: n rows of K labels; rows of weight 0 are padding.
        scores: [n, K] float32, the probabilities of the logits.
        width: what a row costs at least, in cells.

    Raises:
        DataError: A logit that counts is not finite, a score is not a probability, or a weight is negative or not
            finite.
        TypeError: The scores are not float32.
    """
    if scores.dtype != torch.float32:
        raise TypeError(f"scores must be float32, got {scores.dtype}")
    for name, weights in (("weights", cells.weights), ("label weights", cells.label_weights)):
        if weights is not None:
            checked_weights(weights, name)
    if cells.weights is not None and not bool((kept := cells.weights > 0).all()):
        cells, scores = cells.where(kept), scores[kept]
    slices = [_sliced(cells, scores, rows) for rows in _row_slices(len(cells), max(width, scores.shape[1]))]
    # Without hidden cells all are looked at together, which is faster where they are stored label by label.
    all_seen = cells.mask is None and cells.label_weights is None
    whole = CellSlice(cells.logits, scores, cells.labels, cells.identities, None, None, None)
    for part in [whole] if all_seen else slices:
        if part.labels.numel():
            check_finite(part.logits, part.seen)
            check_scores(part.scores, part.seen)
    yield from slices


def _row_slices(num_rows: int, width: int) -> Iterator[slice]:
    step = max(1, SLICE_CELLS // width)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _sliced(cells: Cells, scores: Tensor, rows: slice) -> CellSlice:
    labels = cells.labels[rows]
    labels = labels if labels.dtype == torch.bool else labels != 0
    seen = None if cells.mask is None else cells.mask[rows]
    label_weights = None if cells.label_weights is None else cells.label_weights[rows].double()
    if label_weights is not None:
        weighted = label_weights > 0
        seen = weighted if seen is None else seen & weighted
    return CellSlice(
        cells.logits[rows].float(),
        scores[rows],
        labels if seen is None else labels & seen,
        cells.identities[rows],
        seen,
        None if cells.weights is None else cells.weights[rows].double(),
        label_weights,
    )
