"""What a threshold is chosen for: the text of `--objective`, parsed and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlclf.errors import ConfigError

_FORMS = {"f1": "f1", "fbeta": "fbeta:BETA", "precision": "precision:P", "recall": "recall:R", "cost": "cost:FP,FN"}
_LATER = {
    *("micro_f1", "macro_f1", "micro_macro_f1", "mcc", "balanced_accuracy", "youden"),
    *("fpr", "prevalence", "top_k", "per_million", "alert_budget"),
}


@dataclass(frozen=True)
class Objective:
    """A parsed objective: its name, and its parameters in the order in which they are written."""

    name: str
    parameters: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the text that parses to this objective."""
        numbers = ",".join(repr(number).removesuffix(".0") for number in self.parameters)
        return f"{self.name}:{numbers}" if numbers else self.name


def parse_objective(text: str) -> Objective:
    """Parse `f1`, `fbeta:2`, `precision:0.9`, `recall:0.9` or `cost:FP,FN`.

    >>> parse_objective("cost:1,20")
    Objective(name='cost', parameters=(1.0, 20.0))

    Raises:
        ConfigError: The name is unknown or not available, or a parameter is missing, not a number or out of range.
    """
    name, _, rest = text.strip().partition(":")
    if name not in _FORMS:
        found = f"{name!r}, which is not available yet" if name in _LATER else repr(text)
        raise ConfigError(f"the objective must be one of {', '.join(_FORMS.values())}, got {found}")
    try:
        parameters = tuple(float(number) for number in rest.split(",")) if rest else ()
    except ValueError:
        parameters = (math.nan,)
    rule = _broken_rule(name, parameters)
    if rule:
        raise ConfigError(f"the objective {_FORMS[name]} {rule}, got {text!r}")
    return Objective(name, parameters)


def _broken_rule(name: str, parameters: tuple[float, ...]) -> str | None:
    """Return what the parameters break, or None. NaN breaks every rule."""
    match name, parameters:
        case "f1", ():
            return None
        case "f1", _:
            return "takes no number"
        case "fbeta", (beta,) if 0 < beta < math.inf:
            return None
        case "fbeta", _:
            return "takes one number above 0"
        case "cost", (fp, fn) if 0 <= fp < math.inf and 0 <= fn < math.inf and fp + fn > 0:
            return None
        case "cost", _:
            return "takes two costs, not negative and not both 0"
        case _, (share,) if 0 < share <= 1:
            return None
    return "takes one number above 0 and at most 1"
