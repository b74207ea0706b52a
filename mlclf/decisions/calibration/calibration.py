"""Probabilities put right on held-out rows: the refit after pos_weight, and bounds for logits that claim too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.calibrators import Calibrators
from mlclf.decisions.calibration.logit_bounds import MIN_GAIN_NATS, LogitBounds, fit_bounds
from mlclf.decisions.calibration.pos_weight_refit import fit_slopes
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.training.hold_out import HeldOutCells

CALIBRATION_BINS = 1024


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
        slope, intercept = calibrators.lines()
    weighted = log_weights != 0
    if weighted.any():
        refitted = fit_slopes(histogram, -log_weights)
        slope, intercept = torch.where(weighted, refitted[0], slope), torch.where(weighted, refitted[1], intercept)
    return Calibration(slope, intercept, fit_bounds(histogram, slope, intercept))


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
