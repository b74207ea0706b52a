"""Small tables with a known shape for tests of whole jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def plain_table(rows: int = 400, seed: int = 0, labels: tuple[str, ...] = ("label_a", "label_b")) -> pa.Table:
    """Three numbers, a string and an identifier; every label depends on the inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    city = rng.choice(["rome", "oslo", "lima"], rows)
    columns: dict[str, Any] = {"id": pa.array(np.arange(rows) + 2**53 + 1), "a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}
    columns["city"] = city
    for index, name in enumerate(labels):
        logits = 1.5 * x[:, index % 3] - x[:, (index + 1) % 3] + (city == "rome") - 0.5 - 0.3 * (index % 4)
        columns[name] = pa.array((rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8))
    return pa.table(columns)


def write(path: Path, table: pa.Table, **options: Any) -> str:
    """Write a Parquet file and return its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return str(path)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with one more column, or one replaced."""
    if name in table.column_names:
        table = table.drop_columns([name])
    return table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))


def document(path: Path) -> dict[str, Any]:
    """A JSON file."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_below(folder: Path) -> set[str]:
    """Every file and folder below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
