"""Two Gaussian clusters: where logistic regression is not an approximation but exactly right.

Points around (−2, −2) and (2, 2), each with deviation 1 in every direction. By Bayes' rule the log-odds of the second
cluster are 4 x₁ + 4 x₂, a straight line's: the squares in both densities cancel. So the best possible weights are
known, (4, 4) and bias 0, and so is the share that no model can beat: 99.77%, Φ(2√2). The direction is learned well;
the length less so, as only the few rows near the boundary tell how steep it is.

    python examples/two_clusters.py --picture two_clusters.png
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

ROWS = 40_000
SETTINGS = {"features.standardize": False, "optimizer.l2": 0}


def main(picture: Path | None) -> None:
    rng = np.random.default_rng(0)
    y = rng.random(ROWS) < 0.5
    X = rng.normal(size=(ROWS, 2)) + np.where(y, 2, -2)[:, None]
    with tempfile.TemporaryDirectory() as name:
        data = f"{name}/points.parquet"
        pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": y}), data)
        run = mlclf.fit(data, "label", f"{name}/run", valid_fraction=0, settings=SETTINGS)
        linear = run.scorer.model.linear
        (w1, w2), bias = linear.weight[0].tolist(), linear.bias.item()
        auroc = run.evaluate(data)["micro"]["auroc"]
    best = (1 + math.erf(2)) / 2  # Φ(2√2)
    print(f"by Bayes' rule   {4:5.2f} {4:5.2f}   bias {0:5.2f}   right {best:.2%}")
    print(
        f"by mlclf.fit     {w1:5.2f} {w2:5.2f}   bias {bias:5.2f}   right {((X @ [w1, w2] + bias > 0) == y).mean():.2%}"
    )
    print(f"AUROC {auroc:.5f}")
    if picture:
        draw(picture, X[:2000], y[:2000], -w1 / w2, -bias / w2)


def draw(path: Path, X: np.ndarray, y: np.ndarray, slope: float, start: float) -> None:
    figure, axes = page()
    for label, colour, marker in ((False, BLUE, "o"), (True, ORANGE, "^")):
        axes.scatter(*X[y == label].T, color=colour, marker=marker, s=8, alpha=0.6, label=f"cluster {label:d}")
    ends = np.array([-6.0, 6.0])
    axes.plot(ends, -ends, color=BLACK, linestyle="--", label="Bayes' rule: probability ½")
    axes.plot(ends, slope * ends + start, color=BLACK, linewidth=1, label="mlclf.fit: probability ½")
    axes.set(xlim=(-6, 6), ylim=(-6, 6), xlabel="x1", ylabel="x2", title="Two Gaussian clusters")
    axes.set_aspect("equal")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
