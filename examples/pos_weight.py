"""pos_weight: what weighting the positives does to probabilities.

Counting each positive w times makes the model believe in a world with w times as many: every logit rises by about
ln w, and the probabilities are no longer those of this world. The order of the rows, and so the AUROC, stays as it is.
`mlclf.fit` takes that shift out again, and refits slope and intercept on held-out rows; so here the weighted model is
trained by hand as well, to see what the weight alone does. To find more of the rare rows, lower the threshold; the
weight is not needed for it.

    python examples/pos_weight.py --picture pos_weight.png
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pictures import BLACK, BLUE, GREEN, ORANGE, asked_for, page

import mlclf
from mlclf.training.losses import loss_and_slope

ROWS, TRUE_WEIGHTS, TRUE_BIAS, WEIGHT = 20_000, np.array([1.5, -1.0]), -4.0, 30.0
STEPS = 15


def main(picture: Path | None) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * ROWS, 2))
    y = rng.random(2 * ROWS) < 1 / (1 + np.exp(-(X @ TRUE_WEIGHTS + TRUE_BIAS)))
    scores = {f"weight {w:.0f}": scores_of_a_loop(X, y[:ROWS], w) for w in (1.0, WEIGHT)}
    scores["mlclf.fit, 30"] = scores_of_fit(X, y)
    shift = np.median(logit(scores["weight 30"]) - logit(scores["weight 1"]))
    y = y[ROWS:]
    print(f"{y.mean():.2%} of the rows are positive.")
    print("model         mean score    AUROC   log-loss")
    for model, p in scores.items():
        print(f"{model:<13} {p.mean():10.2%}   {auroc(p, y):.4f}   {-np.log(np.where(y, p, 1 - p)).mean():8.4f}")
    print(f"The weight moves the logits by {shift:.2f}; ln {WEIGHT:.0f} = {math.log(WEIGHT):.2f}.")
    if picture:
        draw(picture, scores, y)


def scores_of_a_loop(X: np.ndarray, y: np.ndarray, weight: float) -> np.ndarray:
    """Minimize the weighted loss of the training rows by Newton's method; probabilities [n] of the test rows."""
    inputs, labels = torch.tensor(np.column_stack([X, np.ones(len(X))])), torch.tensor(y, dtype=torch.float64)[:, None]
    train, weights = inputs[:ROWS], torch.zeros(3, 1, dtype=torch.float64)
    for _ in range(STEPS):
        p = torch.sigmoid(train @ weights)
        _, slope = loss_and_slope(train @ weights, labels, torch.tensor([weight]))
        bend = (1 + (weight - 1) * labels) * p * (1 - p)
        weights -= torch.linalg.solve(train.T @ (bend * train), train.T @ slope)
    return torch.sigmoid(inputs[ROWS:] @ weights)[:, 0].numpy()


def scores_of_fit(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same weight in `mlclf.fit`; probabilities [n] of the test rows."""
    with tempfile.TemporaryDirectory() as name:
        for part, rows in (("train", slice(ROWS)), ("test", slice(ROWS, None))):
            table = pa.table({"x1": X[rows, 0], "x2": X[rows, 1], "label": y[rows]})
            pq.write_table(table, f"{name}/{part}.parquet")
        run = mlclf.fit(f"{name}/train.parquet", "label", f"{name}/run", settings={"loss.pos_weight": WEIGHT})
        table = pq.read_table(run.predict(f"{name}/test.parquet", f"{name}/scores"))
        return table["score_label"].to_numpy().astype(np.float64)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def auroc(scores: np.ndarray, y: np.ndarray) -> float:
    """Share of pairs of a positive and a negative row that the scores put in order; they hardly ever tie."""
    ranks = scores.argsort().argsort() + 1
    positives = y.sum()
    return float((ranks[y].sum() - positives * (positives + 1) / 2) / (positives * (~y).sum()))


def draw(path: Path, scores: dict[str, np.ndarray], y: np.ndarray) -> None:
    figure, axes = page()
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, label="said = seen")
    looks = ((BLUE, "o", 10), (ORANGE, "^", 6), (GREEN, "s", 5))
    for (model, p), (colour, marker, size) in zip(scores.items(), looks, strict=True):
        parts = np.array_split(p.argsort(), 20)
        said, seen = [p[rows].mean() for rows in parts], [y[rows].mean() for rows in parts]
        axes.plot(said, seen, marker=marker, color=colour, label=model, markersize=size)
    axes.set(xlabel="probability that the model says (mean of each twentieth of the rows)", ylabel="share of positives")
    axes.set(title="A weight inflates the probabilities", xlim=(0, 1), ylim=(0, 0.6))
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
