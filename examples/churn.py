"""Customer churn: why inputs are standardized, and how to read a weight.

Of 100 made customers half have left. They paid about 60 a month (± 20) and called for help about 4 times (± 1); those
who stayed paid 30 (± 20) and called once (± 1). Gradient descent on these numbers as they are, from random weights at
rate 0.005, is still near chance after 1,000 steps: the charge is 20 times as large as the calls, so a step that suits
its weight is far too long or, for the other's, far too short. `mlclf.fit` standardizes and solves.

A weight adds to the log-odds, so it multiplies the odds by its exponential: 0.74 makes them 2.1 times as large.

    python examples/churn.py --picture churn.png
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pictures import BLACK, BLUE, ORANGE, asked_for, page

import mlclf

RATE, STEPS = 0.005, 1000
INPUTS = ("charge", "calls")


def main(picture: Path | None) -> None:
    X, left = made_customers(seed=0)
    accuracies, loss = descend(X, left)
    print(f"Gradient descent as it is: {accuracies[-1]:.0%} right after {STEPS:,} steps, log-loss {loss:.2f}")
    print(f"(a coin: 50%, {math.log(2):.2f}; the last 100 steps were {np.mean(accuracies[-100:]):.0%} right)")
    ends = [descend(*made_customers(seed))[0][-1] for seed in range(20)]
    print(f"With 20 seeds it ends anywhere from {min(ends):.0%} to {max(ends):.0%}.")

    weights, bias, scores = fitted(X, left)
    print(f"mlclf.fit: {((scores >= 0.5) == left).mean():.0%} right")
    print("          log-odds   odds ratio")
    for name, weight in zip(INPUTS, weights, strict=True):
        print(f"{name:>8}  {weight:8.3f}   {math.exp(weight):10.2f}   for each unit more")
    print(f"A weight of 0.74 multiplies the odds by {math.exp(0.74):.1f}.")
    if picture:
        draw(picture, X, left, accuracies, weights, bias)


def made_customers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Charge and calls [100, 2], and whether the customer has left [100]."""
    np.random.seed(seed)
    charge = np.concatenate([np.random.normal(30, 20, 50), np.random.normal(60, 20, 50)])
    calls = np.concatenate([np.random.normal(1, 1, 50), np.random.normal(4, 1, 50)])
    return np.stack([charge, calls], 1), np.repeat([False, True], 50)


def descend(X: np.ndarray, y: np.ndarray) -> tuple[list[float], float]:
    """Share of rows that are right before and after each step from random weights, and the log-loss at the end."""
    weights, accuracies = np.random.randn(3), []
    inputs = np.column_stack([X, np.ones(len(X))])
    for _ in range(STEPS + 1):
        logits = inputs @ weights
        accuracies.append(float(((logits > 0) == y).mean()))
        loss = float((np.logaddexp(0, logits) - y * logits).mean())
        p = np.exp(-np.logaddexp(0, -logits))
        weights = weights - RATE * inputs.T @ (p - y) / len(y)
    return accuracies, loss


def fitted(X: np.ndarray, y: np.ndarray) -> tuple[list[float], float, np.ndarray]:
    """Weights by unit of each input, bias, and the score of every customer."""
    with tempfile.TemporaryDirectory() as name:
        data, folder = f"{name}/customers.parquet", Path(name)
        pq.write_table(pa.table({"charge": X[:, 0], "calls": X[:, 1], "left": y}), data)
        run = mlclf.fit(data, "left", folder / "run", settings={"features.knots": "none"})
        scores = pq.read_table(run.predict(data, folder / "scores"))["score_left"].to_numpy()
    linear = run.scorer.model.linear  # its inputs are (x − mean) ÷ deviation
    means, deviations = zip(*(column.scaling for column in run.features.columns), strict=True)
    weights = [weight / deviation for weight, deviation in zip(linear.weight[0].tolist(), deviations, strict=True)]
    bias = linear.bias.item() - sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    return weights, bias, scores


def draw(path: Path, X: np.ndarray, y: np.ndarray, accuracies: list[float], weights: list[float], bias: float) -> None:
    figure, (steps, plane) = page(2)
    steps.plot(accuracies, color=BLUE, linewidth=0.4)
    steps.axhline(0.5, color=BLACK, linestyle="--", linewidth=1)
    steps.set(xlabel="step", ylabel="share of customers right", ylim=(0, 1), title="Unscaled gradient descent")
    for label, name, colour, marker in ((False, "stayed", BLUE, "o"), (True, "left", ORANGE, "^")):
        plane.scatter(*X[y == label].T, color=colour, marker=marker, s=20, label=name)
    charge = np.array([X[:, 0].min(), X[:, 0].max()])
    plane.plot(charge, -(bias + weights[0] * charge) / weights[1], color=BLACK, label="mlclf.fit: probability ½")
    plane.set(xlabel="charge", ylabel="calls", ylim=(X[:, 1].min() - 0.5, X[:, 1].max() + 2.5), title="Customers")
    plane.legend(loc="upper left", ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
