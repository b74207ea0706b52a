"""Checks of logits, scores and weights."""

from __future__ import annotations

from torch import Tensor

from mlclf.errors import DataError


def checked_weights(weights: Tensor) -> Tensor:
    weights = weights.double()
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        place = tuple(int(index) for index in bad.nonzero()[0])
        where = f"row {place[0]}" if len(place) == 1 else f"row {place[0]} for label {place[1]}"
        raise DataError(f"weights must be finite and not negative, got {float(weights[place])!r} in {where} of a batch")
    return weights


def check_finite(logits: Tensor, mask: Tensor | None) -> None:
    """Refuse [B, K] logits that are not finite where a label is observed."""
    if bool(logits.sum().isfinite()):  # many times cheaper than to ask each; the sum of finite ones may overflow
        return
    bad = ~logits.isfinite()
    if mask is not None:
        bad &= mask
    if bool(bad.any()):
        row, label = (int(index) for index in bad.nonzero()[0])
        raise DataError(
            f"logits must be finite where a label is observed, got {float(logits[row, label])!r} for label {label} "
            f"in row {row} of a batch ({int(bad.sum())} such cells); look for infinite inputs or weights"
        )
