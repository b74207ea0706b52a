"""Gradient descent, watched: the loss of full-batch steps on 1,000 points, through `mlclf.fit`.

Logistic regression starts at zero weights, where every probability is ½ and the loss is ln 2 = 0.6931. Each epoch is
one step against the gradient, which is the mean over the rows of (p − y)·x. With a rate of 0.1 the loss falls at every
step, quickly at first, because the points can be separated by a line: the weights grow for as long as one looks.

    python examples/gradient_descent.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import mlclf

TRUE_WEIGHTS, TRUE_BIAS = np.array([2.0, -3.0]), 0.5

SETTINGS = {
    "optimizer.name": "sgd",
    "optimizer.lr": 0.1,  # a rate that is given stays constant: no warm-up, no decay, no momentum
    "optimizer.l2": 0,
    "training.epochs": 100,
    "training.batch_rows": "all",  # the whole set is one batch, so an epoch is one step
    "features.standardize": False,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_points(folder / "points.parquet")
        run = mlclf.fit(str(folder / "points.parquet"), "label", folder / "run", valid_fraction=0, settings=SETTINGS)
        losses = [json.loads(line)["train_loss"] for line in (run.path / "log.jsonl").read_text().splitlines()]
        metrics = run.evaluate(str(folder / "points.parquet"))
    print("epoch    loss")
    for epoch in range(0, 100, 10):
        print(f"{epoch:5}  {losses[epoch]:.4f}  {'#' * round(60 * losses[epoch])}")
    print(f"After {len(losses)} steps the AUROC on the same points is {metrics['micro']['auroc']:.4f}.")


def write_points(path: Path) -> None:
    """Write two inputs and a label that a line decides."""
    np.random.seed(0)
    X = np.random.randn(1000, 2)
    p = 1 / (1 + np.exp(-(X @ TRUE_WEIGHTS + TRUE_BIAS)))
    pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": p > 0.5}), path)


if __name__ == "__main__":
    main()
