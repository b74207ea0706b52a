"""Bounds for logits: a label claims no more certainty than its held-out rows bear out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.histograms.label_histogram import LabelHistogram

GRID = torch.arange(-14.0, -0.4, 0.5, dtype=torch.float64)
MIN_GAIN_NATS = 10.0
"""A bound is kept only when it raises the held-out log-likelihood by this much: e¹⁰ times as likely.

It was chosen as the best of a grid on the rows that judge it. With less, hiva (115 positives) took bounds by chance.
"""


@dataclass(frozen=True)
class LogitBounds:
    """Soft bounds of the calibrated logits, label by label.

    A linear model extrapolates: a row far out gets a logit of −25 though one such row in a hundred is positive. The
    lower bound makes p into ε + p(1 − ε), nearly: log(e^low + e^z) = low + softplus(z − low), a model in which a share
    of the labels does not follow the inputs. It is strictly increasing, so the order of the scores does not change.

    Attributes:
        low, high: [K] float64; −inf and +inf where there is no bound.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def none(cls, num_labels: int) -> LogitBounds:
        nothing = torch.full((num_labels,), torch.inf, dtype=torch.float64)
        return cls(-nothing, nothing)

    def apply(self, logits: Tensor) -> Tensor:
        """Bounded logits [B, K], in the dtype given; unbounded labels come back bit for bit."""
        result = logits
        if (self.low > -torch.inf).any():
            result = torch.where(self.low > -torch.inf, _raised(result.double(), self.low), result.double())
        if (self.high < torch.inf).any():
            result = result.double()
            result = torch.where(self.high < torch.inf, -_raised(-result, -self.high), result)
        return result.to(logits.dtype)


def _raised(logits: Tensor, low: Tensor) -> Tensor:
    """low + softplus(z − low), exact in float64 for every z."""
    floor = torch.where(low > -torch.inf, low, 0.0)
    return floor - functional.logsigmoid(floor - logits)


def fit_bounds(histogram: LabelHistogram, slope: Tensor, intercept: Tensor) -> LogitBounds:
    """The bounds under which held-out rows are most likely, where they are clearly more likely than without.

    Args:
        histogram: logits of held-out rows.
        slope, intercept: [K] float64, applied to the logits first.
    """
    low = torch.full((histogram.num_labels,), -torch.inf, dtype=torch.float64)
    high = -low
    for part, centres, positives, negatives in label_parts(histogram):
        centres = centres * slope[part, None] + intercept[part, None]
        low[part] = _best_floor(centres, positives, negatives)
        raised = torch.where(low[part, None] > -torch.inf, _raised(centres, low[part, None]), centres)
        high[part] = -_best_floor(-raised, negatives, positives)
    return LogitBounds(low, high)


def label_parts(histogram: LabelHistogram) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Labels in slices, with [k, T] bin centres and counts scaled so that a label's weights sum to effective rows."""
    rows = histogram.effective_rows()
    for part in histogram.label_slices(64):
        positives, negatives = histogram.positives[part].double(), histogram.negatives[part].double()
        least, greatest = histogram.least[part].double(), histogram.greatest[part].double()
        filled = positives + negatives > 0
        centres = torch.where(filled, (least + greatest) / 2, 0.0)
        total = (positives + negatives).sum(1, keepdim=True)
        scale = rows[part, None] / total.clamp_min(1e-300)
        kept = filled.any(0)
        yield part, centres[:, kept], (positives * scale)[:, kept], (negatives * scale)[:, kept]


def _best_floor(logits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """[k] float64: the floor of GRID with the greatest likelihood, −inf where it gains too little."""

    def loss(values: Tensor) -> Tensor:
        return -(positives * functional.logsigmoid(values) + negatives * functional.logsigmoid(-values)).sum(1)

    best = loss(logits) - MIN_GAIN_NATS
    floor = torch.full_like(best, -torch.inf)
    for candidate in GRID:
        value = loss(_raised(logits, candidate))
        floor = torch.where(value < best, candidate, floor)
        best = torch.minimum(value, best)
    return floor
