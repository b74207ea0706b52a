"""Logits and labels drawn from a known truth, and histograms of them, for the tests of calibration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.decisions.histograms.label_histogram import LabelHistogram

Array = NDArray[np.float64]


def true_logits(rows: int, labels: int = 1, seed: int = 0, mean: float = -1.0) -> tuple[Array, Array]:
    """Logits [n, K] that are right, and labels [n, K] of 0 and 1 drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(mean, 2, (rows, labels))
    return logits, (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)


def histogram_of(logits: Array, labels: Array, weights: Array | None = None, num_bins: int = 2048) -> LabelHistogram:
    """A histogram of logits and labels [n, K]."""
    histogram = LabelHistogram(logits.shape[1], num_bins)
    weight = None if weights is None else torch.from_numpy(weights)
    histogram.update(torch.from_numpy(logits).float(), torch.from_numpy(labels != 0), None, weight)
    return histogram


def folds_of(
    logits: Array, labels: Array, weights: Array | None = None, folds: int = 5, num_bins: int = 2048
) -> list[LabelHistogram]:
    """Histograms of every fifth row, and so on."""
    rows = [slice(fold, None, folds) for fold in range(folds)]
    return [histogram_of(logits[r], labels[r], None if weights is None else weights[r], num_bins) for r in rows]


def log_loss(logits: Array | Tensor, labels: Array) -> Array:
    """Mean log-loss of each label, [K], of logits [n, K]."""
    z = np.asarray(logits)
    return np.asarray((np.logaddexp(0, z) - labels * z).mean(0))
