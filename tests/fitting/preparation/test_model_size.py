"""A model that does not fit into memory is refused before it is made, by what makes it large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.fitting.preparation import model_size

ROWS = 60
FIXED = ("--set", "optimizer.l2=0.1", "--valid-fraction", "0")


def sparse(path: Path, largest: int) -> Path:
    """Rows with one large index among small ones."""
    indices = [[0, row % 3 + 1] for row in range(ROWS)]
    indices[7] = [0, largest]
    values = pa.array([[1.0, 2.0]] * ROWS, pa.list_(pa.float32()))
    labels = [row % 2 == 0 for row in range(ROWS)]
    pq.write_table(pa.table({"indices": pa.array(indices, pa.list_(pa.int64())), "values": values, "y": labels}), path)
    return path


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton", "adam"])
@pytest.mark.parametrize("largest", [2**31 - 2, 2**31 - 1])
def test_one_large_index(tmp_path: Path, mlclf_command: Any, solver: str, largest: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_size, "free_bytes", lambda: 16 << 30)
    data = sparse(tmp_path / "data.parquet", largest)
    called = mlclf_command(
        "fit", data, "--labels", "y", "--set", f"optimizer.name={solver}", "--set", "optimizer.l2=0.1",
        "--valid-fraction", "0", "--out", tmp_path / "run",
    )  # fmt: skip
    assert called.code == 2
    assert f"column 'indices' has {largest + 1:,} of the inputs: number its indices from 0" in called.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("largest", [2**31, 2**40, 2**63 - 1, -1])
def test_an_index_that_is_none(tmp_path: Path, mlclf_command: Any, largest: int) -> None:
    data = sparse(tmp_path / "data.parquet", largest)
    called = mlclf_command("fit", data, "--labels", "y", "--valid-fraction", "0", "--out", tmp_path / "run")
    assert called.code == 2
    assert f"indices must be 0 or more and below 2,147,483,648, found {largest}" in called.err


@pytest.mark.slow
def test_the_budget_allows_more(tmp_path: Path, mlclf_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_size, "free_bytes", lambda: 1 << 20)
    data = sparse(tmp_path / "data.parquet", 2_000_000)
    fit = (
        "fit",
        data,
        "--labels",
        "y",
        "--set",
        "optimizer.l2=0.1",
        "--valid-fraction",
        "0",
        "--out",
        tmp_path / "run",
    )
    called = mlclf_command(*fit, "--set", "runtime.memory_budget=16MiB")
    assert called.code == 2
    assert called.err.splitlines()[-1] == (
        "error: the model must fit into 16,777,216 bytes, a quarter of the free memory; 2,000,001 inputs and 1 labels "
        "make 2,000,002 weights, which take 80,000,048 bytes; column 'indices' has 2,000,001 of the inputs: number its "
        "indices from 0 without gaps, or leave it out with --exclude; or let it take as much with runtime.memory_budget"
    )
    assert mlclf_command(*fit).code == 0


def test_hidden_layers_and_buckets_are_named(tmp_path: Path, mlclf_command: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(model_size, "free_bytes", lambda: 8 << 30)
    data = sparse(tmp_path / "data.parquet", 5)
    fit = (
        "fit",
        data,
        "--labels",
        "y",
        "--set",
        "optimizer.l2=0.1",
        "--valid-fraction",
        "0",
        "--out",
        tmp_path / "run",
    )
    called = mlclf_command(*fit, "--set", "model.hidden=[100000, 100000]")
    assert called.code == 2
    assert "model.hidden=[100000, 100000] and 1 labels" in called.err
    assert "choose smaller widths in model.hidden" in called.err
    text = pa.table({"t": ["red fox", "blue fox"] * 30, "y": [True, False] * 30})
    pq.write_table(text, data)
    called = mlclf_command(*fit, "--set", "features.roles.t=text", "--set", "features.hash_buckets=2147483648")
    assert called.code == 2
    assert "features.hash_buckets=2147483648 must fit into 2,147,483,648 bytes" in called.err
