"""A stable loss: why logits go into the loss, and not probabilities.

At a logit of 1,000 the sigmoid is 1 in every float, and ln(1 − 1) is −∞; at −1,000 it is 0, and so is its gradient:
sigmoid and then logarithm gives ∞ or NaN just where the model is most wrong. Written with logits the loss is
max(z, 0) − z·y + ln(1 + e^−|z|), which is never more than rounding away from the truth: 1,000 for a mistake of 1,000.

    python examples/stable_loss.py --picture stable_loss.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLUE, ORANGE, asked_for, page
from torch import Tensor

from mlclf.training.losses import MaskedLoss


def stable(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss [n] of logits [n], each as a label of its own."""
    ones = torch.ones(len(logits))
    return MaskedLoss(pos_weight=ones, scale=ones)(logits[None], labels[None], torch.ones(1, 1))


def naive(logits: Tensor, labels: Tensor) -> Tensor:
    """The same by the textbook: sigmoid, then logarithm."""
    p = torch.sigmoid(logits)
    return -(labels * p.log() + (1 - labels) * (1 - p).log())


def main(picture: Path | None) -> None:
    print(" logit  label     stable  its slope      naive  its slope")
    for logit in (1000.0, -1000.0, 20.0):
        for label in (1.0, 0.0):
            found = [value_and_slope(loss, logit, label) for loss in (stable, naive)]
            print(f"{logit:6.0f}  {label:5.0f}  " + "  ".join(f"{value:9.4g}  {slope:9.4g}" for value, slope in found))
    if picture:
        draw(picture)


def value_and_slope(loss: object, logit: float, label: float) -> tuple[float, float]:
    """Loss of one row, and its slope by the logit as autograd finds it."""
    logits = torch.tensor([logit], requires_grad=True)
    value = loss(logits, torch.tensor([label])).sum()
    (slope,) = torch.autograd.grad(value, logits)
    return value.item(), slope.item()


def draw(path: Path) -> None:
    figure, axes = page()
    logits = torch.linspace(0, 40, 401)
    labels = torch.zeros(len(logits))
    found = naive(logits, labels)
    axes.plot(logits, stable(logits, labels), color=BLUE, label="from the logit")
    axes.plot(logits, found, color=ORANGE, linestyle="--", linewidth=3, label="sigmoid, then logarithm")
    last = logits[torch.isfinite(found)].max().item()
    axes.axvline(last, color="black", linestyle=":", linewidth=1.5)
    axes.annotate(f"beyond {last:.1f} it is infinite", (last + 0.7, 33))
    axes.set(xlabel="logit, where the label is 0", ylabel="log-loss in float32", title="A loss that survives any logit")
    axes.legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
