"""Objectives of all labels together are as good as the best of every combination of cut-offs."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.tuning.best_cut import best_thresholds


def draw(seed: int, rows: int = 12, labels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, labels, generator=generator) * 2).round(decimals=0)
    truth = torch.rand(rows, labels, generator=generator) < scores_of(logits)
    weights = torch.randint(1, 4, (rows,), generator=generator).double()
    truth[0], truth[1] = True, False  # both classes
    return logits, truth, weights


def counted(logits: Tensor, labels: Tensor, weights: Tensor) -> LabelHistogram:
    histogram = LabelHistogram(logits.shape[1], 4096)
    histogram.update(logits, labels, None, weights)
    return histogram


def sums(decisions: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, flagged and positives of each label."""
    return tuple(weights @ cells.double() for cells in (decisions & labels, decisions, labels))  # type: ignore[return-value]


def value(objective: str, decisions: Tensor, labels: Tensor, weights: Tensor) -> float:
    true, flagged, positives = sums(decisions, labels, weights)
    micro = float(2 * true.sum() / (positives.sum() + flagged.sum()))
    return micro if objective == "micro_f1" else micro + float((2 * true / (positives + flagged)).mean())


def every_decision(scores: Tensor) -> list[Tensor]:
    cuts = [[*sorted(set(column.tolist())), 2.0] for column in scores.t()]
    return [scores >= torch.tensor(combination) for combination in product(*cuts)]


@pytest.mark.parametrize("seed", range(12))
def test_micro_f1_is_the_best_of_all_combinations(seed: int) -> None:
    logits, labels, weights = draw(seed)
    scores = scores_of(logits)
    best = max(value("micro_f1", decisions, labels, weights) for decisions in every_decision(scores))
    tuned = best_thresholds(counted(logits, labels, weights), parse_objective("micro_f1"), 0)
    assert value("micro_f1", tuned.decide(scores), labels, weights) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_micro_and_macro_f1_cannot_be_raised_by_any_one_label(seed: int) -> None:
    logits, labels, weights = draw(seed)
    scores = scores_of(logits)
    tuned = best_thresholds(counted(logits, labels, weights), parse_objective("micro_macro_f1"), 0)
    found = value("micro_macro_f1", tuned.decide(scores), labels, weights)
    best = max(value("micro_macro_f1", decisions, labels, weights) for decisions in every_decision(scores))
    assert found >= best - 0.03  # a fixed point of the tangent; the best of all is not always it
    either = [
        best_thresholds(counted(logits, labels, weights), parse_objective(name), 0) for name in ("f1", "micro_f1")
    ]
    assert found >= max(value("micro_macro_f1", other.decide(scores), labels, weights) for other in either) - 1e-12


def test_probabilities_alone_give_one_cut_for_all_labels() -> None:
    """With infinite shrinkage and calibrated scores the cut of micro-F1 is F/2 everywhere (Lipton et al. 2014)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2 - torch.arange(5)
    labels = torch.rand(4000, 5, generator=generator) < scores_of(logits)
    histogram = LabelHistogram(5, 65_536)
    histogram.update(logits, labels)
    tuned = best_thresholds(histogram, parse_objective("micro_f1"), torch.inf)
    assert float(tuned.thresholds.max() - tuned.thresholds.min()) < 0.002
    scores = scores_of(logits).double()
    flagged = scores >= float(tuned.thresholds[0])
    expected = 2 * (scores * flagged).sum() / (scores.sum() + flagged.sum())
    assert float(tuned.thresholds.mean()) == pytest.approx(float(expected) / 2, abs=0.001)


@pytest.mark.parametrize("budget", [1, 5, 17, 60, 100_000])
def test_a_budget_of_alerts_flags_the_largest_scores_and_no_more(budget: int) -> None:
    logits, labels, _ = draw(3, rows=40, labels=4)
    weights = torch.ones(40, dtype=torch.float64)
    scores = scores_of(logits)
    tuned = best_thresholds(counted(logits, labels, weights), parse_objective(f"alert_budget:{budget}"))
    decisions = tuned.decide(scores)
    counts = {cut: int((scores >= cut).sum()) for cut in set(scores.flatten().tolist())}
    most = max((count for count in counts.values() if count <= budget), default=0)
    assert int(decisions.sum()) == most
    if 0 < most < scores.numel():
        assert scores[decisions].min() > scores[~decisions].max()
