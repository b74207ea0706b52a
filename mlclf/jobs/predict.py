"""Columns of scores and decisions as `predict` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from mlclf.decisions.score_files.best_labels import DECIDED, TOP_LABELS, TOP_SCORES, decided_lists
from mlclf.decisions.score_files.columns import KIND_KEY, PROBABILITY

WIDE_LABELS = 1000
"""Up to this many labels there is a column for each; above it the best ones come as lists."""

DEFAULT_TOP = 100


def wide_columns(scores: Tensor, decisions: Tensor, label_names: Sequence[str]) -> dict[str, pa.Array]:
    """A score and a decision of every label, of scores [n, K] float32 and decisions [n, K] bool."""
    columns = {f"score_{name}": pa.array(scores[:, index].numpy()) for index, name in enumerate(label_names)}
    return columns | {
        f"decision_{name}": pa.array(decisions[:, index].numpy()) for index, name in enumerate(label_names)
    }


def top_columns(scores: Tensor, decisions: Tensor, top: int, label_names: Sequence[str]) -> dict[str, pa.Array]:
    """The `top` labels with the largest of scores [n, K] float32 as lists, and all that are decided on.

    Both fall by score, ties in label order.
    """
    count = min(top, scores.shape[1])
    order = torch.sort(scores, dim=1, descending=True, stable=True)
    names = pa.array(label_names, pa.string()).take(pa.array(order.indices[:, :count].reshape(-1).numpy()))
    offsets = pa.array(range(0, (len(scores) + 1) * count, count), pa.int32())
    values = pa.array(order.values[:, :count].reshape(-1).numpy())
    return {
        TOP_LABELS: pa.ListArray.from_arrays(offsets, names),
        TOP_SCORES: pa.ListArray.from_arrays(offsets, values),
        DECIDED: decided_lists(scores.numpy(), decisions.numpy(), label_names),
    }


def score_table(keys: Mapping[str, pa.ChunkedArray], columns: Mapping[str, pa.Array]) -> pa.Table:
    """A table of key columns and score columns, whose metadata says that the scores are probabilities."""
    return pa.table(dict(keys) | dict(columns), metadata={KIND_KEY: PROBABILITY})
