"""Objectives parse as the contract writes them, and every wrong one is refused with the reason."""

from __future__ import annotations

import re

import pytest

from mlclf.decisions.objectives.table import parse_objective
from mlclf.errors import ConfigError

KNOWN = (
    "f1, fbeta:BETA, micro_f1, macro_f1, micro_macro_f1, mcc, balanced_accuracy, youden, cost:FP,FN, precision:P, "
    "recall:R, fpr:A, prevalence, top_k:K, per_million:N, alert_budget:N"
)


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("f1", "f1", ()),
        ("fbeta:2", "fbeta", (2.0,)),
        ("fbeta:0.5", "fbeta", (0.5,)),
        ("precision:0.9", "precision", (0.9,)),
        ("recall:1", "recall", (1.0,)),
        ("cost:1,20", "cost", (1.0, 20.0)),
        *(
            (name, name, ())
            for name in ("micro_f1", "macro_f1", "micro_macro_f1", "mcc", "balanced_accuracy", "youden")
        ),
        ("fpr:0.01", "fpr", (0.01,)),
        ("prevalence", "prevalence", ()),
        ("top_k:5", "top_k", (5.0,)),
        ("per_million:100", "per_million", (100.0,)),
        ("alert_budget:1000", "alert_budget", (1000.0,)),
        ("cost:0,0.123456789012", "cost", (0.0, 0.123456789012)),
    ],
)
def test_known_objectives_parse_and_print(text: str, name: str, parameters: tuple[float, ...]) -> None:
    objective = parse_objective(f" {text} ")
    assert (objective.name, objective.numbers) == (name, parameters)
    assert str(objective) == text


@pytest.mark.parametrize("text", ["f2", "", "F1", "precision=0.9"])
def test_unknown_objectives_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'the objective must be one of {KNOWN}, got {text!r}')}$"):
        parse_objective(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f1:2", "the objective f1 takes no number, got 'f1:2'"),
        *(
            (text, f"the objective fbeta:BETA takes one number from 1e-6 to 1e6, got {text!r}")
            for text in ("fbeta", "fbeta:", "fbeta:0", "fbeta:-1", "fbeta:inf", "fbeta:nan", "fbeta:x", "fbeta:1,2")
        ),
        *(
            (text, f"the objective precision:P takes one number above 0 and at most 1, got {text!r}")
            for text in ("precision", "precision:0", "precision:1.1", "precision:90%", "precision:0.5,0.5")
        ),
        ("recall:2", "the objective recall:R takes one number above 0 and at most 1, got 'recall:2'"),
        *(
            (text, f"the objective top_k:K takes one whole number, 1 or more, got {text!r}")
            for text in ("top_k", "top_k:0", "top_k:1.5", "top_k:inf", "top_k:-1")
        ),
        (
            "per_million:0",
            "the objective per_million:N takes one number above 0 and at most 1,000,000, got 'per_million:0'",
        ),
        ("alert_budget:0.5", "the objective alert_budget:N takes one whole number, 1 or more, got 'alert_budget:0.5'"),
        ("mcc:1", "the objective mcc takes no number, got 'mcc:1'"),
        *(
            (text, f"the objective cost:FP,FN takes two costs from 0 to 1e15, not both 0, got {text!r}")
            for text in ("cost", "cost:1", "cost:0,0", "cost:-1,2", "cost:1,inf", "cost:1,2,3", "cost:a,b")
        ),
    ],
)
def test_parameters_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        parse_objective(text)
