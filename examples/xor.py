"""XOR: what no line can do, and a hidden layer can.

The label is 1 where exactly one of two inputs is positive: four quadrants, and no line has the ones on one side. The
best linear model says about ½ everywhere. A hidden layer bends the plane first, so that a line is enough after it:
`model.hidden` is the whole difference.

    python examples/xor.py --picture xor.png
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pictures import BLUE, ORANGE, asked_for, page, probability_colours

import mlclf

ROWS = 4000
GRID = np.linspace(-1, 1, 81)
MODELS = {
    "no hidden layer": {},
    "16 hidden units": {"model.hidden": [16], "training.epochs": 20, "training.batch_rows": 64, "optimizer.l2": 0},
}


def main(picture: Path | None) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(ROWS, 2))
    y = (X[:, 0] > 0) != (X[:, 1] > 0)
    x1, x2 = np.meshgrid(GRID, GRID)
    planes = {}
    print("model              right   log-loss")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "train.parquet", X[: ROWS // 2], y[: ROWS // 2])
        write(folder / "test.parquet", X[ROWS // 2 :], y[ROWS // 2 :])
        pq.write_table(pa.table({"x1": x1.ravel(), "x2": x2.ravel()}), folder / "grid.parquet")
        for number, (model, settings) in enumerate(MODELS.items()):
            out = folder / f"run{number}"
            run = mlclf.fit(folder / "train.parquet", "label", out, valid_fraction=0, settings=settings)
            right = ((scores_of(run, folder / "test.parquet", out) > 0.5) == y[ROWS // 2 :]).mean()
            loss = run.evaluate(folder / "test.parquet")["log_loss"]
            print(f"{model:<16} {right:7.1%}   {loss:8.4f}")
            planes[model] = scores_of(run, folder / "grid.parquet", out).reshape(x1.shape)
    if picture:
        draw(picture, X[:400], y[:400], planes)


def write(path: Path, X: np.ndarray, y: np.ndarray) -> None:
    pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": y}), path)


def scores_of(run: mlclf.Run, data: Path, out: Path) -> np.ndarray:
    """Probabilities [n] of the rows of a file."""
    return pq.read_table(run.predict(data, out / data.stem))["score_label"].to_numpy()


def draw(path: Path, X: np.ndarray, y: np.ndarray, planes: dict[str, np.ndarray]) -> None:
    figure, all_axes = page(2, sharey=True)
    for axes, (model, scores) in zip(all_axes, planes.items(), strict=True):
        axes.grid(visible=False)
        levels = np.linspace(0, 1, 21)
        plane = axes.contourf(GRID, GRID, scores, levels=levels, cmap=probability_colours(), alpha=0.7)
        for label, colour, marker in ((False, BLUE, "o"), (True, ORANGE, "^")):
            axes.scatter(*X[y == label].T, s=14, color=colour, marker=marker, edgecolor="white", linewidth=0.5)
        axes.set(xlabel="x1", title=model, aspect="equal")
    all_axes[0].set(ylabel="x2")
    figure.colorbar(plane, ax=all_axes, label="probability of label 1 (triangles)", ticks=np.linspace(0, 1, 6))
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
