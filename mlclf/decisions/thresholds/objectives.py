"""What a threshold is chosen for: the text of `--objective`, parsed and checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlclf.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """A parsed objective: its name, and its parameters in the order in which they are written."""

    name: str
    parameters: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the text that parses to this objective."""
        numbers = ",".join(repr(number).removesuffix(".0") for number in self.parameters)
        return f"{self.name}:{numbers}" if numbers else self.name

    @property
    def is_f(self) -> bool:
        """Whether it is an F measure, of each label or of all together: its true positives are shrunk."""
        return self.name in _F_MEASURES

    @property
    def is_joint(self) -> bool:
        """Whether the cut of a label depends on the other labels."""
        return self.name in ("micro_f1", "micro_macro_f1", "alert_budget")

    @property
    def is_constraint(self) -> bool:
        """Whether it is a promise that can be kept with a confidence."""
        return self.name in ("precision", "recall", "fpr")

    @property
    def beta_squared(self) -> float:
        """β² of the F measure: how many times recall counts as much as precision."""
        return self.parameters[0] ** 2 if self.name == "fbeta" else 1.0


_F_MEASURES = ("f1", "fbeta", "macro_f1", "micro_f1", "micro_macro_f1")
_SHARE = "takes one number above 0 and at most 1"


@dataclass(frozen=True)
class _Form:
    """How an objective is written, what its numbers must be, and the rule in words."""

    text: str
    count: int = 0
    allowed: Callable[..., bool] = lambda: True
    rule: str = "takes no number"


def _is_share(number: float) -> bool:
    return 0 < number <= 1


def _is_count(number: float) -> bool:
    return number >= 1 and number.is_integer()


_FORMS = {
    "f1": _Form("f1"),
    "fbeta": _Form("fbeta:BETA", 1, lambda beta: 1e-6 <= beta <= 1e6, "takes one number from 1e-6 to 1e6"),
    "micro_f1": _Form("micro_f1"),
    "macro_f1": _Form("macro_f1"),
    "micro_macro_f1": _Form("micro_macro_f1"),
    "mcc": _Form("mcc"),
    "balanced_accuracy": _Form("balanced_accuracy"),
    "youden": _Form("youden"),
    "cost": _Form(
        "cost:FP,FN",
        2,
        lambda fp, fn: 0 <= fp <= 1e15 and 0 <= fn <= 1e15 and fp + fn > 0,
        "takes two costs from 0 to 1e15, not both 0",
    ),
    "precision": _Form("precision:P", 1, _is_share, _SHARE),
    "recall": _Form("recall:R", 1, _is_share, _SHARE),
    "fpr": _Form("fpr:A", 1, _is_share, _SHARE),
    "prevalence": _Form("prevalence"),
    "top_k": _Form("top_k:K", 1, _is_count, "takes one whole number, 1 or more"),
    "per_million": _Form(
        "per_million:N", 1, lambda n: 0 < n <= 1_000_000, "takes one number above 0 and at most 1,000,000"
    ),
    "alert_budget": _Form("alert_budget:N", 1, _is_count, "takes one whole number, 1 or more"),
}


def parse_objective(text: str) -> Objective:
    """Parse the text of an objective.

    >>> parse_objective("cost:1,20")
    Objective(name='cost', parameters=(1.0, 20.0))

    Raises:
        ConfigError: The name is unknown, or a parameter is missing, not a number or out of range.
    """
    name, _, rest = text.strip().partition(":")
    form = _FORMS.get(name)
    if form is None:
        forms = ", ".join(each.text for each in _FORMS.values())
        raise ConfigError(f"the objective must be one of {forms}, got {text!r}")
    try:
        parameters = tuple(float(number) for number in rest.split(",")) if rest else ()
    except ValueError:
        parameters = (math.nan,)
    if len(parameters) != form.count or any(map(math.isnan, parameters)) or not form.allowed(*parameters):
        raise ConfigError(f"the objective {form.text} {form.rule}, got {text!r}")
    return Objective(name, parameters)
