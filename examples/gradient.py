"""The gradient of logistic regression: for each row, p − y times its inputs.

Differentiating the log-loss through the sigmoid leaves nothing but the error: the slope by the logit is p − y, and
so that by the weights is the mean over the rows of (p − y)·x, by the bias the mean of p − y. Here is that formula
beside what autograd finds for `mlclf`'s own model and loss.

    python examples/gradient.py --picture gradient.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLACK, BLUE, asked_for, page

from mlclf.training.losses import MaskedLoss
from mlclf.training.models import LinearHead

ROWS, INPUTS = 500, 4


def main(picture: Path | None) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(ROWS, INPUTS), torch.randint(0, 2, (ROWS, 1))
    model, loss = LinearHead(INPUTS, vocabulary_size=0, num_labels=1), MaskedLoss(torch.ones(1), torch.ones(1))
    torch.nn.init.normal_(model.linear.weight)

    logits = model(x, ids=torch.zeros(0, dtype=torch.int64), offsets=torch.zeros(ROWS + 1, dtype=torch.int64))
    logits.retain_grad()
    (loss(logits, y, torch.ones(ROWS, 1)).sum() / ROWS).backward()

    error = (torch.sigmoid(logits) - y).detach()
    by_hand = torch.cat([(error * x).mean(0), error.mean(0)])
    autograd = torch.cat([model.linear.weight.grad[0], model.linear.bias.grad])
    print("            (p - y) x    autograd")
    for name, hand, found in zip(["w1", "w2", "w3", "w4", "b"], by_hand.tolist(), autograd.tolist(), strict=True):
        print(f"{name:>10}  {hand:9.6f}   {found:9.6f}")
    apart = max((by_hand - autograd).abs().max(), (error - ROWS * logits.grad).abs().max())
    print(f"They agree within 0.000001: {apart.item() < 1e-6}.")
    if picture:
        draw(picture, error[:, 0], ROWS * logits.grad[:, 0])


def draw(path: Path, by_hand: torch.Tensor, autograd: torch.Tensor) -> None:
    figure, axes = page()
    axes.plot([-1, 1], [-1, 1], color=BLACK, linewidth=1, label="equal")
    axes.plot(by_hand, autograd, "o", color=BLUE, markersize=4, alpha=0.5, label="a row")
    axes.set(xlabel="p − y", ylabel="autograd's slope by the logit", title="The slope of the loss is the error")
    axes.set_aspect("equal")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
