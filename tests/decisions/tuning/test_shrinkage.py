"""How far thresholds are shrunk follows what is best on rows that were not tuned on."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells, row_identities, value_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.derived import summed, without_rows
from mlclf.decisions.histograms.folds import FoldHistograms
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.histograms.tables import table_of
from mlclf.decisions.objectives.f_measures import F1
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.thresholds.cutoffs import cuts_of
from mlclf.decisions.tuning.best_cut import best_thresholds
from mlclf.decisions.tuning.shrinkage import LEAST_SHARE, PRIOR_POSITIVES, drawn_to, weigh_prior_positives, worth_of
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import ConfigError


def cells(logits: Tensor, labels: Tensor, first: int = 0) -> Cells:
    return Cells(logits, labels.to(torch.uint8), row_identities(torch.arange(first, first + len(logits))))


def as_they_are(logits: Tensor, labels: slice) -> Tensor:
    return scores_of(logits)


def drawn(rows: int, labels: int, centre: float, slope: float, seed: int) -> tuple[Tensor, Tensor]:
    """Logits whose true probability is sigmoid(slope · logit)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, labels, generator=generator) * 2 + centre
    return logits, torch.rand(rows, labels, generator=generator) < torch.sigmoid(slope * logits)


def test_folds_hold_every_row_once_and_identities_together() -> None:
    logits, labels = drawn(500, 3, -1, 1, 0)
    whole, folds = LabelHistogram(3, 4096), FoldHistograms(3, 4, 4096)
    whole.update(logits, labels)
    folds.update(cells(logits[:200], labels[:200]))
    folds.update(cells(logits[200:], labels[200:], 200))
    total = summed(folds.histograms)
    assert table_of(total).equals(table_of(whole))
    assert all(60 < int(fold.rows[0]) < 190 for fold in folds.histograms)
    rest = without_rows(total, folds.histograms[0])
    others = summed(folds.histograms[1:])
    torch.testing.assert_close(rest.positives[:], others.positives[:])
    assert rest.positive_rows.tolist() == others.positive_rows.tolist()

    import pyarrow as pa

    names = pa.chunked_array([pa.array([f"group {row % 7}" for row in range(500)])])
    grouped = FoldHistograms(3, 4, 4096)
    grouped.update(Cells(logits, labels.to(torch.uint8), value_identities(names)))
    sizes = {len(range(group, 500, 7)) for group in range(7)}
    counts = [int(fold.rows[0]) for fold in grouped.histograms]
    assert sum(counts) == 500
    assert all(count == 0 or count >= min(sizes) for count in counts)


def test_calibrated_scores_of_rare_labels_are_shrunk_far_and_misleading_ones_are_not() -> None:
    f1 = parse_objective("f1")
    honest = FoldHistograms(60, num_bins=1024)
    honest.update(cells(*drawn(2000, 60, -7, 1, 0)))
    weights = weigh_prior_positives(honest.histograms, f1, [as_they_are] * 10)
    assert next(iter(weights)) >= 30
    assert weights.get(0.0, 0.0) < 0.5
    liars = FoldHistograms(5, num_bins=1024)
    liars.update(cells(*drawn(6000, 5, 2, 0.3, 1)))  # plenty of positives, promises far too bold
    weights = weigh_prior_positives(liars.histograms, f1, [as_they_are] * 10)
    assert next(iter(weights)) <= 1000
    assert math.inf not in weights


def test_weights_fall_with_the_standard_errors_that_separate_a_choice_from_the_best() -> None:
    f1 = parse_objective("f1")
    logits, labels = drawn(1500, 8, -4, 0.8, 2)
    folds = FoldHistograms(8, num_bins=1024)
    folds.update(cells(logits, labels))
    weights = weigh_prior_positives(folds.histograms, f1, [as_they_are] * 10)
    found = list(weights.values())
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert found[-1] >= LEAST_SHARE

    sums = torch.zeros(len(PRIOR_POSITIVES), 10, 4, 8, dtype=torch.float64)
    for index, fold in enumerate(folds.histograms):
        for which, prior in enumerate(PRIOR_POSITIVES):
            rest = without_rows(summed(folds.histograms), fold)
            cuts = cuts_of(rest, slice(0, 8), as_they_are).blended(rest.positive_rows, prior)
            judged = cuts_of(fold, slice(0, 8))
            sums[which, index] = torch.stack(judged.at(F1().best_cuts(cuts)))
    values = [float(worth_of(part.sum(0), f1)) for part in sums]
    best = max(range(len(values)), key=values.__getitem__)
    for which, prior in enumerate(PRIOR_POSITIVES):
        rest = [sums.sum(1) - sums[:, fold] for fold in range(10)]
        differences = [float(worth_of(part[best], f1) - worth_of(part[which], f1)) for part in rest]
        mean = sum(differences) / 10
        error = math.sqrt(0.9 * sum((difference - mean) ** 2 for difference in differences))
        wanted = 1.0 if which == best else math.exp(-(values[best] - values[which]) / error)
        assert weights.get(prior, 0.0) == pytest.approx(wanted if wanted >= LEAST_SHARE else 0.0, rel=1e-6)


