"""Batch: rows ready for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mlclf.data.arrow.identities import joined_tables

ON_HOST = ("rows", "groups")
"""Fields of a batch that no model needs."""


class TokenIds(NamedTuple):
    """The token ids of B rows: ids [n] int64, offsets [B + 1] int64, values [n] float32 or None, as in `Batch`."""

    ids: Tensor
    offsets: Tensor
    values: Tensor | None


@dataclass
class Batch:
    """A batch of B rows: inputs, labels and weights.

    Attributes:
        dense: [B, D] float32, numeric inputs after scaling, missing ones 0 (the mean).
        ids: [n] int64, token ids of all rows, one row after the other.
        offsets: [B + 1] int64, where each row's ids begin.
        values: [n] float32, weight of each id, or None where every weight is 1.
        labels: [B, K] uint8 of 0 and 1; 0 where not observed.
        label_mask: [B, K] bool, True where observed; None where all are.
        weights: [B] float32, row weights; 0 marks padding.
        parts: [B] int8, part of the split.
        rows: [B] int64, row numbers in the plan.
        keys: key columns of the rows, where asked for.
        groups: [B] int64, hashes of the groups of the rows, where asked for.
    """

    dense: Tensor
    ids: Tensor
    offsets: Tensor
    values: Tensor | None
    labels: Tensor
    label_mask: Tensor | None
    weights: Tensor
    parts: Tensor
    rows: Tensor
    keys: pa.Table | None = None
    groups: Tensor | None = None

    def __len__(self) -> int:
        return self.dense.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same rows on a device, copied through page-locked memory so that the copies do not block.

        Rows that are on such a device already stay there. Their numbers and groups are never moved.
        """
        device = torch.device(device)
        if device.type in ("cpu", self.dense.device.type):
            return self
        moved = {
            name: value.pin_memory().to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name not in ON_HOST
        }
        return replace(self, **moved)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory of the tensors until the work queued on a CUDA stream is done."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name not in ON_HOST:
                value.record_stream(stream)

    def slice(self, start: int, end: int) -> Batch:
        """Return the rows from `start` to before `end`, as views."""
        first, last = int(self.offsets[start]), int(self.offsets[end])
        return Batch(
            self.dense[start:end],
            self.ids[first:last],
            self.offsets[start : end + 1] - first,
            None if self.values is None else self.values[first:last],
            self.labels[start:end],
            None if self.label_mask is None else self.label_mask[start:end],
            self.weights[start:end],
            self.parts[start:end],
            self.rows[start:end],
            None if self.keys is None else self.keys.slice(start, end - start),
            None if self.groups is None else self.groups[start:end],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, one after the other."""
    if len(batches) == 1:
        return batches[0]
    ends = np.cumsum([len(batch.ids) for batch in batches]).tolist()
    offsets = [batch.offsets[1:] + start for batch, start in zip(batches, [0, *ends], strict=False)]
    values = [batch.values for batch in batches if batch.values is not None]
    keys = [batch.keys for batch in batches if batch.keys is not None]
    groups = [batch.groups for batch in batches if batch.groups is not None]
    masks = [batch.label_mask for batch in batches]
    complete = all(mask is None for mask in masks)
    filled = [
        torch.ones_like(batch.labels, dtype=torch.bool) if mask is None else mask
        for batch, mask in zip(batches, masks, strict=True)
    ]
    return Batch(
        dense=torch.cat([batch.dense for batch in batches]),
        ids=torch.cat([batch.ids for batch in batches]),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), *offsets]),
        values=torch.cat(values) if values else None,
        labels=torch.cat([batch.labels for batch in batches]),
        label_mask=None if complete else torch.cat(filled),
        weights=torch.cat([batch.weights for batch in batches]),
        parts=torch.cat([batch.parts for batch in batches]),
        rows=torch.cat([batch.rows for batch in batches]),
        keys=joined_tables(keys) if keys else None,
        groups=torch.cat(groups) if groups else None,
    )


def padded(batch: Batch, rows: int) -> Batch:
    """The batch with rows of weight 0 at its end, so that it has `rows` rows; their number in the plan is −1."""
    extra = rows - len(batch)
    if extra <= 0:
        return batch

    def longer(tensor: Tensor, value: int = 0) -> Tensor:
        return torch.cat([tensor, tensor.new_full((extra, *tensor.shape[1:]), value)])

    return Batch(
        dense=longer(batch.dense),
        ids=batch.ids,
        offsets=longer(batch.offsets, len(batch.ids)),
        values=batch.values,
        labels=longer(batch.labels),
        label_mask=None if batch.label_mask is None else longer(batch.label_mask),
        weights=longer(batch.weights),
        parts=longer(batch.parts),
        rows=longer(batch.rows, -1),
        keys=batch.keys,
        groups=None if batch.groups is None else longer(batch.groups),
    )
