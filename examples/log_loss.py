"""Log-loss: a confident mistake is dear, a confident truth is nearly free.

The loss of one row is −ln of the probability that the model gave to what happened: −ln p where the label is 1,
−ln(1 − p) where it is 0. Saying 0.99 costs 0.0101 when it is true and 4.6052, 458 times as much, when it is not.
The library never takes the logarithm of a probability: its loss reads logits, so here p goes in as ln(p / (1 − p)).

    python examples/log_loss.py --picture log_loss.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLUE, ORANGE, asked_for, page
from torch import Tensor

from mlclf.training.losses import MaskedLoss

PROBABILITIES = (0.99, 0.10)


def main(picture: Path | None) -> None:
    print("probability   loss if 1   loss if 0")
    for p in PROBABILITIES:
        if_one, if_zero = (loss_of(torch.tensor([p]), label).item() for label in (1, 0))
        print(f"{p:11.2f}   {if_one:9.4f}   {if_zero:9.4f}")
    if picture:
        draw(picture)


def loss_of(p: Tensor, label: int) -> Tensor:
    """Log-loss [n] of probabilities [n], all with one label: each is a column, as if it were a label of its own."""
    loss = MaskedLoss(pos_weight=torch.ones(len(p)), scale=torch.ones(len(p)))
    return loss(torch.logit(p)[None], torch.full((1, len(p)), label), torch.ones(1, 1))


def draw(path: Path) -> None:
    figure, axes = page()
    p = torch.linspace(0.002, 0.998, 499)
    for label, colour, style in ((1, BLUE, "-"), (0, ORANGE, "--")):
        axes.plot(p, loss_of(p, label), color=colour, linestyle=style, label=f"the label is {label}")
        for x, side in zip(PROBABILITIES, (-1, 1), strict=True):
            y = loss_of(torch.tensor([x]), label).item()
            axes.plot(x, y, "o", color=colour)
            where = {"xytext": (8 * side, 10), "textcoords": "offset points"}
            axes.annotate(f"{y:.4f}", (x, y), ha="left" if side > 0 else "right", **where)
    axes.set(xlabel="probability that the model gives to 1", ylabel="log-loss", title="What a prediction costs")
    axes.legend(loc="upper center")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
