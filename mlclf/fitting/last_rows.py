"""How a model does on the last of the rows: where these are in the order of time, whether it still holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells

LAST_SHARE = 0.1


def log_loss_sums(held_out: Iterable[Cells], calibrated: Callable[[Tensor], Tensor], prior: Tensor) -> Tensor:
    """Weighted sums [3] float64: log-losses of the model and of the constant logits `prior` [K], and the weights."""
    sums = torch.zeros(3, dtype=torch.float64)
    for cells in held_out:
        labels = cells.labels.double()
        mass = torch.ones_like(labels) if cells.mask is None else cells.mask.double()
        if cells.weights is not None:
            mass = mass * cells.weights.double()[:, None]
        for place, logits in enumerate((calibrated(cells.logits).double(), prior.double())):
            sums[place] += (mass * (torch.nn.functional.softplus(logits) - labels * logits)).sum()
        sums[2] += mass.sum()
    return sums


def caution(sums: Tensor) -> str | None:
    """A line where the model is worse than the constant, from `log_loss_sums` of the last rows."""
    model, constant, mass = sums.tolist()
    if not mass or not model > constant:
        return None
    return (
        f"hidden layers predict the last tenth of the rows worse (log-loss {model / mass:.4f}) than a constant does "
        f"({constant / mass:.4f}): if the rows are in the order of time, what they learned does not hold later; hold "
        "out by time with --valid-by time:COLUMN, and compare with --set 'model.hidden=[]'"
    )
