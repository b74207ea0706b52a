"""L1 and L2: what a penalty does to the weights.

Twenty inputs, of which three matter. Without a penalty all twenty get a weight, seventeen of them by chance. L2 adds
l2/2 ‖w‖² to the loss: it draws all weights toward zero in proportion, and leaves none there. L1 adds l1 ‖w‖₁: it takes
the same amount from every weight, so small ones become exactly 0, and what is left is a shorter list of inputs.

    python examples/penalties.py --picture penalties.png
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pictures import BLACK, BLUE, ORANGE, asked_for, page

import mlclf

ROWS, INPUTS = 400, 20
TRUE_WEIGHTS = np.array([2.0, -1.5, 1.0] + [0.0] * (INPUTS - 3))
PENALTIES = {"none": {}, "L2 of 0.03": {"optimizer.l2": 0.03}, "L1 of 0.03": {"optimizer.l1": 0.03}}
BASE = {"features.standardize": False, "optimizer.l2": 0}


def main(picture: Path | None) -> None:
    rng = np.random.default_rng(0)
    X, X_new = rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(20_000, INPUTS))
    y, y_new = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ TRUE_WEIGHTS)) for x in (X, X_new))
    weights = {}
    print("penalty       weights of 0   length of w   log-loss of new rows")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, inputs, labels in ((folder / "rows.parquet", X, y), (folder / "new.parquet", X_new, y_new)):
            pq.write_table(pa.table({f"x{i + 1:02}": inputs[:, i] for i in range(INPUTS)} | {"label": labels}), path)
        for penalty, settings in PENALTIES.items():
            out = folder / penalty.replace(" ", "-")
            run = mlclf.fit(folder / "rows.parquet", "label", out, valid_fraction=0, settings=BASE | settings)
            w = weights[penalty] = run.scorer.model.linear.weight[0].detach().numpy()
            loss = run.evaluate(folder / "new.parquet")["log_loss"]
            print(f"{penalty:<12} {(w == 0).sum():13}   {np.linalg.norm(w):11.3f}   {loss:20.4f}")
    if picture:
        draw(picture, weights)


def draw(path: Path, weights: dict[str, np.ndarray]) -> None:
    figure, all_axes = page(3, sharey=True)
    inputs = np.arange(1, INPUTS + 1)
    for axes, (penalty, w) in zip(all_axes, weights.items(), strict=True):
        axes.bar(inputs, w, color=[BLUE if true else ORANGE for true in TRUE_WEIGHTS], width=0.6)
        axes.plot(inputs[:3], TRUE_WEIGHTS[:3], "_", color=BLACK, markersize=12, markeredgewidth=2, label="true weight")
        axes.set(xlabel="input", title=f"penalty: {penalty}; {(w == 0).sum()} weights are 0", xticks=range(1, 21, 3))
    all_axes[0].bar([1], [0], color=BLUE, label="input that matters")
    all_axes[0].bar([1], [0], color=ORANGE, label="input that does not")
    all_axes[0].set(ylabel="weight")
    all_axes[0].legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
