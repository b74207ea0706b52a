"""Ten labels from 128 inputs with one `nn.Linear`: many labels are one matrix, not many models.

Independent labels need no more than a column of weights each: [10, 128] weights and 10 biases, 1,290 numbers, and the
logits of a batch are one product of matrices. Each label has a probability of its own; they do not add up to 1, for a
row may have none of the labels or several. The loss is a sum of ten losses that share no weight, so training
them together, as here, gives what each would get alone.

    python examples/ten_labels.py --picture ten_labels.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLACK, BLUE, asked_for, page
from torch import Tensor

from mlclf.training.losses import MaskedLoss
from mlclf.training.models import LinearHead

ROWS, INPUTS, LABELS = 4000, 128, 10
RATE, STEPS = 4.0, 60


def main(picture: Path | None) -> None:
    torch.manual_seed(0)
    true = torch.randn(INPUTS, LABELS) * 3 / INPUTS**0.5
    bias = torch.linspace(-3, 0, LABELS)  # from a rare label to one that every other row has
    x = torch.randn(2 * ROWS, INPUTS)
    y = (torch.rand(2 * ROWS, LABELS) < torch.sigmoid(x @ true + bias)).float()

    model = LinearHead(INPUTS, vocabulary_size=0, num_labels=LABELS)
    print(f"{model.linear}: {sum(p.numel() for p in model.parameters()):,} numbers")
    train(model, x[:ROWS], y[:ROWS])

    alone = LinearHead(INPUTS, vocabulary_size=0, num_labels=1)
    train(alone, x[:ROWS], y[:ROWS, 3:4])
    apart = (model.linear.weight[3] - alone.linear.weight[0]).abs().max().item()
    print(f"The fourth label alone gets the same weights within 0.0001: {apart < 1e-4}.")

    p = torch.sigmoid(model.linear(x[ROWS:])).detach()
    right = ((p > 0.5) == y[ROWS:].bool()).float().mean(0)
    shares = torch.stack([y[ROWS:].mean(0), p.mean(0)])
    print("label   share of rows   mean probability   right")
    for label in range(LABELS):
        print(f"{label:5}   {shares[0, label]:13.3f}   {shares[1, label]:16.3f}   {right[label]:5.1%}")
    print(f"Probabilities of a row add up to {p.sum(1).min():.1f} to {p.sum(1).max():.1f}, not to 1.")
    if picture:
        draw(picture, true.T, model.linear.weight.detach())


def train(model: LinearHead, x: Tensor, y: Tensor) -> None:
    """Gradient descent on all rows; the sum over labels leaves each label its own gradient."""
    ones = torch.ones(y.shape[1])
    loss = MaskedLoss(pos_weight=ones, scale=ones)
    for _ in range(STEPS):
        total = loss(model.linear(x), y, torch.ones(len(x), 1)).sum() / len(x)
        gradients = torch.autograd.grad(total, [*model.linear.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(model.linear.parameters(), gradients, strict=True):
                parameter -= RATE * gradient


def draw(path: Path, true: Tensor, found: Tensor) -> None:
    figure, axes = page()
    axes.plot(true.reshape(-1), found.reshape(-1), "o", color=BLUE, markersize=3, alpha=0.5, label="a weight")
    ends = [float(true.min()), float(true.max())]
    axes.plot(ends, ends, color=BLACK, linewidth=1, label="equal")
    axes.set(xlabel="true weight", ylabel="weight found", title="1,280 weights of ten labels, found together")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
