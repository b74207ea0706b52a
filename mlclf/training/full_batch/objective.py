"""The objective that solvers minimize, with its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mlclf.training.full_batch.chunks import Chunks, Problems, cell_weights, problem_slices
from mlclf.training.losses import loss_and_slope


def smooth_objective(chunks: Chunks, problems: Problems, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Data term + l2 term of each problem, [P], and the gradient, [D + V + 1, P]; in one pass."""
    value = torch.zeros(len(problems), dtype=torch.float64)
    gradient = torch.zeros_like(columns)
    for chunk in chunks():
        for part in problem_slices(chunk, problems):
            labels = chunk.labels[:, problems.labels[part]].double()
            cells = cell_weights(chunk, problems, part)
            loss, slope = loss_and_slope(chunk.logits(columns[:, part]), labels, problems.pos_weight[part])
            value[part] += torch.linalg.vecdot(loss, cells, dim=0)
            gradient[:, part] += chunk.back(slope.mul_(cells))
    weights = columns[:-1]
    value += 0.5 * problems.l2 * weights.square().sum(0)
    gradient[:-1] += problems.l2 * weights
    return value, gradient
