"""The decision boundary: the line on which the probability is ½, and what colours the plane beside it.

The logit w₁x₁ + w₂x₂ + b is 0 on a line. It grows in proportion to the distance from it, at the rate |w|; the
probability follows through the sigmoid, so near the line the model is unsure. The labels here are drawn at random with
known probabilities: even the best model is wrong about some rows, and `mlclf.fit` finds the known weights again.

    python examples/decision_boundary.py --picture decision_boundary.png
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pictures import BLACK, BLUE, ORANGE, asked_for, page, probability_colours

import mlclf

TRUE_WEIGHTS, TRUE_BIAS = np.array([2.0, -3.0]), 0.5
ROWS = 5000
GRID = np.linspace(-3, 3, 121)


def main(picture: Path | None) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 2))
    y = rng.random(ROWS) < 1 / (1 + np.exp(-(X @ TRUE_WEIGHTS + TRUE_BIAS)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": y}), folder / "points.parquet")
        run = mlclf.fit(folder / "points.parquet", "label", folder / "run", settings={"features.standardize": False})
        linear = run.scorer.model.linear
        weights, bias = linear.weight[0].tolist(), linear.bias.item()
        x1, x2 = np.meshgrid(GRID, GRID)
        pq.write_table(pa.table({"x1": x1.ravel(), "x2": x2.ravel()}), folder / "grid.parquet")
        scores = pq.read_table(run.predict(folder / "grid.parquet", folder / "scores"))["score_label"].to_numpy()

    print(f"true weights    {TRUE_WEIGHTS[0]:7.2f} {TRUE_WEIGHTS[1]:7.2f}   bias {TRUE_BIAS:5.2f}")
    print(f"weights found   {weights[0]:7.2f} {weights[1]:7.2f}   bias {bias:5.2f}")
    print(f"boundary        x2 = {-weights[0] / weights[1]:.2f} x1 + {-bias / weights[1]:.2f}")
    print("logit       rows   share of ones   mean probability")
    logits = X @ np.array(weights) + bias
    for low in range(-4, 4, 2):
        inside = (logits >= low) & (logits < low + 2)
        mean = (1 / (1 + np.exp(-logits[inside]))).mean()
        print(f"{low:2} to {low + 2:2}   {inside.sum():5}   {y[inside].mean():13.3f}   {mean:16.3f}")
    print(f"Right at 1/2: {((logits > 0) == y).mean():.1%} of the rows.")
    if picture:
        draw(picture, X[:600], y[:600], scores.reshape(x1.shape))


def draw(path: Path, X: np.ndarray, y: np.ndarray, scores: np.ndarray) -> None:
    figure, axes = page()
    axes.grid(visible=False)
    plane = axes.contourf(GRID, GRID, scores, levels=np.linspace(0, 1, 21), cmap=probability_colours(), alpha=0.7)
    axes.contour(GRID, GRID, scores, levels=[0.5], colors=BLACK, linewidths=2)
    for label, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        axes.scatter(*X[y == label].T, s=16, color=colour, marker=marker, edgecolor="white", linewidth=0.5)
        axes.scatter([], [], color=colour, marker=marker, label=f"label {label}")
    axes.plot([], [], color=BLACK, label="probability ½")
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xlabel="x1", ylabel="x2", title="The boundary, and the doubt beside it")
    axes.set_aspect("equal")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.colorbar(plane, ax=axes, label="probability of label 1", ticks=np.linspace(0, 1, 6))
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
