"""Convex problems over batches, for tests of solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.training.full_batch.chunks import Chunk, Problems


def chunks_of(batch: Batch, vocabulary: int = 0, size: int = 110) -> Callable[[], list[Chunk]]:
    """The rows in several chunks."""
    pieces = [batch.slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
    chunks = [Chunk.of(piece, vocabulary) for piece in pieces]
    return lambda: chunks


def problems_of(
    batch: Batch,
    l2: Any,
    *,
    pos_weight: Tensor | None = None,
    l1: float = 0.0,
    trained: Tensor | None = None,
) -> Problems:
    """One problem for every row of `trained` and label."""
    trained = torch.ones(1, 1, dtype=torch.float64) if trained is None else trained
    labels = torch.arange(batch.labels.shape[1]).repeat(len(trained))
    candidates = torch.arange(len(trained)).repeat_interleave(batch.labels.shape[1])
    mask = torch.ones_like(batch.labels, dtype=torch.float64) if batch.label_mask is None else batch.label_mask.double()
    weights = batch.weights.double()[:, None] * trained.T[batch.parts.long()]
    totals = torch.einsum("nr,nk->rk", weights, mask).reshape(-1)
    strengths = torch.as_tensor(l2, dtype=torch.float64).expand(len(labels)).clone()
    ones = torch.ones(len(labels), dtype=torch.float64)
    return Problems(labels, candidates, strengths, trained, totals, ones if pos_weight is None else pos_weight, l1)
