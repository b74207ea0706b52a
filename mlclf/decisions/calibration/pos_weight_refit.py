"""The effect of pos_weight undone: a logistic refit of each label's held-out logits."""

from __future__ import annotations

import torch
from torch import Tensor

from mlclf.decisions.calibration.logistic import fit_logistic, platt_targets, slope_bounds
from mlclf.decisions.calibration.logit_bounds import label_parts
from mlclf.decisions.histograms.label_histogram import LabelHistogram

SLOPES = slope_bounds(0.05, 20.0)
"""Of the refit after pos_weight: a slope and a free intercept."""


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
    for part, centres, positives, negatives in label_parts(histogram):
        both = (positives.sum(1) > 0) & (negatives.sum(1) > 0)
        z, targets, totals = centres[both], platt_targets(positives[both], negatives[both]), positives + negatives
        best = fit_logistic(torch.stack([z, torch.ones_like(z)]), targets, totals[both], SLOPES, first[part][both])
        fitted[part] = first[part].masked_scatter(both[:, None], best)
    return fitted[:, 0], fitted[:, 1]
