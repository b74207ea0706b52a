"""A new objective is a class and a line in the table; it is parsed, tuned, shrunk and judged as the others are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.objectives.objective import LabelObjective
from mlclf.decisions.objectives.table import OBJECTIVES, parse_objective
from mlclf.decisions.thresholds.cutoffs import Cuts
from mlclf.decisions.tuning.shrinkage import worth_of
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import ConfigError

NUM_LABELS = 40


@dataclass(frozen=True)
class Tversky(LabelObjective):
    """The largest TP / (TP + a (FP + FN)): Jaccard's index with a = 1, and with a = ½ it is F1."""

    form = "tversky:A"
    rule = "takes one number above 0"
    shrinks = True
    has_worth = True
    errors: float

    def is_allowed(self) -> bool:
        return 0 < self.errors < math.inf

    def best_cuts(self, cuts: Cuts) -> Tensor:
        return cuts.best(self.values(cuts.tally))

    def flags_from(self, tally: Tally) -> Tensor:
        """The index rises with a row of probability p where p > index · (p + a (1 − p) − a p)."""
        index = self.values(tally).nan_to_num()
        return self.errors * index / (1 - index * (1 - 2 * self.errors))

    def worth(self, tally: Tally) -> Tensor:
        return self.values(tally).mean()

    def values(self, tally: Tally) -> Tensor:
        return tally.true / (tally.true + self.errors * (tally.positives + tally.flagged - 2 * tally.true))


@pytest.fixture(autouse=True)
def _in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "tversky", Tversky)


def drawn(seed: int, rows: int = 1500) -> Cells:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, NUM_LABELS, generator=generator) - 3
    labels = torch.rand(rows, NUM_LABELS, generator=generator) < scores_of(logits)
    labels[0], labels[1] = True, False
    return Cells(logits, labels.byte(), row_identities(torch.arange(rows)))


def tuned(objective: str, method: str, prior: Tensor | None = None) -> tuple[Tensor, list[str]]:
    tuner = Tuner(parse_objective(objective), NUM_LABELS, method=method, prior=prior)
    tuner.update(drawn(0))
    found = tuner.thresholds()
    assert found.objective == objective
    return found.thresholds, found.status


def test_it_is_parsed_and_refused_by_its_own_rule() -> None:
    assert parse_objective("tversky:0.5") == Tversky(0.5)
    with pytest.raises(ConfigError, match=r"^the objective tversky:A takes one number above 0, got 'tversky:0'$"):
        parse_objective("tversky:0")
    with pytest.raises(ConfigError, match=r"alert_budget:N, tversky:A, got 'other'$"):
        parse_objective("other")


@pytest.mark.slow
def test_it_is_tuned_and_shrunk_as_the_measure_that_it_equals() -> None:
    for method in ("plain", "auto"):
        found, status = tuned("tversky:0.5", method)
        wanted, same = tuned("macro_f1", method)
        kept = torch.tensor([each != "fallback" for each in same])
        torch.testing.assert_close(found[kept], wanted[kept], rtol=1e-5, atol=1e-6)
        assert ("shrunk" in status) == (method == "auto")
        assert "fallback" not in status


@pytest.mark.slow
def test_it_is_judged_by_what_it_is_worth() -> None:
    fresh = drawn(1, 40_000)
    truth = fresh.labels.bool()

    def worth(thresholds: Tensor) -> float:
        decisions = scores_of(fresh.logits) >= thresholds
        counts = [(decisions & truth).sum(0), decisions.sum(0), truth.sum(0), torch.full((NUM_LABELS,), len(truth))]
        return float(worth_of(torch.stack(counts).double(), parse_objective("tversky:1")))

    plain, shrunk = tuned("tversky:1", "plain")[0], tuned("tversky:1", "auto")[0]
    assert worth(shrunk) > worth(plain) + 0.002
    drawn_to_prior, status = tuned("tversky:1", "plain", prior=shrunk)
    assert "shrunk" in status
    assert worth(drawn_to_prior) > worth(plain)


def test_a_prior_needs_a_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tversky, "has_worth", False)
    with pytest.raises(ConfigError, match=r"^--prior needs an objective that can be cross-validated \(f1, fbeta"):
        tuned("tversky:1", "plain", prior=torch.full((NUM_LABELS,), 0.5))
