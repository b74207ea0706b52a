"""Likelihood: the least log-loss is the model under which the data is most probable.

Of ten tosses, seven were heads. A coin that falls on heads with probability p gives them with probability p⁷(1−p)³,
the likelihood of p, which is greatest at 0.7. Its logarithm is a sum, and log-loss is that sum, negated, per row: so
training is maximum likelihood. A model with nothing but a bias therefore learns the share of heads. The logarithm is
not only convenient: the product over 2,000 rows is too small for float64, which stores it as 0.

    python examples/likelihood.py --picture likelihood.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from pictures import BLUE, ORANGE, asked_for, page
from torch import Tensor

from mlclf.training.losses import loss_and_slope

TOSSES = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.float64)


def likelihood(p: Tensor) -> Tensor:
    """Probability [n] of the tosses under coins [n]."""
    return torch.where(TOSSES.bool(), p[:, None], 1 - p[:, None]).prod(1)


def log_loss(p: Tensor) -> Tensor:
    """Mean log-loss [n] of the tosses under coins [n], by the library's own formula."""
    logits = torch.logit(p).expand(len(TOSSES), -1)
    return loss_and_slope(logits, TOSSES[:, None].expand_as(logits), torch.ones(len(p)))[0].mean(0)


def main(picture: Path | None) -> None:
    coins = torch.tensor([0.3, 0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    print("   p   likelihood   -ln of it / 10   log-loss")
    for p, product, loss in zip(coins, likelihood(coins), log_loss(coins), strict=True):
        print(f"{p:4.1f}   {product:10.6f}   {-product.log() / 10:14.6f}   {loss:8.6f}")

    bias = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(200):
        bias -= loss_and_slope(bias.expand(10, 1), TOSSES[:, None], torch.ones(1))[1].mean(0)
    print(f"A bias that is trained by gradient descent says {torch.sigmoid(bias).item():.4f}.")

    many = torch.full((2000,), 0.5, dtype=torch.float64)
    print(f"2,000 rows at 1/2: product {many.prod().item():g}, sum of logarithms {many.log().sum().item():.2f}.")
    if picture:
        draw(picture)


def draw(path: Path) -> None:
    figure, (top, bottom) = page(2)
    p = torch.linspace(0.02, 0.98, 481, dtype=torch.float64)
    top.plot(p, 1000 * likelihood(p), color=BLUE)
    top.set(xlabel="probability of heads, p", ylabel="likelihood × 1,000", title="Most probable …")
    bottom.plot(p, log_loss(p), color=ORANGE)
    bottom.set(xlabel="probability of heads, p", ylabel="log-loss", title="… is least log-loss")
    for axes in (top, bottom):
        axes.axvline(0.7, color="black", linestyle=":", linewidth=1.5)
        axes.annotate("0.7", (0.7, 0.5), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
