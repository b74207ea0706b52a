"""A linear layer and its binary cross-entropy in one step, whose gradient is found on the way forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs·weightᵀ + bias: [n, m], [k, m], [k] → [n, k].

    By oneDNN where a CPU has float32 for it, in half the time that BLAS takes for few outputs on AMD's processors.
    """
    is_plain = inputs.device.type == "cpu" and inputs.dtype == torch.float32
    if is_plain and inputs.numel() and weight.numel() and has_onednn():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result
    return functional.linear(inputs, weight, bias)


def has_onednn() -> bool:
    """Whether this PyTorch was built with oneDNN."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch's is_available


class LinearBCE(torch.autograd.Function):
    """The mean over cells of BCE(z, y) for z = x·Wᵀ + b (+ sums of rows of an embedding).

    The gradient of the logits is sigmoid(z) − y, so none is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, dense: Tensor, weight: Tensor, bias: Tensor, labels: Tensor,
        embedding: Tensor | None, ids: Tensor | None, offsets: Tensor | None,
    ) -> Tensor:  # fmt: skip
        logits = product(dense, weight, bias)
        if embedding is not None:
            assert ids is not None
            logits += functional.embedding_bag(ids, embedding, offsets, mode="sum", include_last_offset=True)
        targets = labels.to(logits.dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, targets)
        slope = logits.sigmoid_().sub_(targets).div_(logits.numel())
        ctx.vocabulary = None if embedding is None else embedding.shape
        rows = () if ids is None or offsets is None else embedding_gradient(slope, ids, offsets)
        ctx.save_for_backward(product(slope.t(), dense.t()), slope.sum(0), *rows)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = list(ctx.saved_tensors)
        ids = gradients.pop(2) if len(gradients) > 2 else None
        if (
            grads[0].device.type != "cpu" or float(grads[0]) != 1
        ):  # fresh memory for a product takes longer than the sum
            gradients = [gradient * grads[0] for gradient in gradients]
        weight, bias, *rows = gradients
        embedding = None
        if ids is not None:
            embedding = torch.sparse_coo_tensor(
                ids[None], rows[0], ctx.vocabulary, is_coalesced=True, check_invariants=False
            )
        return None, weight, bias, None, embedding, None, None


def embedding_gradient(slope: Tensor, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The ids that occur [U] int64, rising, and the sum of the rows of `slope` [B, K] in which each does: [U, K].

    It is a bag itself, of rows for each id, so nothing of the size of ids × K is made, as autograd does.
    """
    rows = torch.repeat_interleave(torch.arange(len(slope), device=ids.device), offsets.diff())
    order = ids.argsort()
    found, counts = torch.unique_consecutive(ids[order], return_counts=True)
    bounds = functional.pad(counts.cumsum(0), (1, 0))
    return found, functional.embedding_bag(rows[order], slope, bounds, mode="sum", include_last_offset=True)


def linear_bce(
    dense: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    embedding: Tensor | None = None,
    ids: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy of an ``nn.Linear``, as ``BCEWithLogitsLoss()(linear(dense), labels)`` gives it.

    With `embedding`, that of ``linear(dense) + bag(ids, offsets)`` for an ``nn.EmbeddingBag`` of sums with
    ``include_last_offset``; its gradient is sparse. Faster on a CPU, because gradients are found while the logits are
    in the cache. Nothing flows back into `dense`.

    Args:
        dense: [B, D] float32.
        weight, bias: [K, D] and [K] float32, as of an ``nn.Linear``.
        labels: [B, K] of 0 and 1, of any type.
        embedding: [V, K] float32.
        ids, offsets: [n] and [B + 1] int64, the ids of each row.

    Returns:
        A float32 scalar.
    """
    loss: Tensor = LinearBCE.apply(dense, weight, bias, labels, embedding, ids, offsets)  # type: ignore[no-untyped-call]  # torch's apply
    return loss
