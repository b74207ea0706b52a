"""Thresholds are the best of all distinct cut-offs, say truly how they did, and generalise."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlclf.decisions.histograms import label_histogram as histograms
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.thresholds.thresholds import fallback_thresholds
from mlclf.decisions.tuning import best_cut as tuning
from mlclf.decisions.tuning.best_cut import best_thresholds
from mlclf.errors import ConfigError

ROUNDING = 1e-12
OBJECTIVES = [
    *("f1", "fbeta:2", "fbeta:0.5", "precision:0.6", "precision:1", "recall:0.7", "recall:1"),
    *("cost:1,3", "cost:1,0.2", "cost:0,1", "cost:1,0", "macro_f1", "mcc", "balanced_accuracy", "youden"),
    *("fpr:0.1", "fpr:1", "prevalence", "per_million:150000", "per_million:1000000"),
]


def scores_of(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double()).float()


def draw(seed: int, rows: int, labels: int, decimals: int = 1, centre: float = -1.0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, labels)) < 0.3
    logits = (rng.normal(centre, 2, (rows, labels)) + truth * 1.5).round(decimals)
    return {
        "logits": torch.tensor(logits, dtype=torch.float32),
        "labels": torch.tensor(truth),
        "mask": torch.tensor(rng.random((rows, labels)) < 0.9),
        "weights": torch.tensor(rng.integers(0, 4, rows) / 4),
    }


def counted(data: dict[str, Tensor], num_bins: int = 4096) -> LabelHistogram:
    histogram = LabelHistogram(data["logits"].shape[1], num_bins)
    histogram.update(**data)
    return histogram


def observed(data: dict[str, Tensor], label: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores, labels and weights of the rows in which a label counts."""
    weights = data.get("weights", torch.ones(len(data["logits"]), dtype=torch.float64))
    seen = data.get("mask", torch.ones_like(data["labels"]))[:, label] & (weights > 0)
    return scores_of(data["logits"][seen, label]), data["labels"][seen, label], weights[seen]


