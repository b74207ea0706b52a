"""The model: one linear map from dense inputs and token ids to K logits, with optional hidden layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mlclf.data.batch import Batch

FAR = 1e30
"""Inputs and logits beyond it would leave float32: ∞ − ∞ is NaN."""


class LinearHead(nn.Module):
    """nn.Linear over dense inputs + nn.EmbeddingBag (sum) over token ids → logits [B, K].

    The bag is the same mathematics as a linear map of the one-hot or sparse vector, without that vector. Without
    hidden layers all weights start at zero; with them the first layers start at random (from torch's generator) and
    the last at zero, so training starts from the same constant logits.

    Attributes:
        linear: D → K, or D → first hidden width.
        embedding: V → the same width; None where there are no tokens.
        layers: the hidden layers after the first, then the last to K logits.
    """

    def __init__(self, num_dense: int, vocabulary_size: int, num_labels: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        widths = [*hidden, num_labels]
        self.num_dense, self.vocabulary_size, self.num_labels = num_dense, vocabulary_size, num_labels
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.linear = nn.Linear(num_dense, widths[0])
        self.embedding: nn.EmbeddingBag | None = None
        if vocabulary_size:
            self.embedding = nn.EmbeddingBag(vocabulary_size, widths[0], mode="sum", include_last_offset=True)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self._start(bool(hidden), num_dense + vocabulary_size)

    def _start(self, hidden: bool, num_inputs: int) -> None:
        last = self.layers[-1] if hidden else self.linear
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.embedding is not None:
            if hidden:
                nn.init.normal_(self.embedding.weight, std=min(0.1, num_inputs**-0.5))
            else:
                nn.init.zeros_(self.embedding.weight)

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor, values: Tensor | None = None) -> Tensor:
        """Logits [B, K] of dense [B, D] float32, ids [n] int64, offsets [B + 1] int64, values [n] float32 or None."""
        output: Tensor = self.linear(dense)
        if self.embedding is not None:
            output = output + self.embedding(ids, offsets, per_sample_weights=values)
        for layer in self.layers:
            output = layer(torch.relu(output))
        return output

    def batch_logits(self, batch: Batch) -> Tensor:
        """Logits [B, K] of a batch."""
        logits: Tensor = self(batch.dense, batch.ids, batch.offsets, batch.values)
        return logits

    @torch.inference_mode()
    def scoring_logits(self, batch: Batch) -> Tensor:
        """Logits [B, K] float32, finite also for inputs far beyond those of training, which are cut at ±1e30."""
        dense = batch.dense.clamp(-FAR, FAR)
        values = None if batch.values is None else batch.values.clamp(-FAR, FAR)
        logits: Tensor = self(dense, batch.ids, batch.offsets, values).float().clamp(-FAR, FAR)
        return logits

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        layer = self.layers[-1] if len(self.layers) else self.linear
        assert isinstance(layer, nn.Linear)
        return layer

    def decayed(self) -> list[Tensor]:
        """The parameters that L1 and L2 act on: all weights, never a bias."""
        return [parameter for name, parameter in self.named_parameters() if not name.endswith("bias")]

    @torch.no_grad()
    def rescale(self, slope: Tensor, intercept: Tensor) -> None:
        """Make every logit z into slope · z + intercept, by changing the last layer; slope, intercept: [K]."""
        self.last.weight.mul_(slope[:, None])
        self.last.bias.mul_(slope).add_(intercept)
        if not len(self.layers) and self.embedding is not None:
            self.embedding.weight.mul_(slope)


def head_from_columns(columns: Tensor, num_dense: int, vocabulary_size: int, used: Tensor) -> LinearHead:
    """A head without hidden layers from a solution [D + U + 1, K]: dense weights, embedding rows, biases.

    Args:
        used: [U] int64, the ids whose rows the solution has; all others are 0.
    """
    head = LinearHead(num_dense, vocabulary_size, columns.shape[1])
    with torch.no_grad():
        head.linear.weight.copy_(columns[:num_dense].T)
        head.linear.bias.copy_(columns[-1])
        if head.embedding is not None:
            head.embedding.weight[used] = columns[num_dense:-1].float()
    return head
