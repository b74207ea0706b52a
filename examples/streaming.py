"""Larger than memory: the same model, streamed from shards that are twice as large as what memory may hold.

Ten Parquet files of 100,000 rows decode to 64 MB, and streaming them may take 32 MB: `mlclf.ParquetLoader` gets half of
it, the arithmetic on a batch the rest. The gradient of a step is a sum over rows, so it can be gathered batch by batch:
five steps on all rows give the same losses and weights as with everything in memory, but for the rounding of sums in
another order.

    python examples/streaming.py --picture streaming.png
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pictures import BLACK, BLUE, ORANGE, asked_for, page
from torch import Tensor

import mlclf
from mlclf.config.settings import Settings
from mlclf.training.losses import loss_and_slope

SHARDS, GROUPS, GROUP_ROWS, INPUTS = 10, 10, 10_000, 16
CAP_BYTES, LOADER_BYTES = 32_000_000, 16 << 20
BATCH_ROWS, STEPS, RATE = 4096, 5, 1.0
NAMES = [f"x{number:02}" for number in range(INPUTS)]


def main(picture: Path | None) -> None:
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as name:
        write_shards(Path(small), shards=1, groups=1)
        descend_streamed(small)  # so that all code is loaded before memory is measured
        num_bytes = write_shards(Path(name))
        print(f"{SHARDS} shards decode to {num_bytes / 1e6:.1f} MB; the cap is {CAP_BYTES / 1e6:.0f} MB.")
        before = peak_bytes()
        streamed, losses = descend_streamed(name)
        grown = peak_bytes() - before
        print(f"Streaming took {grown / 1e6:.1f} MB more memory than before; within the cap: {grown <= CAP_BYTES}.")
        table = pq.read_table(name)
        X, y = np.stack([table[column] for column in NAMES], 1), np.array(table["label"])[:, None]
    batches = list(zip(torch.tensor(X).split(BATCH_ROWS), torch.tensor(y).split(BATCH_ROWS), strict=True))
    resident, same_losses = descend(lambda: batches)
    print("step  streamed  in memory")
    for step, pair in enumerate(zip(losses, same_losses, strict=True)):
        print(f"{step:4}  {pair[0]:8.6f}  {pair[1]:9.6f}")
    print(f"The weights agree within 0.000001: {(streamed - resident).abs().max().item() < 1e-6}.")
    if picture:
        draw(picture, {"the data, decoded": num_bytes, "the cap": CAP_BYTES, "streaming it": grown})


def write_shards(folder: Path, shards: int = SHARDS, groups: int = GROUPS) -> int:
    """Write the shards group by group, so that no more is ever held; returns the bytes of all columns in memory."""
    rng, num_bytes = np.random.default_rng(0), 0
    weights = rng.normal(size=INPUTS)
    schema = pa.schema([(column, pa.float32()) for column in NAMES] + [("label", pa.bool_())])
    for shard in range(shards):
        with pq.ParquetWriter(folder / f"{shard}.parquet", schema, use_dictionary=False) as writer:
            for _ in range(groups):
                X = rng.normal(size=(GROUP_ROWS, INPUTS)).astype(np.float32)
                y = rng.random(GROUP_ROWS) < 1 / (1 + np.exp(-X @ weights))
                table = pa.table([*X.T, y], schema=schema)
                writer.write_table(table)
                num_bytes += table.nbytes
    return num_bytes


def descend_streamed(data: str) -> tuple[Tensor, list[float]]:
    settings = Settings(features={"standardize": False})
    loader = mlclf.ParquetLoader(data, "label", BATCH_ROWS, memory_budget=LOADER_BYTES, threads=2, settings=settings)
    return descend(lambda: ((batch.dense, batch.labels) for batch in loader))


def descend(rows: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> tuple[Tensor, list[float]]:
    """Full-batch gradient descent from zero weights; returns them, and the loss before each step."""
    weights, losses = torch.zeros(INPUTS + 1, 1, dtype=torch.float64), []
    for _ in range(STEPS):
        gradient, total, count = torch.zeros_like(weights), 0.0, 0
        for dense, labels in rows():
            x, y = dense.double(), labels.double()
            loss, slope = loss_and_slope(x @ weights[:-1] + weights[-1], y, torch.ones(1))
            gradient += torch.cat([x.T @ slope, slope.sum(0, keepdim=True)])
            total, count = total + loss.sum().item(), count + len(x)
        weights -= RATE * gradient / count
        losses.append(total / count)
    return weights, losses


def peak_bytes() -> int:
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def draw(path: Path, sizes: dict[str, int]) -> None:
    figure, axes = page()
    bars = axes.barh(list(sizes), [size / 1e6 for size in sizes.values()], color=[ORANGE, BLACK, BLUE], height=0.5)
    axes.bar_label(bars, fmt="%.0f MB", padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="MB of memory", title="Training on more than memory may hold")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
