"""Probabilities put right on held-out rows: the refit after pos_weight, and bounds for logits that claim too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.curves import Calibrators
from mlclf.decisions.calibration.logistic import fit_logistic, platt_targets, slope_bounds
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.training.full_batch.l2_search import HeldOutCells

GRID = torch.arange(-14.0, -0.4, 0.5, dtype=torch.float64)
MIN_GAIN_NATS = 10.0
"""A bound is kept only when it raises the held-out log-likelihood by this much: e¹⁰ times as likely.

It was chosen as the best of a grid on the rows that judge it. With less, hiva (115 positives) took bounds by chance.
"""

CALIBRATION_BINS = 1024
SLOPES = slope_bounds(0.05, 20.0)
"""Of the refit after pos_weight: a slope and a free intercept."""


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


@dataclass(frozen=True)
class Calibration:
    """logit → bounds(slope · logit + intercept); slope and intercept [K] float64 go into the model's weights."""

    slope: Tensor
    intercept: Tensor
    bounds: LogitBounds

    @classmethod
    def none(cls, num_labels: int) -> Calibration:
        ones = torch.ones(num_labels, dtype=torch.float64)
        return cls(ones, torch.zeros_like(ones), LogitBounds.none(num_labels))

    def apply(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, K] of logits of the trained model, in the same dtype."""
        if (self.slope != 1).any() or (self.intercept != 0).any():
            logits = (logits.double() * self.slope + self.intercept).to(logits.dtype)
        return self.bounds.apply(logits)


def fit_calibration(
    histogram: LabelHistogram, log_weights: Tensor, calibrators: Calibrators | None = None
) -> Calibration:
    """Calibrate on held-out rows: a refit where pos_weight was used, bounds where they are clearly needed.

    Args:
        histogram: logits of held-out rows by the trained model.
        log_weights: [K] float64, log of the pos_weight of each label; 0 where there was none.
        calibrators: slopes and intercepts for labels without pos_weight; None leaves these as they are.
    """
    slope, intercept = torch.ones_like(log_weights), torch.zeros_like(log_weights)
    if calibrators is not None:
        slope, intercept = calibrators.low_slope.clone(), calibrators.intercept.clone()
    weighted = log_weights != 0
    if weighted.any():
        refitted = fit_slopes(histogram, -log_weights)
        slope, intercept = torch.where(weighted, refitted[0], slope), torch.where(weighted, refitted[1], intercept)
    return Calibration(slope, intercept, fit_bounds(histogram, slope, intercept))


def fit_bounds(histogram: LabelHistogram, slope: Tensor, intercept: Tensor) -> LogitBounds:
    """The bounds under which held-out rows are most likely, where they are clearly more likely than without.

    Args:
        histogram: logits of held-out rows.
        slope, intercept: [K] float64, applied to the logits first.
    """
    low = torch.full((histogram.num_labels,), -torch.inf, dtype=torch.float64)
    high = -low
    for part, centres, positives, negatives in _label_parts(histogram):
        centres = centres * slope[part, None] + intercept[part, None]
        low[part] = _best_floor(centres, positives, negatives)
        raised = torch.where(low[part, None] > -torch.inf, _raised(centres, low[part, None]), centres)
        high[part] = -_best_floor(-raised, negatives, positives)
    return LogitBounds(low, high)


def _label_parts(histogram: LabelHistogram) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
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


def fit_slopes(histogram: LabelHistogram, start: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept [K] float64 that make held-out logits calibrated (Platt 1999), by `fit_logistic`.

    The slope is kept within [0.05, 20]: the order of the scores does not change. Targets are `platt_targets`. Labels of
    one class keep slope 1 and the intercept of `start`.

    Args:
        histogram: logits of held-out rows, of the weighted model.
        start: [K] float64, first intercepts (−log pos_weight).
    """
    first = torch.stack([torch.ones_like(start.double()), start.double()], 1)
    fitted = first.clone()
    for part, centres, positives, negatives in _label_parts(histogram):
        both = (positives.sum(1) > 0) & (negatives.sum(1) > 0)
        z, targets, totals = centres[both], platt_targets(positives[both], negatives[both]), positives + negatives
        best = fit_logistic(torch.stack([z, torch.ones_like(z)]), targets, totals[both], SLOPES, first[part][both])
        fitted[part] = first[part].masked_scatter(both[:, None], best)
    return fitted[:, 0], fitted[:, 1]


def calibrated_loss(rows: Sequence[HeldOutCells], log_weights: Tensor) -> Tensor:
    """Mean log-loss of each label over held-out rows, calibrated on these rows: [K] float64, NaN where unobserved.

    Each bound is charged MIN_GAIN_NATS, spread over the effective rows, for having been chosen on them.
    """
    num_labels = len(log_weights)
    histogram = LabelHistogram(num_labels, CALIBRATION_BINS)
    for part in rows:
        histogram.update(part.logits, part.labels, part.cells > 0, part.cells.amax(1) if num_labels else None)
    calibration = fit_calibration(histogram, log_weights)
    loss, total = torch.zeros_like(log_weights), torch.zeros_like(log_weights)
    for part in rows:
        logits = calibration.apply(part.logits.double())
        cell_loss = -functional.logsigmoid(-logits) - part.labels * logits
        loss += (cell_loss * part.cells).sum(0)
        total += part.cells.sum(0)
    bounds = (calibration.bounds.low > -torch.inf).double() + (calibration.bounds.high < torch.inf).double()
    charge = MIN_GAIN_NATS * bounds / histogram.effective_rows().clamp_min(1)
    return torch.where(total > 0, loss / total + charge, torch.nan)
