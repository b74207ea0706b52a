"""Replicates are drawn by identity, add up over parts, and give intervals that hold what they promise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_cells import (
    cell_weights,
    count_rows,
    each_kind_of_cells,
    made_cells,
    padded,
    part_of,
    row_weights,
    scores_of,
    sliced,
)
from torch import Tensor

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.evaluation.bootstrap import DistinctCount, percentile_interval, replicate_weights
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.evaluation.intervals import Replicates
from mlclf.decisions.histograms.derived import pooled_labels
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.average_precision import average_precision
from mlclf.decisions.metrics.confusion import DecisionCounts, decision_metrics
from mlclf.decisions.metrics.label_ranking import RowRankings, row_rankings

ROUNDING = 1e-12
FLOAT32 = 1e-5
THRESHOLDS = torch.tensor([0.2, 0.5, 0.05, 0.9])
NAMES = ["a", "b", "c", "d"]
HALVES = torch.full((4,), 0.5, dtype=torch.float64)


def evaluated(*batches: Cells, replicates: int = 40, thresholds: Tensor = THRESHOLDS, **options: Any) -> Evaluation:
    evaluation = Evaluation(thresholds, 4096, replicates=replicates, **options)
    for cells in batches:
        evaluation.update(cells, scores_of(cells.logits))
    return evaluation


def test_weights_are_poisson_1_and_independent() -> None:
    weights = replicate_weights(row_identities(torch.arange(20_000)), 30)
    assert weights[:, 0].eq(1).all()
    draws = weights[:, 1:].double()
    for count in range(6):
        share = math.exp(-1) / math.factorial(count)
        assert float((draws == count).double().mean()) == pytest.approx(share, abs=5 * (share / 600_000) ** 0.5)
    assert float(draws.mean()) == pytest.approx(1, abs=0.007)
    assert float(draws.var()) == pytest.approx(1, abs=0.01)
    correlations = torch.corrcoef(draws.t()).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 5 / 20_000**0.5


def test_weights_depend_on_the_identity_and_replicate_alone() -> None:
    identities = row_identities(torch.arange(50))
    weights = replicate_weights(identities, 41)
    assert torch.equal(replicate_weights(identities.flip(0), 41).flip(0), weights)
    assert torch.equal(replicate_weights(identities, 60)[:, :42], weights)
    assert torch.equal(replicate_weights(identities[[3, 3, 7]], 41), weights[[3, 3, 7]])


@pytest.mark.parametrize("budget", [1 << 27, 0])
def test_replicates_are_what_metrics_say_of_rows_drawn_that_often(budget: int) -> None:
    """The oracle evaluates each replicate as data whose rows weigh what was drawn."""
    for cells in each_kind_of_cells(1, 80):
        replicates = Replicates(4, 40, budget, torch.device("cpu"))
        for part in sliced(cells):
            replicates.update(part, part.scores >= THRESHOLDS, row_rankings(part))
        drawn = replicate_weights(cells.identities, 40).double() * row_weights(cells)[:, None]
        for r in (0, 1, 40):
            again = replace(cells, weights=drawn[:, r])
            counts, rankings = DecisionCounts(4), RowRankings()
            for part in sliced(again):
                counts.update(part, part.scores >= THRESHOLDS)
                rankings.update(part, row_rankings(part))
            want = counts.counts if budget else counts.counts.sum(-1, keepdim=True)
            torch.testing.assert_close(replicates.sums.counts()[:, :, r], want, rtol=FLOAT32, atol=FLOAT32)
            rows = (replicates.sums.rows / replicates.sums.labelled_rows[:, None])[r]
            assert float(rows[0]) == pytest.approx(float(counts.subset_accuracy()), abs=FLOAT32)
            torch.testing.assert_close(rows[1:], rankings.means(), rtol=0, atol=FLOAT32)
            weights = cell_weights(again)
            loss = torch.nn.functional.softplus(torch.where(cells.labels, -cells.logits, cells.logits))
            sums = (weights * loss).sum(0) if budget else (weights * loss).sum()[None]
            torch.testing.assert_close(replicates.sums.sums("loss")[r], sums, rtol=FLOAT32, atol=FLOAT32)


def test_replicates_of_ranking_metrics_are_those_of_rows_drawn_that_often() -> None:
    for cells in each_kind_of_cells(2, 200):
        # on the middle of bins of 0.25, so that the coarse bins lose nothing
        cells = replace(cells, logits=(cells.logits * 4).round() / 4 + 0.125)
        replicates = Replicates(4, 40, 1 << 27, torch.device("cpu"))
        for part in sliced(padded(cells)):
            replicates.update(part, part.scores >= THRESHOLDS, row_rankings(part))
        assert replicates.histograms.num_bins == 128
        drawn = replicate_weights(cells.identities, 40).double()
        areas, precisions = replicates.histograms.compute()
        for r in (0, 1, 40):
            y, w = cells.labels, cell_weights(cells) * drawn[:, r, None]
            for k in range(4):
                want = slow_auroc(cells.logits[:, k], y[:, k], w[:, k])
                assert float(areas[r, k]) == pytest.approx(want, abs=FLOAT32)
                want = slow_average_precision(cells.logits[:, k], y[:, k], w[:, k])
                assert float(precisions[r, k]) == pytest.approx(want, abs=FLOAT32)
            want = slow_auroc(cells.logits.flatten(), y.flatten(), w.flatten())
            assert float(replicates.histograms.pooled().aurocs()[r, 0]) == pytest.approx(want, abs=FLOAT32)


def slow_auroc(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    above = (logits[:, None] > logits).double() + 0.5 * (logits[:, None] == logits).double()
    p, n = weights * labels, weights * ~labels
    return float(p @ above @ n / (p.sum() * n.sum()))


def slow_average_precision(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    value = 0.0
    for cut in logits.unique().tolist():
        at, above = logits == cut, logits >= cut
        value += float(
            (weights * labels)[at].sum() * (weights * labels)[above].sum() / weights[above].sum().clamp(1e-9)
        )
    return value / float((weights * labels).sum())


def test_parts_merge_to_the_whole_and_padding_counts_nowhere() -> None:
    for cells in each_kind_of_cells(3, 80):
        if cells.label_weights is not None:
            continue
        whole = evaluated(cells).report(NAMES, HALVES)
        head = evaluated(part_of(cells, slice(0, 30)))
        head.merge(evaluated(padded(part_of(cells, slice(30, None)))))
        head.sync()
        merged = head.report(NAMES, HALVES)
        assert merged["intervals"]["clusters"] == whole["intervals"]["clusters"]
        for name in ("macro", "micro", "ranking"):
            for metric, interval in whole["intervals"][name].items():
                assert merged["intervals"][name][metric] == pytest.approx(interval, abs=FLOAT32), (name, metric)


def test_the_document_has_an_interval_for_each_metric() -> None:
    cells = made_cells(4, 300, masked=False)
    cells.labels[:, 3] = False
    document = evaluated(cells, replicates=60).report(NAMES, HALVES)
    intervals = document["intervals"]
    assert (intervals["level"], intervals["replicates"], intervals["without"]) == (0.95, 60, [])
    assert intervals["clusters"] == document["rows"] == int((row_weights(cells) > 0).sum())
    for name in ("macro", "micro", "ranking", "macro_all"):
        assert intervals[name].keys() == document[name].keys()
    for name in ("log_loss", "gain", "brier", "hamming_loss", "subset_accuracy"):
        low, high = intervals[name]
        assert low < document[name] < high
    for name in ("macro", "micro", "ranking"):
        for metric, (low, high) in intervals[name].items():
            assert low <= document[name][metric] <= high, (name, metric)
    assert intervals["macro"].keys() == document["labels"]["a"]["interval"].keys()
    assert document["labels"]["d"]["interval"]["auroc"] is None
    assert document["labels"]["d"]["interval"]["recall"] is None


def test_without_memory_for_labels_there_are_micro_intervals_alone() -> None:
    cells = made_cells(5, 200)
    intervals = evaluated(cells, interval_bytes=0).report(NAMES, HALVES)["intervals"]
    assert intervals["macro"] == intervals["macro_all"] == {}
    assert intervals["micro"].keys() == evaluated(cells).report(NAMES, HALVES)["intervals"]["micro"].keys()
    assert intervals["without"] == [
        *("macro of decisions", "log_loss", "gain", "brier"),
        "macro of auroc and average_precision",
    ]
    assert "subset_accuracy" in intervals
    assert "log_loss" not in intervals


def test_memory_is_within_the_budget() -> None:
    for num_labels in (1, 100, 1000, 50_000):
        replicates = Replicates(num_labels, 200, 1 << 26, torch.device("meta"))
        pooled = 8 << 20  # what one label takes at most
        assert replicates.histograms.counts.nbytes <= max(1 << 26, pooled)
        assert replicates.sums.cells.nbytes <= max(1 << 26, pooled)


@pytest.mark.slow
def test_intervals_are_those_of_a_bootstrap_of_resampled_rows() -> None:
    cells = made_cells(6, 400, masked=False, weighted=False)
    # on the middle of the coarse bins: finer ones see how a repeated row ties with itself, which raises precision
    cells = replace(cells, logits=(cells.logits * 3).round() / 4 + 0.125)
    document = evaluated(cells, replicates=1000).report(NAMES, HALVES)
    rng, found = np.random.default_rng(0), []
    for _ in range(1000):
        rows = torch.from_numpy(rng.integers(0, 400, 400))
        again = Evaluation(THRESHOLDS, 512)
        count_rows(again, cells.logits[rows], scores_of(cells.logits[rows]), cells.labels[rows])
        numbers = decision_metrics(again.decisions.counts)
        pooled = pooled_labels(again.histogram)
        found.append(
            [
                float(auroc(again.histogram)[0].mean()),
                float(average_precision(again.histogram)[0].mean()),
                float(auroc(pooled)[0]),
                float(numbers["f1"].mean()),
                float(numbers["mcc"].mean()),
                float(again.losses.log_loss().mean()),
            ]
        )
    want = percentile_interval(torch.tensor(found)).t().tolist()
    intervals = document["intervals"]
    macro, micro = intervals["macro"], intervals["micro"]
    names = (macro["auroc"], macro["average_precision"], micro["auroc"], macro["f1"], macro["mcc"])
    for got, expected in zip([*names, intervals["log_loss"]], want, strict=True):
        width = expected[1] - expected[0]
        assert got == pytest.approx(expected, abs=0.12 * width)


@pytest.mark.slow
def test_intervals_cover_what_they_promise() -> None:
    """100 data sets: 95% intervals should miss in 5%, so in 0% to 12% (within 3.2 deviations)."""
    generator = torch.Generator().manual_seed(0)
    made = made_cells(0, 100 * 300, 4, decimals=6, masked=False, weighted=False)
    labels = torch.rand(made.labels.shape, generator=generator) < scores_of(made.logits)
    whole = evaluated(replace(made, labels=labels)).report(NAMES, HALVES)
    missed = dict.fromkeys(("auroc", "average_precision", "f1", "precision", "recall"), 0)
    for start in range(0, len(made), 300):
        cells = part_of(replace(made, labels=labels), slice(start, start + 300))
        found = evaluated(cells, replicates=100).report(NAMES, HALVES)["intervals"]
        for name in missed:
            low, high = found["micro"][name]
            missed[name] += not low <= whole["micro"][name] <= high
    for name, count in missed.items():
        assert count <= 12, (name, missed)


def test_an_interval_of_recall_is_about_the_binomial_one() -> None:
    cells = made_cells(8, 5000, 1, masked=False, weighted=False, decimals=6)
    document = evaluated(cells, replicates=1000, thresholds=torch.tensor([0.5])).report(["a"], HALVES[:1])
    low, high = document["intervals"]["micro"]["recall"]
    recall, support = document["micro"]["recall"], document["labels"]["a"]["support"]
    deviation = (recall * (1 - recall) / support) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.12)


def test_clusters_give_wider_intervals_than_rows() -> None:
    cells = made_cells(9, 100, masked=False, weighted=False)
    repeated = cells.where(torch.arange(100).repeat_interleave(9))
    apart = replace(repeated, identities=row_identities(torch.arange(900)))
    widths = []
    for one in (cells, repeated, apart):
        intervals = evaluated(one, replicates=400).report(NAMES, HALVES)["intervals"]
        widths.append([high - low for low, high in (intervals["macro"]["f1"], intervals["micro"]["auroc"])])
        assert intervals["clusters"] == (900 if one is apart else 100)
    np.testing.assert_allclose(widths[1], widths[0], rtol=1e-4)  # nine copies of a cluster say no more
    np.testing.assert_allclose(np.array(widths[0]) / widths[2], 3, rtol=0.25)


def test_distinct_identities_are_counted() -> None:
    few, many = DistinctCount(), DistinctCount()
    few.update(row_identities(torch.arange(3000)))
    few.update(row_identities(torch.arange(1000, 4000)))
    assert few.count() == 4000
    for start in range(0, 100_000, 10_000):
        many.update(row_identities(torch.arange(start, start + 20_000)))
    assert many.count() == pytest.approx(110_000, rel=0.05)
    many.merge_state(few)
    assert many.count() == pytest.approx(110_000, rel=0.05)
    assert DistinctCount().count() == 0


def test_too_few_replicates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^replicates must be 0 or at least 40, got 20; 200 is usual$"):
        evaluated(replicates=20)
