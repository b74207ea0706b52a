"""Thresholds with confidence: the right cut by a slow oracle, edge cases, and how often they break their promise."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.guarantees.binomial import log_upper_tail
from mlclf.decisions.guarantees.certified import Certified
from mlclf.decisions.guarantees.fixed_sequences import start_counts
from mlclf.decisions.guarantees.independent_rows import certified, shared_level
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.constraints import Constraint, FalsePositiveRate, Precision, Recall
from mlclf.decisions.objectives.table import parse_objective
from mlclf.errors import ConfigError

PRECISION, RECALL, FPR = Precision(0.9), Recall(0.9), FalsePositiveRate(0.02)


def drawn(seed: int, rows: int, labels: int, slope: float = 2.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, labels)).round(2)
    truth = rng.random((rows, labels)) < 1 / (1 + np.exp(-slope * logits - offset))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(truth)


def counted(logits: Tensor, labels: Tensor, num_bins: int = 65_536, **more: Any) -> LabelHistogram:
    histogram = LabelHistogram(logits.shape[1], num_bins)
    histogram.update(logits, labels, **more)
    return histogram


def certify(logits: Any, labels: Any, objective: Constraint, confidence: float = 0.95) -> Certified:
    logits, labels = torch.tensor(logits).float().reshape(-1, 1), torch.tensor(labels).bool().reshape(-1, 1)
    return certified(counted(logits, labels), objective, confidence)


def tails(successes: Any, trials: Any, share: float) -> list[float]:
    numbers = (torch.as_tensor(number, dtype=torch.float64) for number in (successes, trials))
    return log_upper_tail(*numbers, share).exp().tolist()


def slow_flagged(logits: Tensor, labels: Tensor, objective: Constraint, level: float) -> int:
    """How many rows the chosen cut flags; 0 = none is certified. Cuts are the distinct logits."""
    share, positives = objective.share, int(labels.sum())
    negatives = len(labels) - positives
    cuts = sorted(set(logits.tolist()), reverse=True)
    flagged = [int((logits >= cut).sum()) for cut in cuts]
    true = [int(labels[logits >= cut].sum()) for cut in cuts]
    if objective.name == "recall":
        found = tails(true, [positives] * len(cuts), share)
        return next((rows for rows, p_value in zip(flagged, found, strict=True) if p_value <= level), 0)
    if objective.name == "fpr":
        kept = [negatives - rows + hits for rows, hits in zip(flagged, true, strict=True)]
        found = tails(kept, [negatives] * len(cuts), 1 - share)
        return max((rows for rows, p_value in zip(flagged, found, strict=True) if p_value <= level), default=0)
    best, counts = 0, start_counts(len(labels), level, -math.log(share))
    p_values = tails(true, flagged, share)
    for count in counts:
        start = max([place for place, rows in enumerate(flagged) if rows <= count], default=0)
        for rows, p_value in zip(flagged[start:], p_values[start:], strict=True):
            if p_value > level / len(counts):
                break
            best = max(best, rows)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("objective", [PRECISION, RECALL, FPR, Precision(0.5)], ids=str)
@pytest.mark.parametrize("rows", [40, 1_000])
def test_chosen_cut_is_that_of_a_slow_search(objective: Constraint, rows: int) -> None:
    logits, labels = drawn(rows, rows, 6, slope=1.5)
    found = certified(counted(logits, labels), objective, 0.95)
    attained = 0
    for label in range(6):
        expected = slow_flagged(logits[:, label], labels[:, label], objective, 0.05)
        threshold = float(found.thresholds.thresholds[label])
        assert found.thresholds.status[label] == ("tuned" if expected else "unattainable")
        if expected:
            attained += 1
            flagged = scores_of(logits[:, label]) >= threshold
            assert int(flagged.sum()) == expected
            true = float(labels[flagged, label].sum())
            assert float(found.thresholds.precision[label]) == pytest.approx(true / expected)
            assert float(found.thresholds.recall[label]) == pytest.approx(true / float(labels[:, label].sum()))
            assert float(found.thresholds.f1[label]) == pytest.approx(
                2 * true / (expected + float(labels[:, label].sum()))
            )
            assert found.best[label] is None
    assert attained or rows < 1_000


@pytest.mark.parametrize("objective", [PRECISION, RECALL, FPR], ids=str)
def test_every_cut_within_the_interval_decides_alike(objective: Constraint) -> None:
    logits, labels = drawn(1, 1_000, 8)
    found = certified(counted(logits, labels, 1024), objective, 0.95).thresholds
    scores = scores_of(logits)
    assert found.status == ["tuned"] * 8
    for label in range(8):
        low, high = found.intervals[label].tolist()
        assert low < float(found.thresholds[label]) <= high
        at = scores[:, label] >= found.thresholds[label]
        assert torch.equal(at, scores[:, label] >= high)
        assert torch.equal(at, scores[:, label] > low)


def test_numbers_say_what_they_are() -> None:
    logits, labels = drawn(2, 500, 3)
    found = certified(counted(logits, labels), PRECISION, 0.9).thresholds
    assert (found.objective, found.method, found.confidence) == ("precision:0.9", "binomial", 0.9)
    assert torch.equal(found.support, labels.sum(0))
    assert found.thresholds.dtype == torch.float32
    assert found.intervals.shape == (3, 2)
    found.to_json(["a", "b", "c"])


def test_more_confidence_flags_no_more() -> None:
    logits, labels = drawn(3, 2_000, 10)
    histogram = counted(logits, labels, 4096)
    flagged = []
    for confidence in (0.5, 0.9, 0.99, 0.999999):
        found = certified(histogram, FPR, confidence).thresholds.thresholds
        flagged.append((scores_of(logits) >= found).sum(0))
    for less, more in zip(flagged[1:], flagged, strict=False):
        assert (less <= more).all()


def test_29_of_29_are_enough_and_28_are_not() -> None:
    assert certify([1.0] * 29, [1] * 29, PRECISION).thresholds.status == ["tuned"]
    found = certify([1.0] * 28, [1] * 28, PRECISION)
    assert found.thresholds.status == ["unattainable"]
    assert math.isnan(float(found.thresholds.thresholds[0]))
    (best,) = found.best
    # Two starts, at 14 and 28 rows; all are tied, so both flag the 28.
    assert best == pytest.approx({"precision": 0.025 ** (1 / 28), "threshold": best["threshold"], "flagged": 28.0})
    assert best["threshold"] == pytest.approx(float(scores_of(torch.tensor(1.0))), abs=1e-3)


def test_best_of_a_label_that_cannot_is_a_bound_at_a_start() -> None:
    logits, labels = drawn(4, 1_000, 5, slope=0.5)
    found = certified(counted(logits, labels), Precision(0.99), 0.95)
    assert found.thresholds.status == ["unattainable"] * 5
    counts = start_counts(1_000, 0.05, -math.log(0.99))
    for label in range(5):
        best = found.best[label]
        assert best is not None
        flagged = scores_of(logits[:, label]) >= best["threshold"]
        assert int(flagged.sum()) == best["flagged"] <= counts[-1]
        true, bound = float(labels[flagged, label].sum()), float(best["precision"] or 0)
        level = 0.05 / len(counts)
        assert tails([true], [int(flagged.sum())], bound)[0] <= level * (1 + 1e-6)
        assert tails([true], [int(flagged.sum())], bound + 1e-6)[0] > level


def test_recall_of_28_positives_is_unattainable_and_flags_all() -> None:
    logits = [*range(28), -5.0, -6.0]
    found = certify(logits, [1] * 28 + [0, 0], RECALL)
    assert found.thresholds.status == ["unattainable"]
    assert found.thresholds.thresholds.tolist() == [0.0]
    assert found.thresholds.recall.tolist() == [1.0]
    assert found.thresholds.intervals[0].tolist() == pytest.approx([0.0, float(scores_of(torch.tensor(-6.0)))])
    (best,) = found.best
    assert best is not None
    assert best["recall"] == pytest.approx(0.05 ** (1 / 28))
    assert best["flagged"] == 28.0
    assert best["threshold"] == pytest.approx(0.5, abs=1e-3)


def test_fpr_of_few_negatives_is_unattainable_and_never_flags() -> None:
    found = certify([-1.0, *range(10)], [0] * 8 + [1] * 3, FPR)
    assert found.thresholds.status == ["unattainable"]
    assert math.isnan(float(found.thresholds.thresholds[0]))
    (best,) = found.best
    assert best is not None
    assert best["fpr"] == pytest.approx(1 - 0.05 ** (1 / 8))
    assert best["flagged"] == 3.0


def test_fpr_where_the_highest_row_is_negative() -> None:
    found = certify([9.0, 1.0], [0, 1], FPR)
    assert found.best == [{"fpr": pytest.approx(0.95), "threshold": None, "flagged": 0.0}]


@pytest.mark.parametrize("objective", [Precision(1.0), Recall(1.0)], ids=str)
def test_certainty_is_never_certified(objective: Constraint) -> None:
    found = certify(list(range(-9, 21)) * 20, ([0] * 10 + [1] * 20) * 20, objective)
    assert found.thresholds.status == ["unattainable"]
    (best,) = found.best
    assert best is not None
    assert 0.9 < float(best[objective.name] or 0) < 1


@pytest.mark.parametrize("objective", [PRECISION, RECALL, FPR], ids=str)
def test_one_row(objective: Constraint) -> None:
    for label in (0, 1):
        status = certify([0.3], [label], objective).thresholds.status[0]
        about = {"precision": True, "recall": label == 1, "fpr": label == 0}[objective.name]
        assert status == ("unattainable" if about else "fallback")


def test_labels_without_a_row_a_positive_or_a_negative() -> None:
    logits = torch.zeros(400, 3)
    labels = torch.tensor([[0, 1, 0]]).bool().expand(400, 3)
    mask = torch.tensor([[True, True, False]]).expand(400, 3)
    histogram = counted(logits, labels, mask=mask)
    precision = certified(histogram, PRECISION, 0.95)
    assert precision.thresholds.status == ["unattainable", "tuned", "fallback"]
    assert precision.best == [{"precision": 0.0, "threshold": None, "flagged": 0.0}, None, None]
    assert precision.thresholds.thresholds[2] == 0.5
    assert certified(histogram, RECALL, 0.95).thresholds.status == ["fallback", "tuned", "fallback"]
    assert certified(histogram, FPR, 0.95).thresholds.status == ["unattainable", "fallback", "fallback"]


def test_no_rows_at_all() -> None:
    for objective in (PRECISION, RECALL, FPR):
        for across in (None, "fdr"):
            found = certified(LabelHistogram(2, 256), objective, 0.95, across)
            assert found.thresholds.status == ["fallback", "fallback"]
            assert found.best == [None, None]


def test_scores_that_are_all_one() -> None:
    logits = torch.linspace(18, 40, 100)
    found = certify(logits.tolist(), [1] * 100, PRECISION)
    assert found.thresholds.thresholds.tolist() == [1.0]
    # Below them rows that float32 scores do not tell apart: no cut between them.
    tied = certify([*logits.tolist(), *[17.5] * 100], [1] * 100 + [0] * 100, PRECISION)
    assert tied.thresholds.status == ["unattainable"]


def test_confidence_near_one() -> None:
    found = certify([2.0] * 400, [1] * 400, PRECISION, 1 - 1e-12)
    assert found.thresholds.status == ["tuned"]


def test_false_discovery_rate_is_stricter_than_each_label_alone_and_not_than_all() -> None:
    logits, labels = drawn(5, 600, 30, slope=1.5)
    histogram = counted(logits, labels, 4096)
    for objective in (PRECISION, RECALL, FPR):
        alone = certified(histogram, objective, 0.95).thresholds.status
        fdr = certified(histogram, objective, 0.95, "fdr").thresholds.status
        bonferroni = certified(histogram, objective, 1 - 0.05 / 30 / 4).thresholds.status
        assert alone.count("tuned") >= fdr.count("tuned") >= bonferroni.count("tuned")
        assert fdr.count("tuned") > 0


def test_shared_level_is_benjamini_yekutieli() -> None:
    least = torch.tensor([0.001, 0.9, 0.012, 0.02], dtype=torch.float64)
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert shared_level(least, 0.05, dependent=True) == pytest.approx(0.05 * 2 / 4 / harmonic)
    assert shared_level(least, 0.05, dependent=False) == pytest.approx(0.05 * 3 / 4)
    assert shared_level(least + 1, 0.05, dependent=False) == pytest.approx(0.05 / 4)
    assert shared_level(least[:0], 0.05, dependent=True) == 0.05


@pytest.mark.slow
def test_false_discovery_rate_holds() -> None:
    """40 labels of which half have no cut with a precision of 0.9; the share of wrong ones among the attained."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.tensor([0.89] * 20 + [0.97] * 20, dtype=torch.float64)
    wrong = []
    for _ in range(20):
        logits = torch.randn(400, 40, generator=generator)
        labels = torch.rand(400, 40, generator=generator) < chance
        found = certified(counted(logits, labels, 1024), PRECISION, 0.8, "fdr").thresholds
        attained = torch.tensor([status == "tuned" for status in found.status])
        wrong.append(float(attained[:20].sum()) / max(1, int(attained.sum())))
        assert attained[20:].sum() >= 15
    assert sum(wrong) / len(wrong) <= 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("f1", 0.95, None),
            "the objective must be one of precision, recall, fpr to hold with confidence, got 'f1'",
        ),
        (("precision:0.9", 1.0, None), "confidence must be above 0 and below 1, got 1.0"),
        (("precision:0.9", math.nan, None), "confidence must be above 0 and below 1, got nan"),
        (("precision:0.9", 0.95, "fwer"), "across_labels must be 'fdr' or None, got 'fwer'"),
    ],
)
def test_bad_requests(arguments: Any, message: str) -> None:
    objective, confidence, across = arguments
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        certified(LabelHistogram(1, 256), parse_objective(objective), confidence, across)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [2.0, 3.0]])
def test_weighted_rows_are_refused(weights: list[float]) -> None:
    histogram = LabelHistogram(1, 256)
    histogram.update(torch.zeros(2, 1), torch.ones(2, 1), weights=torch.tensor(weights))
    message = (
        "certified thresholds must come from rows of weight 1, got a histogram of weighted rows; "
        "use BettingConstraints for weighted or clustered rows"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        certified(histogram, PRECISION, 0.95)


@pytest.mark.parametrize(("objective", "truth"), [(RECALL, 0.5), (FPR, 0.5)], ids=["recall", "fpr"])
def test_recall_and_fpr_hold(objective: Constraint, truth: float) -> None:
    """Logits are uniform on ±5 whatever the label, so a cut at z has a recall and a rate of (5 - z)/10."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(800, 400, generator=generator) * 10 - 5
    labels = torch.rand(800, 400, generator=generator) < truth
    found = certified(counted(logits, labels, 4096), objective, 0.95).thresholds
    share = (5 - torch.logit(found.thresholds.double())) / 10
    wanted = objective.share
    violated = share < wanted if objective.name == "recall" else share > wanted
    attained = torch.tensor([status == "tuned" for status in found.status])
    assert int(attained.sum()) >= 380
    assert float((attained & violated).double().mean()) <= 0.08  # 0.05 and three standard errors
