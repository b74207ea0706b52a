"""Checks of logits, scores and weights: one each, for rows of one label or of several."""

from __future__ import annotations

from torch import Tensor

from mlclf.errors import DataError


def checked_weights(weights: Tensor, what: str = "weights") -> Tensor:
    """Return weights [n] or [n, K] as float64, if they are finite and not negative."""
    weights = weights.double()
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        where = f"row {place[0]}" if len(place) == 1 else f"row {place[0]} for label {place[1]}"
        raise DataError(f"{what} must be finite and not negative, got {float(weights[place])!r} in {where} of a batch")
    return weights


def check_finite(logits: Tensor, mask: Tensor | None) -> None:
    """Refuse logits, [n] or [n, K], that are not finite where a label is observed."""
    if bool(logits.sum().isfinite()):  # many times cheaper than to ask each; the sum of finite ones may overflow
        return
    _refuse(
        logits,
        logits.isfinite(),
        mask,
        "logits must be finite where a label is observed",
        "look for infinite inputs or weights",
    )


def check_scores(scores: Tensor, mask: Tensor | None) -> None:
    """Refuse scores, [n, K], that are no probabilities where a label is observed."""
    if bool((scores.amin() >= 0) & (scores.amax() <= 1)):  # both NaN where one score is
        return
    good = (scores >= 0) & (scores <= 1)
    _refuse(scores, good, mask, "scores must be probabilities from 0 to 1", "logits are refused, not converted")


def _refuse(values: Tensor, good: Tensor, mask: Tensor | None, must: str, hint: str) -> None:
    bad = ~good if mask is None else ~good & mask
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        where = f"in row {place[0]}" if len(place) == 1 else f"for label {place[1]}"
        raise DataError(
            f"{must}, got {float(values[place])!r} {where} ({int(bad.sum())} such cells in a batch); {hint}"
        )
