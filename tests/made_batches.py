"""Batches made of arrays, for tests of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlclf.data.batch import Batch


def made_batch(
    dense: NDArray[np.float64],
    labels: NDArray[np.integer],
    *,
    mask: NDArray[np.bool_] | None = None,
    weights: NDArray[np.float64] | None = None,
    parts: NDArray[np.integer] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    values: Sequence[Sequence[float]] | None = None,
) -> Batch:
    """A batch of dense [n, D], labels [n, K] and, for each row, its token ids with their values."""
    rows = len(dense)
    tokens = tokens or [[]] * rows
    offsets = np.cumsum([0, *map(len, tokens)])
    flat = np.array([value for row in values or [] for value in row], np.float32)
    truth = labels if mask is None else labels * mask
    return Batch(
        dense=torch.from_numpy(np.asarray(dense, np.float32)),
        ids=torch.tensor([token for row in tokens for token in row], dtype=torch.int64),
        offsets=torch.from_numpy(offsets.astype(np.int64)),
        values=None if values is None else torch.from_numpy(flat),
        labels=torch.from_numpy(truth.astype(np.uint8)),
        label_mask=None if mask is None else torch.from_numpy(mask),
        weights=torch.from_numpy(np.ones(rows, np.float32) if weights is None else weights.astype(np.float32)),
        parts=torch.from_numpy(np.zeros(rows, np.int8) if parts is None else parts.astype(np.int8)),
        rows=torch.arange(rows),
    )


def correlated(rows: int, inputs: int, labels: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inputs [n, D] of different scales that depend on each other, and labels [n, K] drawn from a linear model."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)) @ (np.eye(inputs) + 0.4 * rng.normal(size=(inputs, inputs)))
    x = (x * 10.0 ** rng.uniform(-1, 1, inputs)).astype(np.float32).astype(np.float64)
    logits = x / x.std(0) @ rng.normal(size=(inputs, labels)) - rng.uniform(0, 2, labels)
    return x, (rng.random((rows, labels)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
