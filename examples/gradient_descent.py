"""Gradient descent, watched: the loss of full-batch steps on 1,000 points, in a loop of our own and in `mlclf.fit`.

Logistic regression starts at zero weights, where every probability is ½ and the loss is ln 2 = 0.6931. Each epoch is
one step against the gradient, which is the mean over the rows of (p − y)·x. With a rate of 0.1 the loss falls at every
step, quickly at first, because the points can be separated by a line: the weights grow for as long as one looks.

    python examples/gradient_descent.py --picture gradient_descent.png
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pictures import BLUE, ORANGE, asked_for, page

import mlclf
from mlclf.training.losses import MaskedLoss
from mlclf.training.models import LinearHead

TRUE_WEIGHTS, TRUE_BIAS = np.array([2.0, -3.0]), 0.5
ROWS, EPOCHS, RATE = 1000, 100, 0.1

SETTINGS = {
    "optimizer.name": "sgd",
    "optimizer.lr": RATE,  # a rate that is given stays constant: no warm-up, no decay, no momentum
    "optimizer.l2": 0,
    "training.epochs": EPOCHS,
    "training.batch_rows": "all",  # the whole set is one batch, so an epoch is one step
    "features.standardize": False,
}


def main(picture: Path | None) -> None:
    X, y = made_points()
    ours = losses_of_a_loop(X, y)
    fitted, auroc = losses_of_fit(X, y)
    print("epoch    loop     fit")
    for epoch in range(0, EPOCHS, 10):
        print(f"{epoch:5}  {ours[epoch]:.4f}  {fitted[epoch]:.4f}  {'#' * round(60 * ours[epoch])}")
    print(f"After {len(fitted)} steps the AUROC on the same points is {auroc:.4f}.")
    if picture:
        draw(picture, ours, fitted)


def made_points() -> tuple[np.ndarray, np.ndarray]:
    """Two inputs [1000, 2] and a label [1000] that a line decides."""
    np.random.seed(0)
    X = np.random.randn(ROWS, 2)
    p = 1 / (1 + np.exp(-(X @ TRUE_WEIGHTS + TRUE_BIAS)))
    return X, p > 0.5


def losses_of_a_loop(X: np.ndarray, y: np.ndarray) -> list[float]:
    """The loss before each step, with the library's model and loss, and the steps taken by hand."""
    inputs, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(y)[:, None]
    no_ids, offsets = torch.zeros(0, dtype=torch.int64), torch.zeros(ROWS + 1, dtype=torch.int64)
    model, loss = LinearHead(2, vocabulary_size=0, num_labels=1), MaskedLoss(torch.ones(1), torch.ones(1))
    losses = []
    for _ in range(EPOCHS):
        mean = loss(model(inputs, no_ids, offsets), labels, torch.ones(ROWS, 1)).sum() / ROWS
        gradients = torch.autograd.grad(mean, [*model.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= RATE * gradient
        losses.append(mean.item())
    return losses


def losses_of_fit(X: np.ndarray, y: np.ndarray) -> tuple[list[float], float]:
    """The same losses as `mlclf.fit` logs them, and the AUROC of its model."""
    with tempfile.TemporaryDirectory() as name:
        data, out = f"{name}/points.parquet", f"{name}/run"
        pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": y}), data)
        run = mlclf.fit(data, "label", out, valid_fraction=0, settings=SETTINGS)
        losses = [json.loads(line)["train_loss"] for line in (run.path / "log.jsonl").read_text().splitlines()]
        return losses, run.evaluate(data)["micro"]["auroc"]


def draw(path: Path, ours: list[float], fitted: list[float]) -> None:
    figure, axes = page()
    axes.plot(ours, color=BLUE, label="a loop with mlclf's model and loss")
    axes.plot(range(0, EPOCHS, 5), fitted[::5], "o", color=ORANGE, label="mlclf.fit")
    axes.set(xlabel="epoch: one step on all 1,000 rows", ylabel="log-loss", title="Gradient descent from zero weights")
    axes.set(ylim=(0, 0.75))
    axes.legend(loc="lower left")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
