"""Bets on weighted and clustered rows: the wealth by a slow oracle, merging, memory, and whether the promise holds."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import simulation
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.guarantees.betting import LARGEST_STAKE, NUM_STAKES, Wealth, greatest_loss, log_mixture
from mlclf.decisions.guarantees.clusters import ClusterWealth
from mlclf.decisions.guarantees.weighted_rows import BettingConstraints, cuts_for
from mlclf.decisions.histograms.counting import LIMIT
from mlclf.decisions.objectives.constraints import Constraint, FalsePositiveRate, Precision, Recall
from mlclf.decisions.objectives.f_measures import F1
from mlclf.errors import ConfigError, DataError

PRECISION, RECALL, FPR = Precision(0.7), Recall(0.6), FalsePositiveRate(0.2)
OBJECTIVES = pytest.mark.parametrize("objective", [PRECISION, RECALL, FPR], ids=str)
CLUSTERED = pytest.mark.parametrize("clustered", [False, True], ids=["rows", "clusters"])
NUM_CUTS = 64
LEVEL = 0.05


def drawn(seed: int, rows: int, labels: int = 2, per_cluster: int = 3) -> Cells:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 6, (rows, labels))
    truth = rng.random((rows, labels)) < 1 / (1 + np.exp(-logits))
    return Cells(
        logits=torch.tensor(logits, dtype=torch.float32),
        labels=torch.tensor(truth).byte(),
        identities=row_identities(torch.tensor(rng.integers(0, max(1, rows // per_cluster), rows))),
        mask=torch.tensor(rng.random((rows, labels)) < 0.9),
        weights=torch.tensor(rng.integers(0, 5, rows) / 4),
    )


def constraints_of(objective: Constraint, cells: Cells, clustered: bool, **more: Any) -> BettingConstraints:
    chosen = {"num_cuts": NUM_CUTS, **more}
    found = BettingConstraints(objective, cells.logits.shape[1], clustered=clustered, **chosen)
    found.update(cells)
    return found


def gains(bet: Constraint, weights: np.ndarray, truth: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    """X of every cell, by the definition."""
    if bet.name == "precision":
        return weights * (truth - bet.share) * flagged
    if bet.name == "recall":
        return weights * truth * (flagged - bet.share)
    return weights * (1 - truth) * (bet.share - flagged)


def slow_wealth(bet: Constraint, cells: Cells, label: int, clustered: bool) -> list[tuple[float, float, float]]:
    """Log of the wealth, flagged observations and greatest weight at each cut, from the strictest on."""
    assert cells.weights is not None
    assert cells.mask is not None
    weights = (cells.weights * cells.mask[:, label]).numpy()
    truth = cells.labels[:, label].numpy().astype(float)
    bins = ((cells.logits[:, label] + LIMIT) * (NUM_CUTS / (2 * LIMIT))).clamp(0, NUM_CUTS - 1).long().numpy()
    groups = cells.identities.numpy() if clustered else np.arange(len(cells))
    counts = {"precision": weights, "recall": weights * truth, "fpr": weights * (1 - truth)}[bet.name]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.array([values[groups == group].sum() for group in np.unique(groups[counts > 0])])

    rows, least = [], math.inf
    for cut in reversed(range(NUM_CUTS)):
        flagged = (bins >= cut).astype(float)
        observed = sums(counts * flagged) > 0
        heaviest = 1.0
        if clustered:
            heaviest = sums(counts * flagged if bet.name == "precision" else counts).max(initial=0.0)
            least = min(least, heaviest if heaviest else math.inf)
        rows.append((sums(gains(bet, weights, truth, flagged)), float(observed.sum()), heaviest))
    found = []
    for added, observed, heaviest in rows:
        number = observed if bet.name == "precision" else rows[-1][1]
        skipped = max(0, math.ceil(math.log2(heaviest / least) - 1e-9)) if clustered and heaviest else 0
        largest = LARGEST_STAKE / (greatest_loss(bet) * (least if clustered and math.isfinite(least) else 1.0))
        total = 0.0
        for halvings in range(NUM_STAKES):
            share = float(log_mixture(bet, torch.tensor(number, dtype=torch.float64), halvings, LEVEL).exp())
            total += share * np.prod(1 + largest * 0.5 ** (halvings + skipped) * added)
        found.append((math.log(total), observed, heaviest))
    return found


@pytest.mark.slow
@OBJECTIVES
@CLUSTERED
@pytest.mark.parametrize("seed", [0, 1])
def test_wealth_is_that_of_a_slow_product(objective: Constraint, clustered: bool, seed: int) -> None:
    cells = drawn(seed, 150)
    found = constraints_of(objective, cells, clustered).observations.wealth(slice(0, 2), LEVEL)
    for label in range(2):
        expected = slow_wealth(objective, cells, label, clustered)
        assert found.log_wealth[label].tolist() == pytest.approx([row[0] for row in expected], abs=1e-9)
        assert found.flagged[label].tolist() == [row[1] for row in expected]
        assert found.heaviest[label].tolist() == [row[2] for row in expected]


@OBJECTIVES
def test_mean_wealth_at_the_boundary_is_one(objective: Constraint) -> None:
    """All outcomes of four rows, with their chances where the constraint just fails to be broken."""
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=4):
        # Precision: the outcome is the label of a flagged row; else whether the row is flagged.
        chance = math.prod(objective.share if hit else 1 - objective.share for hit in outcome)
        hits = torch.tensor(outcome)[:, None]
        labels = hits if objective.name == "precision" else torch.full_like(hits, objective.name == "recall")
        logits = torch.full((4, 1), 5.0) if objective.name == "precision" else hits * 10.0 - 5.0
        cells = Cells(logits, labels.byte(), row_identities(torch.arange(4)))
        for weights in (None, torch.tensor([1.0, 0.5, 0.1, 1.0], dtype=torch.float64)):
            cells.weights = weights
            wealth = constraints_of(objective, cells, False).observations.wealth(slice(0, 1), LEVEL)
            total += chance * float(wealth.log_wealth[0, NUM_CUTS // 2].exp()) / 2
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_mixture_sums_to_one(share: float) -> None:
    counts = torch.tensor([0.0, 1.0, 100.0, 1e9], dtype=torch.float64)
    total = sum(log_mixture(Precision(share), counts, halvings, 0.05).exp() for halvings in range(NUM_STAKES))
    assert isinstance(total, Tensor)
    assert total.tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("objective", [PRECISION, RECALL, FPR, FalsePositiveRate(1.0), Recall(1.0)])
def test_the_largest_stake_cannot_go_broke(objective: Constraint) -> None:
    one, none = torch.ones(1), torch.zeros(1)
    worst = min(
        float(gain(*pair))
        for gain in (objective.added_by_flagged, objective.added_by_unflagged)
        for pair in ((one, none), (none, one))
    )
    assert 1 + LARGEST_STAKE / greatest_loss(objective) * worst >= 0.1 - 1e-6


@pytest.mark.slow
@OBJECTIVES
@CLUSTERED
@given(cuts=st.lists(st.integers(0, 120), max_size=3).map(sorted))
@settings(max_examples=15, deadline=None)
def test_any_split_into_parts_and_batches_gives_the_same(
    objective: Constraint, clustered: bool, cuts: list[int]
) -> None:
    cells = drawn(3, 120)
    whole = constraints_of(objective, cells, clustered)
    parts = []
    row = torch.arange(120)
    for first, last in itertools.pairwise([0, *cuts, 120]):
        parts.append(constraints_of(objective, cells.where((row >= first) & (row < last)), clustered))
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    batches = BettingConstraints(objective, 2, clustered=clustered, num_cuts=NUM_CUTS)
    for first, last in itertools.pairwise([0, *cuts, 120]):
        batches.update(cells.where((row >= first) & (row < last)))
    expected = whole.certified(0.9)
    for found in (merged, batches):
        assert_same(found.observations.wealth(slice(0, 2), LEVEL), whole.observations.wealth(slice(0, 2), LEVEL))
        assert found.certified(0.9).thresholds.status == expected.thresholds.status
        assert torch.equal(
            found.certified(0.9).thresholds.thresholds.nan_to_num(-1),
            expected.thresholds.thresholds.nan_to_num(-1),
        )


def assert_same(found: Wealth, expected: Wealth) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_clusters_of_one_row_are_rows() -> None:
    cells = drawn(4, 200)
    cells.identities, cells.weights = row_identities(torch.arange(200)), None
    rows, clusters = (constraints_of(PRECISION, cells, clustered) for clustered in (False, True))
    labels = slice(0, 2)
    found, expected = clusters.observations.wealth(labels, LEVEL), rows.observations.wealth(labels, LEVEL)
    some = found.heaviest > 0
    torch.testing.assert_close(found.log_wealth[some], expected.log_wealth[some], rtol=0, atol=1e-9)
    assert torch.equal(found.flagged, expected.flagged)


def test_a_row_repeated_is_no_more_evidence() -> None:
    logits, labels = torch.full((20, 1), 3.0), torch.ones(20, 1, dtype=torch.uint8)
    identities = row_identities(torch.arange(20))
    once = constraints_of(Precision(0.9), Cells(logits, labels, identities), True)
    many = constraints_of(
        Precision(0.9),
        Cells(logits.repeat(50, 1), labels.repeat(50, 1), identities.repeat(50)),
        True,
    )
    assert_same(
        many.observations.wealth(slice(0, 1), LEVEL)._replace(heaviest=torch.zeros(1)),
        once.observations.wealth(slice(0, 1), LEVEL)._replace(heaviest=torch.zeros(1)),
    )
    assert many.certified(0.95).thresholds.status == ["unattainable"]
    rows = constraints_of(
        Precision(0.9), Cells(logits.repeat(50, 1), labels.repeat(50, 1), identities.repeat(50)), False
    )
    assert rows.certified(0.95).thresholds.status == ["tuned"]


@pytest.mark.slow
@OBJECTIVES
@CLUSTERED
def test_certified_cuts_hold_on_their_rows_and_say_so(objective: Constraint, clustered: bool) -> None:
    cells = drawn(5, 4_000, labels=3)
    found = constraints_of(objective, cells, clustered, num_cuts=1024).certified(0.95)
    assert found.thresholds.status == ["tuned"] * 3
    assert found.thresholds.method == "betting"
    assert found.thresholds.confidence == 0.95
    assert found.best == [None] * 3
    assert cells.weights is not None
    assert cells.mask is not None
    for label in range(3):
        weights = cells.weights * cells.mask[:, label]
        truth = cells.labels[:, label].double()
        flagged = (scores_of(cells.logits[:, label]) >= found.thresholds.thresholds[label]).double()
        precision = float((weights * truth * flagged).sum() / (weights * flagged).sum())
        recall = float((weights * truth * flagged).sum() / (weights * truth).sum())
        rate = float((weights * (1 - truth) * flagged).sum() / (weights * (1 - truth)).sum())
        assert float(found.thresholds.precision[label]) == pytest.approx(precision)
        assert float(found.thresholds.recall[label]) == pytest.approx(recall)
        reached = {"precision": precision, "recall": recall, "fpr": -rate}[objective.name]
        wanted = objective.share * (-1 if objective.name == "fpr" else 1)
        assert wanted < reached < wanted + 0.1


@OBJECTIVES
def test_a_claim_says_the_heaviest_cluster_that_its_test_saw(objective: Constraint) -> None:
    cells = drawn(6, 4_000, labels=3)
    found = constraints_of(objective, cells, True, num_cuts=1024).certified(0.95)
    assert cells.weights is not None
    assert cells.mask is not None
    assert found.heaviest is not None
    for label, threshold in enumerate(found.thresholds.thresholds):
        counts = (cells.weights * cells.mask[:, label]).numpy()
        truth = cells.labels[:, label].numpy() != 0
        flagged = (scores_of(cells.logits[:, label]) >= threshold).numpy()
        counts = counts * {"precision": flagged, "recall": truth, "fpr": ~truth}[objective.name]
        clusters = np.unique(cells.identities.numpy(), return_inverse=True)[1]
        assert float(found.heaviest[label]) == pytest.approx(np.bincount(clusters, counts).max())


def test_a_claim_says_the_greatest_weight_that_bets_were_made_for() -> None:
    found = constraints_of(PRECISION, drawn(6, 1_000), False, greatest_weight=7.0).certified(0.95)
    assert found.heaviest is not None
    assert found.heaviest.tolist() == [7.0] * 2


@CLUSTERED
def test_labels_that_cannot(clustered: bool) -> None:
    cells = drawn(6, 60)
    precision = constraints_of(Precision(0.99), cells, clustered).certified(0.95)
    assert precision.thresholds.status == ["unattainable"] * 2
    assert precision.thresholds.thresholds.isnan().all()
    assert all(best is not None and (best["precision"] or 0) < 0.99 for best in precision.best)
    recall = constraints_of(Recall(1.0), cells, clustered).certified(0.95)
    assert recall.thresholds.status == ["unattainable"] * 2
    assert recall.thresholds.thresholds.tolist() == [0.0, 0.0]
    assert recall.best == [{"recall": None, "threshold": None, "flagged": 0.0}] * 2
    fpr = constraints_of(FalsePositiveRate(0.001), cells, clustered).certified(0.95)
    assert fpr.thresholds.status == ["unattainable"] * 2
    assert fpr.thresholds.thresholds.isnan().all()


def test_best_precision_is_hoeffdings_bound() -> None:
    logits = torch.full((50, 1), 2.0)
    cells = Cells(logits, torch.ones(50, 1, dtype=torch.uint8), row_identities(torch.arange(50)))
    found = constraints_of(Precision(0.99), cells, False).certified(0.95)
    (best,) = found.best
    assert best is not None
    # Fifty rows are too few for 0.99, so the starts are at 12, 25 and 50 rows; all flag the tied 50.
    assert best["precision"] == pytest.approx(1 - math.sqrt(math.log(3 / 0.05) / 100))
    assert best["flagged"] == 50


@OBJECTIVES
@CLUSTERED
def test_no_rows_one_row_and_weightless_rows(objective: Constraint, clustered: bool) -> None:
    empty = BettingConstraints(objective, 1, clustered=clustered, num_cuts=NUM_CUTS)
    assert empty.certified(0.95).thresholds.status == ["fallback"]
    assert empty.certified(0.95, "fdr").thresholds.status == ["fallback"]
    padding = Cells(torch.full((3, 1), torch.nan), torch.ones(3, 1), torch.zeros(3).long(), weights=torch.zeros(3))
    empty.update(padding)
    assert empty.certified(0.95).thresholds.status == ["fallback"]
    empty.update(Cells(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1).long()))
    status = "fallback" if objective.name == "fpr" else "unattainable"
    assert empty.certified(0.95).thresholds.status == [status]


@pytest.mark.slow
@OBJECTIVES
@CLUSTERED
def test_false_discovery_rate_is_stricter_than_each_label_alone(objective: Constraint, clustered: bool) -> None:
    found = constraints_of(objective, drawn(7, 150, labels=40), clustered)
    alone = found.certified(0.95).thresholds.status.count("tuned")
    fdr = found.certified(0.95, "fdr").thresholds.status.count("tuned")
    all_ = found.certified(1 - 0.05 / 40).thresholds.status.count("tuned")
    assert alone >= fdr >= all_
    assert alone > 0


def test_clusters_that_outgrow_the_memory_are_put_together() -> None:
    cells = drawn(8, 20_000, labels=1)
    small = constraints_of(PRECISION, cells, True, memory_bytes=3 << 19)
    wealth = small.observations
    assert isinstance(wealth, ClusterWealth)
    found = small.certified(0.95)
    assert wealth.block_bits < 34
    assert len(wealth.keys) * 96 <= 3 << 19
    assert found.thresholds.status == ["tuned"]
    large = constraints_of(PRECISION, cells, True).certified(0.95)
    assert float(found.thresholds.recall[0]) <= float(large.thresholds.recall[0])
    assert float(found.thresholds.recall[0]) > 0.5


def test_too_many_clusters_are_refused() -> None:
    message = (
        "clusters must be few enough for 1 MiB, got 1.* sums over 1 labels and 2\\*\\*10 blocks of clusters; "
        "certify fewer labels at a time, or raise memory_bytes"
    )
    with pytest.raises(DataError, match=f"^{message}$"):
        constraints_of(PRECISION, drawn(9, 20_000, labels=1), True, memory_bytes=1 << 20).certified(0.95)


def test_weights_above_the_greatest_are_refused() -> None:
    cells = Cells(torch.zeros(2, 1), torch.ones(2, 1), torch.arange(2), weights=torch.tensor([1.0, 2.5]))
    message = "weights must be at most greatest_weight = 2.0, got 2.5; give the greatest weight that any row can have"
    constraints = BettingConstraints(PRECISION, 1, greatest_weight=2.0)
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        constraints.update(cells)
    assert int(constraints.histogram.rows.sum()) == 0


def test_a_scale_of_weights_changes_nothing() -> None:
    cells = drawn(10, 2_000)
    assert cells.weights is not None
    scaled = Cells(cells.logits, cells.labels, cells.identities, cells.mask, cells.weights * 8)
    for clustered in (False, True):
        expected = constraints_of(PRECISION, cells, clustered).certified(0.95).thresholds
        more = {} if clustered else {"greatest_weight": 8.0}
        found = constraints_of(PRECISION, scaled, clustered, **more).certified(0.95).thresholds
        assert torch.equal(found.thresholds, expected.thresholds)


@CLUSTERED
def test_label_weights_multiply_row_weights(clustered: bool) -> None:
    cells = drawn(12, 1_000)
    assert cells.weights is not None
    by_label = torch.tensor([0.5, 1.0], dtype=torch.float64).expand(1_000, 2)
    both = Cells(cells.logits, cells.labels, cells.identities, cells.mask, cells.weights, by_label)
    expected = constraints_of(PRECISION, cells, clustered).observations.wealth(slice(1, 2), LEVEL)
    found = constraints_of(PRECISION, both, clustered).observations.wealth(slice(1, 2), LEVEL)
    assert_same(found, expected)
    cells.weights = cells.weights / 2
    halved = constraints_of(PRECISION, cells, clustered).observations.wealth(slice(0, 1), LEVEL)
    assert_same(constraints_of(PRECISION, both, clustered).observations.wealth(slice(0, 1), LEVEL), halved)


def test_different_settings_are_not_merged() -> None:
    with pytest.raises(ValueError, match=r"^constraints must have the same settings to be merged, got .* and .*$"):
        BettingConstraints(PRECISION, 1).merge(BettingConstraints(RECALL, 1))


def test_only_constraints_are_taken() -> None:
    message = "the objective must be one of precision, recall, fpr to hold with confidence, got 'f1'"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        BettingConstraints(F1(), 1)


@pytest.mark.parametrize(("num_labels", "expected"), [(1, 4096), (100, 4096), (1_000, 256), (50_000, 64)])
def test_cuts_fit_the_budget(num_labels: int, expected: int) -> None:
    assert cuts_for(num_labels) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "noisy", "weighted", "clustered"])
@pytest.mark.parametrize("precision", [0.89, 0.95])
def test_simulated_thresholds_hold(kind: str, precision: float) -> None:
    generator = torch.Generator().manual_seed(0)
    found = simulation.outcome_of(kind, 2_000, precision, 100, generator)
    assert found.violated <= 0.05
    if precision == 0.95 and kind != "noisy":
        assert found.attained >= 0.8


@pytest.mark.parametrize("kind", ["plain", "noisy"])
def test_true_precision_is_the_mean_of_the_rows_above(kind: str) -> None:
    from_top = torch.linspace(0, 1, 1_000_001, dtype=torch.float64)[1:]
    rows = simulation.row_precision(from_top, kind, 0.95)
    expected = rows.cumsum(0) / torch.arange(1, len(rows) + 1)
    found = simulation.true_precision(from_top, kind, 0.95)
    assert float((found - expected)[1_000:].abs().max()) < 1e-3


@pytest.mark.gpu
@CLUSTERED
def test_on_a_gpu(clustered: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cells = drawn(11, 2_000)
    expected = constraints_of(PRECISION, cells, clustered).certified(0.95).thresholds
    there = Cells(*(None if part is None else part.cuda() for part in vars(cells).values()))  # type: ignore[arg-type]
    found = constraints_of(PRECISION, there, clustered, device="cuda").certified(0.95).thresholds
    assert torch.equal(found.thresholds, expected.thresholds)
