"""Small files of scores with labels, in every way in which they may be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("a", "b", "c")


def made_scores(rows: int = 200, seed: int = 0, hidden: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, 3] float32, and labels [n, 3] int8 in which −1 is not observed."""
    random = np.random.default_rng(seed)
    labels = (random.random((rows, 3)) < [0.5, 0.2, 0.05]).astype(np.int8)
    logits = (random.normal(-1, 1, (rows, 3)) + 2 * labels).astype(np.float32)
    labels[random.random((rows, 3)) < hidden] = -1
    return logits, labels


def probabilities(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def wide(scores: np.ndarray, labels: np.ndarray | None = None, **more: Any) -> pa.Table:
    """`score_a` …, `a` … and more columns."""
    columns: dict[str, Any] = {f"score_{name}": scores[:, index] for index, name in enumerate(NAMES)}
    if labels is not None:
        columns |= {name: pa.array(labels[:, k], mask=labels[:, k] < 0) for k, name in enumerate(NAMES)}
    return pa.table(columns | more)


def lists(values: np.ndarray, kind: pa.DataType, fixed: bool = False) -> pa.Array:
    """A list for each row of values; −1 is a null inside."""
    flat = values.reshape(-1)
    is_hidden = flat == -1 if kind != pa.float32() else None
    inside = pa.array(flat, mask=is_hidden).cast(kind)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(inside, values.shape[1])
    return pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, values.shape[1], dtype=np.int32), inside)


def tags(labels: np.ndarray) -> pa.Array:
    """The names of the labels that hold, and one that is no label."""
    return pa.array([[*(name for k, name in enumerate(NAMES) if row[k] == 1), "other"] for row in labels])


def written(path: Path, table: pa.Table, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return str(path)
