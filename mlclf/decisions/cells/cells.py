"""Cells: scored rows with what is known of them, the unit in which scores come to metrics and thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mlclf.data.arrow.row_hashes import group_hashes, is_missing, row_hashes


@dataclass
class Cells:
    """n rows of K labels.

    Attributes:
        logits: [n, K] float32.
        labels: [n, K] uint8 of 0 and 1.
        identities: [n] int64, 64-bit hashes of what a row is: its number, its key or its group. Rows of one identity
            stay together in folds, in replicates and in clusters.
        mask: [n, K] bool, True where the label is observed; None where all are.
        weights: [n] float64, row weights, 0 for padding; None where all are 1.
        label_weights: [n, K] float64, by which the row's weight is multiplied for a label; None where all are 1.
        ranks: [n, K] float64, logits by which rows are told apart where those in float32 do not do it; None = `logits`.
    """

    logits: Tensor
    labels: Tensor
    identities: Tensor
    mask: Tensor | None = None
    weights: Tensor | None = None
    label_weights: Tensor | None = None
    ranks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def cell_weights(self) -> Tensor | None:
        """Weight of each cell: [n, K] float64, [n] where all labels of a row share it, None where all are 1."""
        if self.label_weights is None:
            return self.weights
        return self.label_weights if self.weights is None else self.label_weights * self.weights[:, None]

    def where(self, kept: Tensor) -> Cells:
        """The rows for which `kept` [n] bool is True."""
        some: dict[str, Any] = {name: None if rows is None else rows[kept] for name, rows in vars(self).items()}
        return Cells(**some)

    def ranked_by(self) -> Tensor:
        """[n, K], the finest logits that are known."""
        return self.logits if self.ranks is None else self.ranks


def row_identities(rows: Tensor) -> Tensor:
    """Identities of row numbers: [n] int64 of [n] int64."""
    return torch.from_numpy(row_hashes(rows.numpy(), 0).view(np.int64))


def value_identities(column: pa.ChunkedArray) -> Tensor:
    """Identities of the values of a key or a group: [n] int64; equal values, and nulls, have the same."""
    return torch.from_numpy(group_hashes(column, 0).view(np.int64))


def with_rows_alone(identities: Tensor, rows: Tensor) -> Tensor:
    """Identities of values in which each row without one is its own, by its number: [n] int64 of [n] and [n] int64."""
    missing = torch.from_numpy(is_missing(identities.numpy().view(np.uint64), 0))
    return torch.where(missing, row_identities(rows), identities) if bool(missing.any()) else identities