def test_all_count_alike_where_folds_cannot_tell() -> None:
    f1 = parse_objective("f1")
    logits, labels = drawn(400, 1, -1, 1, 0)
    labels[:] = False
    labels[:6] = True
    identities = row_identities(torch.arange(400))
    identities[:6] = identities[0]  # all positives in one fold
    folds = FoldHistograms(1, num_bins=1024)
    folds.update(Cells(logits, labels.to(torch.uint8), identities))
    weights = weigh_prior_positives(folds.histograms, f1, [as_they_are] * 10)
    assert weights == dict.fromkeys(PRIOR_POSITIVES, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("num_bins", [64, 65_536])
def test_drawn_thresholds_decide_as_is_reported(num_bins: int) -> None:
    objective, prior = parse_objective("f1"), torch.full((20,), 0.3)
    logits, labels = drawn(800, 20, -2, 1, 4)
    tuner = Tuner(objective, 20, prior=prior, num_bins=num_bins)
    tuner.update(cells(logits, labels))
    tuned = tuner.thresholds()
    kept = torch.tensor([status != "fallback" for status in tuned.status])
    decisions = tuned.decide(scores_of(logits))
    f1 = 2 * (decisions & labels).sum(0) / (decisions.sum(0) + labels.sum(0))
    torch.testing.assert_close(tuned.f1[kept].float(), f1[kept])
    low, high = tuned.intervals[kept].unbind(1)
    assert ((low < tuned.thresholds[kept]) & (tuned.thresholds[kept] <= high)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f1", "fbeta:2", "macro_f1", "micro_f1", "micro_macro_f1"])
def test_the_tuner_beats_plain_tuning_on_fresh_rows_of_rare_labels(name: str) -> None:
    objective = parse_objective(name)
    logits, labels = drawn(2000, 100, -7, 1, 0)
    fresh_logits, fresh_labels = drawn(20_000, 100, -7, 1, 1)
    tuned = {}
    for method in ("auto", "plain"):
        tuner = Tuner(objective, 100, method=method)
        tuner.update(cells(logits, labels))
        tuned[method] = tuner.thresholds()
    assert (tuned["auto"].method, tuned["plain"].method) == ("shrinkage", "empirical")
    assert set(tuned["auto"].status) <= {"tuned", "shrunk", "fallback"}

    def fresh_value(method: str) -> float:
        decisions = tuned[method].decide(scores_of(fresh_logits))
        sums = torch.stack(
            [
                (decisions & fresh_labels).sum(0),
                decisions.sum(0),
                fresh_labels.sum(0),
                torch.full((100,), len(fresh_labels)),
            ]
        )
        return float(worth_of(sums.double(), objective))

    assert fresh_value("auto") > fresh_value("plain") + 0.005


@pytest.mark.slow
def test_last_months_thresholds_are_kept_where_there_is_little_to_learn() -> None:
    objective = parse_objective("f1")
    history = LabelHistogram(50, 65_536)
    history.update(*drawn(60_000, 50, -6, 1, 0))
    prior = best_thresholds(history, objective).thresholds
    tuner = Tuner(objective, 50, prior=prior, method="plain")
    tuner.update(cells(*drawn(600, 50, -6, 1, 1)))
    tuned = tuner.thresholds()
    alone = best_thresholds(tuner.histogram, objective, 0).thresholds
    far = (torch.logit(alone) - torch.logit(prior)).abs()
    near = (torch.logit(tuned.thresholds) - torch.logit(prior)).abs()
    kept = ~torch.tensor([status == "fallback" for status in tuned.status])
    assert float(near[kept].mean()) < 0.5 * float(far[kept].mean())
    assert tuned.status.count("shrunk") > 20
    scores = scores_of(drawn(600, 50, -6, 1, 1)[0])
    labels = drawn(600, 50, -6, 1, 1)[1]
    decisions = tuned.decide(scores)
    recall = (decisions & labels).sum(0) / labels.sum(0)
    torch.testing.assert_close(tuned.recall[kept].float(), recall[kept], equal_nan=True)
    assert ((scores > tuned.intervals[:, 0]) == decisions)[:, kept].all()


def test_drawing_stays_between_the_two() -> None:
    tuned, prior = torch.tensor([0.2, math.nan, 0.9, 0.5]), torch.tensor([0.8, 0.5, math.nan, 0.5])
    rows = torch.tensor([10, 10, 10, 0])
    half = drawn_to(tuned, prior, rows, 10.0)
    assert half[0] == pytest.approx(0.5)
    assert half[1].isnan()
    assert half[2:].tolist() == pytest.approx([0.9, 0.5])
    assert drawn_to(tuned, prior, rows, math.inf)[0] == prior[0]
    assert drawn_to(tuned, prior, rows, 0.0)[0] == tuned[0]


def test_a_prior_without_an_objective_to_judge_by_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("--prior needs an objective that can be cross-validated (f1, fbeta")
    ):
        Tuner(parse_objective("precision:0.9"), 2, prior=torch.tensor([0.5, 0.5]))


def test_labels_of_one_class_have_a_threshold_all_the_same() -> None:
    for name in ("f1", "micro_f1", "micro_macro_f1", "alert_budget:5", "mcc", "prevalence"):
        tuner = Tuner(parse_objective(name), 3)
        logits, labels = drawn(50, 3, 0, 1, 0)
        labels[:, 1], labels[:, 2] = True, False
        tuner.update(cells(logits, labels))
        tuned = tuner.thresholds()
        assert tuned.status[1:] == ["fallback", "fallback"], name
        assert tuned.status[0] in ("tuned", "shrunk")
    assert PRIOR_POSITIVES[-1] == math.inf
