"""Models of different folds are moved to one mean logit, so that their held-out scores can be ranked together.

A model that was trained without some positives predicts less for all rows, and it scores just the rows with those
positives. Such differences between folds come from the rows held out, not from the row that is scored; in scores that
are pooled they put the folds in the wrong order. So every model is moved to the mean level of all of them, by its bias
alone: the level is the mean logit over all rows, which no label of a held-out row enters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.training.models import LinearHead


def level_shifts(levels: Tensor, totals: Tensor) -> Tensor:
    """What to add to the bias of each model, so that all have the same mean logit: [R, K] float64.

    >>> level_shifts(torch.tensor([[-1.0], [-3.0]]), torch.ones(2, 1)).tolist()
    [[-1.0], [1.0]]

    Args:
        levels: [R, K] float64, mean logit of each model and label over the same rows.
        totals: [R, K] float64, weight of the rows that each was trained on, by which they count.
    """
    weights = totals / totals.sum(0).clamp_min(1e-300)
    return (weights * levels).sum(0) - levels


@torch.inference_mode()
def level_heads(heads: Sequence[LinearHead], batches: Iterable[Batch], totals: Tensor) -> None:
    """Move the biases of models, in place, so that all have the same mean logit over the rows, those that observe the
    label; see `level_shifts`."""
    sums = torch.zeros(totals.shape, dtype=torch.float64)
    weights = torch.zeros(totals.shape[1], dtype=torch.float64)
    for batch in batches:
        mask = torch.ones(batch.labels.shape) if batch.label_mask is None else batch.label_mask
        cells = batch.weights.double()[:, None] * mask
        weights += cells.sum(0)
        for place, head in enumerate(heads):
            sums[place] += torch.linalg.vecdot(cells, head.eval().scoring_logits(batch).double(), dim=0)
    shifts = level_shifts(torch.where(weights > 0, sums / weights, 0.0), totals)
    for head, shift in zip(heads, shifts, strict=True):
        head.last.bias.add_(shift.float())
