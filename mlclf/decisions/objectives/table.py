"""All objectives by name, and their texts parsed."""

from __future__ import annotations

import math
from dataclasses import fields

from mlclf.decisions.objectives.constraints import FalsePositiveRate, Precision, Recall
from mlclf.decisions.objectives.f_measures import F1, FBeta, MacroF1, MicroF1, MicroMacroF1
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.objectives.quotas import AlertBudget, PerMillion, Prevalence, TopK
from mlclf.decisions.objectives.two_classes import BalancedAccuracy, Cost, MatthewsCorrelation, Youden
from mlclf.errors import ConfigError

OBJECTIVES: dict[str, type[Objective]] = {
    kind.form.partition(":")[0]: kind
    for kind in (
        F1,
        FBeta,
        MicroF1,
        MacroF1,
        MicroMacroF1,
        MatthewsCorrelation,
        BalancedAccuracy,
        Youden,
        Cost,
        Precision,
        Recall,
        FalsePositiveRate,
        Prevalence,
        TopK,
        PerMillion,
        AlertBudget,
    )
}


def parse_objective(text: str) -> Objective:
    """Parse the text of an objective.

    >>> parse_objective("cost:1,20")
    Cost(false_positive=1.0, false_negative=20.0)

    Raises:
        ConfigError: The name is unknown, or a number is missing, not a number or out of range.
    """
    name, _, rest = text.strip().partition(":")
    kind = OBJECTIVES.get(name)
    if kind is None:
        forms = ", ".join(each.form for each in OBJECTIVES.values())
        raise ConfigError(f"the objective must be one of {forms}, got {text!r}")
    try:
        numbers = [float(number) for number in rest.split(",")] if rest else []
    except ValueError:
        numbers = [math.nan]
    if len(numbers) == len(fields(kind)) and not any(map(math.isnan, numbers)):
        objective = kind(*numbers)
        if objective.is_allowed():
            return objective
    raise ConfigError(f"the objective {kind.form} {kind.rule}, got {text!r}")
