"""The sigmoid: how any number, a logit, becomes a probability.

A linear model can give any number. The sigmoid 1 / (1 + e^−z) turns it into a probability, and the logit
ln(p / (1 − p)), the logarithm of the odds, leads back. It is steepest at 0, where it rises by ¼ for each unit.
Far from 0 it never reaches 0 or 1 in mathematics, but soon does in float32: the probability of 100 is stored as 1.

    python examples/sigmoid.py --picture sigmoid.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLUE, ORANGE, asked_for, page

from mlclf.decisions.cells.scores import scores_of

LOGITS = (-100, -10, 0, 10, 100)


def main(picture: Path | None) -> None:
    scores = scores_of(torch.tensor(LOGITS, dtype=torch.float32))
    print("logit   probability    odds")
    for logit, score in zip(LOGITS, scores.tolist(), strict=True):
        print(f"{logit:5}   {score:<11.5g}    e^{logit}")

    logits = torch.tensor([-2.0, 2.0])
    low, high = scores_of(logits).tolist()
    print(f"Symmetry: {low:.4f} at -2 and {high:.4f} at 2 make {low + high:.4f}.")

    at_zero = torch.zeros((), requires_grad=True)
    torch.sigmoid(at_zero).backward()
    print(f"Slope at 0: {at_zero.grad:.2f}.")
    if picture:
        draw(picture)


def draw(path: Path) -> None:
    figure, axes = page()
    logits = torch.linspace(-10, 10, 401)
    axes.plot(logits, scores_of(logits), color=BLUE, label="sigmoid, 1 / (1 + e^−z)")
    axes.plot(logits, 0.5 + logits / 4, color=ORANGE, linestyle="--", label="its slope at 0, ¼")
    axes.set(xlabel="logit z", ylabel="probability", ylim=(-0.05, 1.05), title="Any number becomes a probability")
    axes.legend(loc="upper left")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
