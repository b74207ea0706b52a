"""Why not squared error: behind a sigmoid it hardly corrects the worst mistakes.

The slope of log-loss by the logit is p − y: the more wrong, the steeper. That of (p − y)² is 2 (p − y) p (1 − p),
and p (1 − p) vanishes just where the model is sure. So a model that is sure and wrong barely moves, and the curve
bends the wrong way (its second derivative is below 0): it is not convex, and descent can be caught on a plateau.

    python examples/squared_error.py --picture squared_error.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pictures import BLUE, ORANGE, asked_for, page
from torch import Tensor

from mlclf.training.losses import loss_and_slope

LOGITS = (-10.0, -5.0, 0.0, 5.0)
START, RATE = -10.0, 1.0


def log_loss(logits: Tensor) -> Tensor:
    """Log-loss [n] of rows whose label is 1, by the library's own formula."""
    return loss_and_slope(logits[:, None], torch.ones(len(logits), 1), torch.ones(1))[0][:, 0]


def squared_error(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) - 1) ** 2


def main(picture: Path | None) -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    columns = [derivatives(loss, logits) for loss in (log_loss, squared_error)]
    print("The label is 1. Slope and bend (second derivative) of the loss:")
    print(" logit       log-loss            squared error")
    for index, logit in enumerate(LOGITS):
        found = "   ".join(f"{slope[index]:9.6f} {bend[index]:9.6f}" for slope, bend in columns)
        print(f"{logit:6.0f}   {found}")
    print(f"Steps of rate {RATE:g} from logit {START:g} until p > 1/2:")
    for name, loss in (("log-loss", log_loss), ("squared error", squared_error)):
        print(f"  {name}: {steps_to_half(loss):,}")
    if picture:
        draw(picture)


def derivatives(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of a loss at each logit, by autograd."""
    logits = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits).sum(), logits, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), logits)
    return slope.detach(), bend


def steps_to_half(loss: Callable[[Tensor], Tensor]) -> int:
    """Steps of gradient descent on one row until its logit is above 0."""
    logit, steps = torch.tensor([START], dtype=torch.float64, requires_grad=True), 0
    while logit.item() <= 0:
        (slope,) = torch.autograd.grad(loss(logit).sum(), logit)
        logit = (logit - RATE * slope).detach().requires_grad_()
        steps += 1
    return steps


def draw(path: Path) -> None:
    figure, (values, slopes) = page(2)
    logits = torch.linspace(-10, 10, 401, dtype=torch.float64)
    for name, loss, colour, style in (
        ("log-loss", log_loss, BLUE, "-"),
        ("squared error", squared_error, ORANGE, "--"),
    ):
        values.plot(logits, loss(logits), color=colour, linestyle=style, label=name)
        slopes.plot(logits, derivatives(loss, logits)[0], color=colour, linestyle=style, label=name)
    values.set(xlabel="logit of a row whose label is 1", ylabel="loss", title="Squared error flattens out …")
    slopes.set(xlabel="logit of a row whose label is 1", ylabel="slope of the loss", title="… and no longer corrects")
    values.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