def slow_best_cut(objective: str, scores: Tensor, labels: Tensor, weights: Tensor, prior: float = 0.0) -> float:
    """Try every distinct score from the highest down, and keep the first of the best; NaN = never positive."""
    name, _, rest = objective.partition(":")
    numbers = [float(number) for number in rest.split(",")] if rest else [1.0]
    mass = weights[labels != 0].double()
    positives = float(mass.sum() ** 2 / mass.square().sum()) if len(mass) else 0.0
    trust = positives / (positives + prior) if prior else 1.0
    shrunk = trust * labels.double() + (1 - trust) * scores.double()
    truth = shrunk if name in ("f1", "fbeta", "macro_f1") else labels.double()
    total, rows = float(weights @ truth), float(weights.sum())
    best, best_value = math.nan, -math.inf
    if name == "cost":
        best_value = -numbers[1] * total
    for cut in sorted(set(scores.tolist()), reverse=True):
        flagged = scores >= cut
        true, all_flagged = float(weights[flagged] @ truth[flagged]), float(weights[flagged].sum())
        if name == "precision":
            value = true if true / all_flagged >= numbers[0] else -math.inf
        elif name == "recall":
            value = 1.0 if true / total >= numbers[0] else -math.inf
        elif name == "cost":
            value = -numbers[0] * (all_flagged - true) - numbers[1] * (total - true)
        elif name == "mcc":
            spread = math.sqrt(all_flagged * (rows - all_flagged) * total * (rows - total))
            value = (true * rows - total * all_flagged) / spread if spread else 0.0
        elif name in ("balanced_accuracy", "youden"):
            value = true / total - (all_flagged - true) / (rows - total)
        elif name == "fpr":
            value = all_flagged if all_flagged - true <= numbers[0] * (rows - total) else -math.inf
        elif name == "per_million":
            value = all_flagged if all_flagged * 1e6 <= numbers[0] * rows else -math.inf
        elif name == "prevalence":
            value = -abs(all_flagged - total)
        else:
            beta = numbers[0] ** 2
            value = (1 + beta) * true / (beta * total + all_flagged)
        if value > best_value:
            best, best_value = cut, value
    return best


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune labels whose scores say nothing, too."""
    monkeypatch.setattr(tuning, "INFORMATIVE_DEVIATIONS", -math.inf)


@pytest.mark.slow
@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rows", [12, 150])
def test_the_best_of_all_distinct_cut_offs_is_chosen(objective: str, rows: int) -> None:
    data = draw(rows, rows, 40)  # quarters as weights: sums are exact, so ties are ties
    tuned = best_thresholds(counted(data), parse_objective(objective), prior_positives=0)
    checked = 0
    for k in range(40):
        scores, labels, weights = observed(data, k)
        if labels.all() or not labels.any():
            assert tuned.status[k] == "fallback"
            continue
        checked += 1
        want = slow_best_cut(objective, scores, labels, weights)
        assert float(tuned.thresholds[k]) == want or (math.isnan(want) and tuned.thresholds[k].isnan())
        cannot = objective.startswith(("precision", "fpr", "per_million")) and math.isnan(want)
        assert tuned.status[k] == ("unattainable" if cannot else "tuned")
    assert checked > 35
    assert tuned.objective == objective
    assert (tuned.method, tuned.confidence) == ("empirical", None)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("objective", ["f1", "fbeta:2"])
def test_shrinkage_adds_the_promise_of_the_scores(objective: str) -> None:
    data = draw(7, 60, 40)
    histogram = counted(data)
    plain = best_thresholds(histogram, parse_objective(objective), prior_positives=0)
    shrunk = best_thresholds(histogram, parse_objective(objective), prior_positives=10)
    for k in range(40):
        scores, labels, weights = observed(data, k)
        best = slow_best_cut(objective, scores, labels, weights, prior=10)
        assert ((scores >= shrunk.thresholds[k]) == (scores >= best)).all()
        changed = bool(((scores >= shrunk.thresholds[k]) != (scores >= plain.thresholds[k])).any())
        assert shrunk.status[k] == ("shrunk" if changed else "tuned")
    assert {*shrunk.status} == {"shrunk", "tuned"}
    assert shrunk.method == "shrinkage"


@pytest.mark.parametrize("objective", ["f1", "micro_f1", "micro_macro_f1"])
def test_several_prior_positives_give_the_weighted_mean_of_their_thresholds(objective: str) -> None:
    histogram = counted(draw(7, 300, 30, decimals=6), 65_536)
    parsed, weights = parse_objective(objective), {10.0: 1.0, 0.0: 0.5, 300.0: 0.25}
    # 0 among others is placed inside its gap, as what is hardly more than 0
    each = {prior: best_thresholds(histogram, parsed, max(prior, 1e-9)) for prior in weights}
    mixed = best_thresholds(histogram, parsed, weights)
    moved = 0
    for k in range(30):
        counting = {p: one for p, one in each.items() if one.status[k] != "fallback" and not one.thresholds[k].isnan()}
        if 10.0 not in counting:
            assert float(mixed.thresholds[k]) == pytest.approx(float(each[10.0].thresholds[k]), nan_ok=True)
            continue
        logits = {prior: math.log((t := float(one.thresholds[k])) / (1 - t)) for prior, one in counting.items()}
        mean = sum(weights[p] * logit for p, logit in logits.items()) / sum(weights[p] for p in logits)
        assert float(mixed.thresholds[k].logit()) == pytest.approx(mean, abs=2e-3)  # a bin is 9e-4 wide
        moved += float(mixed.thresholds[k]) != float(each[10.0].thresholds[k])
    assert moved > 5
    alone = best_thresholds(histogram, parsed, {10.0: 3.0})
    assert json.dumps(alone.to_json([str(k) for k in range(30)])) == json.dumps(
        each[10.0].to_json([str(k) for k in range(30)])
    )


def test_the_mean_of_thresholds_lies_between_them_wherever_the_scores_are() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(4000, 1, generator=generator) < 0.05
    for centre in (-29.5, -20.0, 0.0):
        logits = (torch.randn(4000, 1, generator=generator) * 0.1 + centre + 0.3 * labels).clamp(-29.99, 29.99)
        histogram = counted({"logits": logits, "labels": labels}, 65_536)
        found = best_thresholds(histogram, parse_objective("f1"), {10.0: 1.0, 0.0: 1.0, 100.0: 1.0})
        assert float(found.f1[0]) > 0.9 * float(best_thresholds(histogram, parse_objective("f1"), 0).f1[0])


@pytest.mark.parametrize("objective", ["micro_f1", "micro_macro_f1"])
def test_a_label_without_positives_shares_the_cut_whichever_weight_is_largest(objective: str) -> None:
    data = draw(3, 200, 4)
    data["labels"][:, 1] = 0
    for weights in ({0.0: 1.0, 30.0: 0.5}, {30.0: 1.0, 0.0: 0.5}):
        tuned = best_thresholds(counted(data), parse_objective(objective), weights)
        assert not tuned.thresholds.isnan().any()


@pytest.mark.parametrize("weights", [{}, {10.0: 0.0}, {10.0: 1.0, 0.0: -1.0}, {10.0: math.nan}, {10.0: math.inf}])
def test_weights_that_are_none_are_refused(weights: dict[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"^(weights of )?prior_positives must be"):
        best_thresholds(LabelHistogram(1, 256), parse_objective("f1"), weights)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    objective=st.sampled_from(OBJECTIVES),
    priors=st.sampled_from([10.0, {30.0: 1.0, 0.0: 0.7, math.inf: 0.2}]),
    num_bins=st.sampled_from([8, 64, 4096]),
    centre=st.sampled_from([-90.0, -20.0, -8.0, 0.0, 8.0, 17.0, 1000.0]),
)
def test_decisions_row_by_row_are_those_that_are_reported(
    seed: int, objective: str, priors: float | dict[float, float], num_bins: int, centre: float
) -> None:
    """Where float32 scores saturate and where bins are coarse too; and all through the interval."""
    data = draw(seed, 80, 3, decimals=6, centre=centre)
    tuned = best_thresholds(counted(data, num_bins), parse_objective(objective), priors)
    for k in range(3):
        scores, labels, weights = observed(data, k)
        threshold, (low, high) = tuned.thresholds[k], tuned.intervals[k]
        assert int(tuned.support[k]) == int(labels.sum())
        if tuned.status[k] == "fallback":
            assert float(threshold) == 0.5
            assert torch.stack([tuned.precision[k], tuned.recall[k], tuned.f1[k], low, high]).isnan().all()
            continue
        flagged = scores >= threshold
        true, all_flagged = float(weights[flagged & labels].sum()), float(weights[flagged].sum())
        total = float(weights[labels].sum())
        assert float(tuned.recall[k]) == pytest.approx(true / total, abs=ROUNDING)
        assert float(tuned.f1[k]) == pytest.approx(2 * true / (total + all_flagged), abs=ROUNDING)
        if threshold.isnan():
            assert tuned.precision[k].isnan()
            assert high.isnan()
            assert low == scores.max()
        else:
            assert float(tuned.precision[k]) == pytest.approx(true / all_flagged, abs=ROUNDING)
            assert low < threshold <= high
            assert ((scores > low) == flagged).all()


def test_cut_offs_that_scores_cannot_tell_apart_are_one() -> None:
    logits = torch.tensor([[25.0], [22.0], [20.0], [-1.0]])
    assert scores_of(logits)[:3].eq(1).all()
    histogram = counted({"logits": logits, "labels": torch.tensor([[1], [0], [0], [0]])})
    tuned = best_thresholds(histogram, parse_objective("precision:0.3"))
    assert (float(tuned.thresholds[0]), float(tuned.precision[0])) == (1.0, 1 / 3)
    assert best_thresholds(histogram, parse_objective("precision:0.9")).status == ["unattainable"]


def test_all_mass_below_a_thousandth_is_tuned_there() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(5000, 1, generator=generator) < 0.01
    logits = torch.randn(5000, 1, generator=generator) - 14 + 3 * labels
    data = {"logits": logits, "labels": labels}
    tuned = best_thresholds(counted(data, 65_536), parse_objective("f1"), prior_positives=0)
    assert scores_of(logits).max() < 0.001
    cut = slow_best_cut("f1", *observed(data, 0))
    # bins of 0.0009 cannot cut inside: as good as the best to that
    assert float(tuned.thresholds[0]) == pytest.approx(cut, rel=2e-3)
    assert float(tuned.f1[0]) > 0.4


def test_one_class_falls_back() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[1, 0, 1, 0], [1, 0, 1, 0]])
    mask = torch.tensor([True, True, True, False]).expand(2, 4)
    histogram = counted({"logits": logits, "labels": labels, "mask": mask})
    for objective in OBJECTIVES:
        tuned = best_thresholds(histogram, parse_objective(objective))
        want = fallback_thresholds(4, torch.tensor([2, 0, 2, 0]))
        assert tuned.status == want.status == ["fallback"] * 4
        torch.testing.assert_close(tuned.thresholds, torch.full((4,), 0.5))
        for name in ("thresholds", "support", "precision", "recall", "f1", "intervals"):
            torch.testing.assert_close(getattr(tuned, name), getattr(want, name), equal_nan=True)


def test_never_and_always_are_choices_of_cost() -> None:
    data = {"logits": torch.tensor([[2.0], [1.0], [0.0]]), "labels": torch.tensor([[0], [1], [0]])}
    never = best_thresholds(counted(data), parse_objective("cost:10,1"))
    assert never.thresholds.isnan().all()
    assert (float(never.recall[0]), float(never.f1[0]), never.status) == (0, 0, ["tuned"])
    data["labels"] = torch.tensor([[1], [0], [1]])
    always = best_thresholds(counted(data), parse_objective("cost:1,10"))
    assert float(always.thresholds[0]) == 0.5
    assert (float(always.recall[0]), always.intervals[0].tolist()) == (1, [0, 0.5])


def test_scores_without_meaning_do_not_flag_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 200, generator=generator) * 0.1 - 4
    labels = torch.rand(2000, 200, generator=generator) < 0.02
    tuned = best_thresholds(counted({"logits": logits, "labels": labels}), parse_objective("f1"), 300)
    assert tuned.status.count("fallback") >= 150
    flagged = (scores_of(logits) >= tuned.thresholds).double().mean(0)
    assert flagged.mean() < 0.05
    assert flagged.max() < 0.6
    informed = counted({"logits": logits + 0.1 * labels, "labels": labels})
    assert best_thresholds(informed, parse_objective("f1")).status.count("fallback") < 10


def test_shrinkage_generalises_better_on_rare_labels() -> None:
    generator = torch.Generator().manual_seed(0)

    def rows(count: int) -> tuple[Tensor, Tensor]:
        logits = torch.randn(count, 200, generator=generator) * 2 - 8
        return logits, torch.rand(count, 200, generator=generator) < scores_of(logits)

    logits, labels = rows(3000)  # about 7 positive rows a label
    histogram = counted({"logits": logits, "labels": labels})
    logits, labels = rows(20_000)

    def fresh_f1(prior_positives: float) -> float:
        tuned = best_thresholds(histogram, parse_objective("f1"), prior_positives)
        decisions = scores_of(logits) >= tuned.thresholds
        return float((2 * (decisions & labels).sum(0) / (decisions.sum(0) + labels.sum(0))).mean())

    assert fresh_f1(10) > fresh_f1(0) + 0.01


def test_slices_of_labels_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = counted(draw(3, 100, 5))
    whole = best_thresholds(histogram, parse_objective("f1"))
    monkeypatch.setattr(histograms, "SLICE_BYTES", 4096 * 200 * 2)
    sliced = best_thresholds(histogram, parse_objective("f1"))
    assert json.dumps(sliced.to_json(list("abcde"))) == json.dumps(whole.to_json(list("abcde")))


@pytest.mark.parametrize("prior", [-1.0, math.nan])
def test_a_bad_prior_is_refused(prior: float) -> None:
    message = f"prior_positives must be at least 0, got {prior!r}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        best_thresholds(LabelHistogram(1, 256), parse_objective("f1"), prior)
