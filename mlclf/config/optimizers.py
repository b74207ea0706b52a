"""The optimizers: a class for each kind, and the table of those that `optimizer.name` may name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator

from mlclf.config.fields import Says

if TYPE_CHECKING:
    from torch import nn, optim

AUTO = "auto"
"""In place of a name: the size of the problem decides."""

STEPPERS = "choose adam, adamw, adagrad or sgd"


@dataclass(frozen=True)
class Optimizer:
    """How the objective is minimized.

    Attributes:
        exact: whether it solves the convex problem on all rows at once, in float64.
        ignores: settings of `training` that have no effect on it.
    """

    name: str
    exact: ClassVar[bool] = False
    ignores: ClassVar[tuple[str, ...]] = ()

    def broken_rules(
        self, *, lr: float | None, l1: float, batch_rows: int | str | None, hidden: Sequence[int]
    ) -> Iterator[tuple[str, str]]:
        """Settings that it cannot obey: (key, message)."""
        yield from ()


@dataclass(frozen=True)
class ExactSolver(Optimizer):
    """Solves the convex problem on all rows at once, in float64, until nothing is left to gain.

    Attributes:
        newton: every solve begins with the Hessian of its start, which asks for a smooth objective.
    """

    newton: bool = False
    exact: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("precision", "epochs", "patience", "shuffle")

    def broken_rules(
        self, *, lr: float | None, l1: float, batch_rows: int | str | None, hidden: Sequence[int]
    ) -> Iterator[tuple[str, str]]:
        chosen = f"with optimizer.name {self.name!r}"
        if lr is not None:
            yield "optimizer.lr", f"must be null {chosen}, which finds its step; {STEPPERS}"
        if batch_rows not in (None, "all"):
            yield "training.batch_rows", f"must be null or 'all' {chosen}; {STEPPERS}"
        if self.newton and l1:
            yield "optimizer.l1", f"must be 0 {chosen}, whose objective is smooth; choose lbfgs"
        if hidden:
            yield "model.hidden", f"must be empty {chosen}, for convex problems; {STEPPERS}"


@dataclass(frozen=True)
class Stepper(Optimizer, ABC):
    """Takes a step for each mini-batch. L2 and L1 are in the gradient that it is given, never its own.

    Attributes:
        rate: the learning rate where none is set; it rises and falls, one that is set stays as it is.
    """

    rate: float

    @abstractmethod
    def make(self, parameters: Sequence[nn.Parameter], lr: float | None) -> optim.Optimizer:
        """PyTorch's optimizer of these parameters, at a rate that was set, or None for its own."""


class Adam(Stepper):
    """Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015."""

    def make(self, parameters: Sequence[nn.Parameter], lr: float | None) -> optim.Optimizer:
        from torch.optim import Adam

        return Adam(parameters, lr=self.rate if lr is None else lr)


class AdamW(Stepper):
    """Adam again, since its decay of the weights is in the loss here."""

    def make(self, parameters: Sequence[nn.Parameter], lr: float | None) -> optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(parameters, lr=self.rate if lr is None else lr, weight_decay=0.0)


class Adagrad(Stepper):
    """Duchi, Hazan and Singer, Adaptive Subgradient Methods, JMLR 2011."""

    def make(self, parameters: Sequence[nn.Parameter], lr: float | None) -> optim.Optimizer:
        from torch.optim import Adagrad

        return Adagrad(parameters, lr=self.rate if lr is None else lr)


class SGD(Stepper):
    """Stochastic gradient descent, with Nesterov's momentum unless a rate is set."""

    def make(self, parameters: Sequence[nn.Parameter], lr: float | None) -> optim.Optimizer:
        from torch.optim import SGD

        if lr is not None:
            return SGD(parameters, lr=lr)
        return SGD(parameters, lr=self.rate, momentum=0.9, nesterov=True)


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        ExactSolver("lbfgs"),
        ExactSolver("newton", newton=True),
        Adam("adam", 0.01),
        AdamW("adamw", 0.01),
        Adagrad("adagrad", 0.1),
        SGD("sgd", 0.5),
    )
}


def _known(name: str) -> str:
    if name not in (AUTO, *OPTIMIZERS):
        raise ValueError("no optimizer")
    return name


_NAMES = [repr(name) for name in (AUTO, *OPTIMIZERS)]
OptimizerName = Annotated[str, AfterValidator(_known), Says(f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}")]
