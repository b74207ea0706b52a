"""Beside scikit-learn: on the points of `make_blobs` both find the same weights and probabilities.

The problem is convex: there is one best answer, and two solvers that get there must agree. Only the penalty needs a
translation. scikit-learn adds up the losses, times C, and ½‖w‖²; `mlclf` takes their mean, and l2/2 ‖w‖². So the two
are the same for l2 = 1 / (C · rows). Neither penalizes the bias.

    python examples/blobs.py --picture blobs.png
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pictures import BLACK, BLUE, GREEN, ORANGE, asked_for, page

import mlclf

try:
    from sklearn.datasets import make_blobs
    from sklearn.linear_model import LogisticRegression
except ImportError:
    raise SystemExit("this lesson compares with scikit-learn: pip install scikit-learn") from None

ROWS, C = 600, 1.0


def main(picture: Path | None) -> None:
    X, y = make_blobs(ROWS, centers=2, cluster_std=2.0, random_state=0)
    theirs = LogisticRegression(C=C, tol=1e-10).fit(X, y)
    with tempfile.TemporaryDirectory() as name:
        data = f"{name}/blobs.parquet"
        pq.write_table(pa.table({"x1": X[:, 0], "x2": X[:, 1], "label": y.astype(bool)}), data)
        settings = {"features.standardize": False, "optimizer.l2": 1 / (C * ROWS)}
        run = mlclf.fit(data, "label", f"{name}/run", valid_fraction=0, settings=settings)
        scores = pq.read_table(run.predict(data, f"{name}/scores"))["score_label"].to_numpy()
    linear = run.scorer.model.linear
    probabilities = theirs.predict_proba(X)[:, 1]
    for who, weights, bias, p in (
        ("scikit-learn", theirs.coef_[0], theirs.intercept_[0], probabilities),
        ("mlclf", linear.weight[0].tolist(), linear.bias.item(), scores),
    ):
        right = ((p > 0.5) == y).mean()
        print(f"{who:>12}   weights {weights[0]:.4f} {weights[1]:.4f}   bias {bias:.4f}   {right:.1%} right")
    print(f"Probabilities agree within 0.0001: {np.abs(scores - probabilities).max() < 1e-4}.")
    if picture:
        draw(picture, X, y, probabilities, scores, theirs)


def draw(path: Path, X: np.ndarray, y: np.ndarray, theirs: np.ndarray, ours: np.ndarray, model: object) -> None:
    figure, (plane, both) = page(2)
    for label, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        plane.scatter(*X[y == label].T, color=colour, marker=marker, s=10, alpha=0.7, label=f"blob {label}")
    x1 = np.array([X[:, 0].min(), X[:, 0].max()])
    plane.plot(x1, -(model.intercept_ + model.coef_[0, 0] * x1) / model.coef_[0, 1], color=BLACK, label="probability ½")
    plane.set(xlabel="x1", ylabel="x2", title="make_blobs", ylim=(X[:, 1].min() - 0.5, X[:, 1].max() + 5))
    plane.legend(loc="upper left", ncols=2)
    both.plot([0, 1], [0, 1], color=BLACK, linewidth=1)
    both.plot(theirs, ours, "o", color=GREEN, markersize=4, alpha=0.5)
    both.set(xlabel="probability by scikit-learn", ylabel="probability by mlclf", title="One best answer")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
