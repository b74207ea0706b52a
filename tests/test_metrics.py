"""Losses, decisions, precision at k and calibration error agree with loops, scikit-learn and torchmetrics."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, precision_recall_fscore_support
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multilabel_exact_match,
    multilabel_f1_score,
    multilabel_hamming_distance,
)
from torchmetrics.functional.retrieval import retrieval_precision

from mlclf.decisions import histograms, metrics
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.metrics import DecisionCounts, LossSums, PrecisionAtTop, calibration_error
from mlclf.errors import DataError

ROUNDING = 1e-12


def scores_of(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double()).float()


def batch(seed: int, rows: int = 60, labels: int = 4) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(-1, 2, (rows, labels)).round(1), dtype=torch.float32)
    return {
        "logits": logits,
        "scores": scores_of(logits),
        "labels": torch.tensor(rng.random((rows, labels)) < 0.4),
        "mask": torch.tensor(rng.random((rows, labels)) < 0.7),
        "weights": torch.tensor(rng.integers(0, 4, rows) / 4),
    }


def part(data: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: data[name] for name in names}


def fed(metric: Metric, data: dict[str, Tensor]) -> Metric:
    """Update a metric with what it takes of a batch."""
    takes_logits = isinstance(metric, LossSums)
    metric.update(**{name: value for name, value in data.items() if takes_logits or name != "logits"})
    return metric


METRICS: list[Callable[[], Metric]] = [
    lambda: LossSums(4),
    lambda: DecisionCounts(torch.tensor([0.2, 0.5, torch.nan, 0.9])),
    PrecisionAtTop,
]


def assert_same_states(got: Metric, want: Metric) -> None:
    for name in want.metric_state:
        torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=ROUNDING, msg=name)


@pytest.mark.parametrize("make", METRICS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(0, 60), cells=st.integers(1, 300))
def test_parts_merge_to_the_whole(make: Callable[[], Metric], seed: int, cut: int, cells: int) -> None:
    data = batch(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "SLICE_CELLS", cells)
        whole = fed(make(), data)
    head = fed(make(), {name: value[:cut] for name, value in data.items()})
    head.merge_state(fed(make(), {name: value[cut:] for name, value in data.items()}))
    assert_same_states(head, whole)


@pytest.mark.parametrize("make", METRICS)
def test_padding_and_hidden_cells_count_nowhere(make: Callable[[], Metric]) -> None:
    data = batch(0)
    data["weights"] = torch.ones(60)
    padded = {name: torch.cat([value, value[:7]]) for name, value in data.items()}
    padded["weights"][60:] = 0
    hidden = ~padded["mask"] | (padded["weights"] == 0)[:, None]
    for name in ("logits", "scores"):
        padded[name] = padded[name].masked_fill(hidden, torch.nan)
    assert_same_states(fed(make(), padded), fed(make(), data))


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (1.5, "1.5"), (-3.0, "-3.0")])
def test_scores_that_are_not_probabilities_are_refused(make: Callable[[], Metric], value: float, shown: str) -> None:
    data = part(batch(0), "logits", "scores", "labels")
    data["scores"][3, 2] = data["scores"][5, 1] = value
    message = (
        f"scores must be probabilities from 0 to 1, got {shown} for label 2 (2 such cells in a batch); "
        "logits are refused, not converted"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        fed(make(), data)


def test_float64_scores_are_refused() -> None:
    data = part(batch(0), "logits", "scores", "labels")
    with pytest.raises(TypeError, match=r"^scores must be float32, got torch.float64$"):
        fed(PrecisionAtTop(), data | {"scores": data["scores"].double()})


def test_losses_are_those_of_scikit_learn() -> None:
    data = batch(1, 500)
    sums = fed(LossSums(4), data)
    for k in range(4):
        seen = data["mask"][:, k] & (data["weights"] > 0)
        y, w = data["labels"][seen, k].long(), data["weights"][seen]
        scores = torch.sigmoid(data["logits"][seen, k].double())
        assert float(sums.log_loss()[k]) == pytest.approx(log_loss(y, scores, sample_weight=w), abs=ROUNDING)
        # float32 scores
        assert float(sums.brier()[k]) == pytest.approx(brier_score_loss(y, scores, sample_weight=w), abs=1e-7)
        assert float(sums.expected[k]) == pytest.approx(float(w @ scores), abs=1e-4)
        assert float(sums.positives[k]) == pytest.approx(float(w @ y.double()), abs=ROUNDING)
    assert sums.compute().keys() == {"log_loss", "brier"}


def test_log_loss_is_unclipped_and_finite() -> None:
    logits = torch.tensor([[1000.0], [-1000.0], [1000.0], [-40.0]])
    sums = LossSums(1)
    sums.update(logits, scores_of(logits), torch.tensor([[0], [1], [1], [0]]))
    assert float(sums.loss[0]) == pytest.approx(2000 + np.exp(-40), abs=1e-15, rel=0)


def test_constant_log_loss_is_that_of_scikit_learn() -> None:
    data = part(batch(2, 200, 2), "logits", "scores", "labels", "weights")
    constant = fed(LossSums(2), data).constant_log_loss(torch.tensor([0.3, 1.0], dtype=torch.float64))
    want = log_loss(data["labels"][:, 0].long(), np.full(200, 0.3), sample_weight=data["weights"])
    assert float(constant[0]) == pytest.approx(want, abs=ROUNDING)
    assert float(constant[1]) == torch.inf


def test_losses_without_rows_are_undefined() -> None:
    sums = LossSums(2)
    sums.update(
        torch.zeros(3, 2), torch.full((3, 2), 0.5), torch.ones(3, 2), torch.tensor([[True, False]]).expand(3, 2)
    )
    assert sums.log_loss().isnan().tolist() == sums.brier().isnan().tolist() == [False, True]


def test_decisions_are_those_of_scikit_learn() -> None:
    data = batch(3, 400)
    thresholds = torch.tensor([0.2, 0.5, 0.05, 0.9])
    counts = fed(DecisionCounts(thresholds), data).counts
    for cut, cuts in enumerate((thresholds, torch.full((4,), 0.5))):
        for k in range(4):
            seen = data["mask"][:, k] & (data["weights"] > 0)
            y, w = data["labels"][seen, k], data["weights"][seen]
            want = precision_recall_fscore_support(
                y, data["scores"][seen, k] >= cuts[k], sample_weight=w, average="binary", zero_division=np.nan
            )
            got = [float(function(counts[cut])[k]) for function in (metrics.precision, metrics.recall, metrics.f1)]
            np.testing.assert_allclose(got, want[:3], rtol=0, atol=ROUNDING)


def test_decisions_are_those_of_torchmetrics() -> None:
    data = part(batch(4, 300), "scores", "labels")
    counts = fed(DecisionCounts(torch.full((4,), 0.5)), data)
    y = data["labels"].long()
    # 0.5 itself is positive here and negative in torchmetrics: nudge it
    scores = data["scores"].where(data["scores"] != 0.5, 0.6)
    close = {"rel": 0, "abs": 1e-6}  # torchmetrics answers in float32
    got, both = metrics.f1(counts.counts[0]), multilabel_f1_score(scores, y, 4, average="none")
    torch.testing.assert_close(got, both.double(), rtol=0, atol=1e-6)
    assert float(counts.hamming_loss()) == pytest.approx(
        float(multilabel_hamming_distance(scores, y, 4, average="micro")), **close
    )
    assert float(counts.subset_accuracy()) == pytest.approx(float(multilabel_exact_match(scores, y, 4)), **close)
    assert counts.compute().keys() == {"subset_accuracy", "hamming_loss"}


def test_masked_subset_accuracy_and_hamming_loss_are_those_of_a_loop() -> None:
    data = batch(5, 200, 3)
    data["mask"][:40] = False
    counts = fed(DecisionCounts(torch.full((3,), 0.3)), data)
    right = rows = wrong = cells = 0.0
    for row in range(200):
        weight, seen = float(data["weights"][row]), data["mask"][row]
        mistakes = ((data["scores"][row] >= 0.3) != data["labels"][row])[seen].tolist()
        right += weight * (bool(mistakes) and not any(mistakes))
        rows += weight * bool(mistakes)
        wrong += weight * sum(mistakes)
        cells += weight * len(mistakes)
    assert float(counts.subset_accuracy()) == pytest.approx(right / rows, abs=ROUNDING)
    assert float(counts.hamming_loss()) == pytest.approx(wrong / cells, abs=ROUNDING)


def test_a_decision_is_at_least_the_threshold_and_nan_is_never_positive() -> None:
    counts = DecisionCounts(torch.tensor([0.1, torch.nan]))
    cut = torch.tensor(0.1)
    scores = torch.stack([cut, torch.nextafter(cut, torch.zeros(()))]).repeat(2, 1).t()
    counts.update(scores, torch.ones(2, 2, dtype=torch.uint8))
    assert counts.counts[0, 0].tolist() == [1, 0]
    assert counts.counts[0, 2].tolist() == [1, 2]


def test_what_is_undefined_is_nan() -> None:
    # columns: nothing at all; nothing flagged; no positives; flagged and no positives
    counts = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 3], [0, 2, 0, 0], [5, 5, 5, 5]])
    assert metrics.precision(counts).isnan().tolist() == [True, True, True, False]
    assert metrics.recall(counts).isnan().tolist() == [True, False, True, True]
    assert metrics.f1(counts).isnan().tolist() == [True, False, True, False]
    empty = DecisionCounts(torch.full((2,), 0.5))
    assert empty.subset_accuracy().isnan()
    assert empty.hamming_loss().isnan()
    assert PrecisionAtTop().precision().isnan().all()


def slow_precision_at(data: dict[str, Tensor], count: int) -> float:
    hits = rows = 0.0
    for row in range(len(data["labels"])):
        weight = float(data["weights"][row])
        seen = [k for k in range(data["labels"].shape[1]) if data["mask"][row, k]]
        top = sorted(seen, key=lambda k: (-float(data["scores"][row, k]), k))[:count]
        hits += weight * sum(bool(data["labels"][row, k]) for k in top) / count
        rows += weight * bool(seen)
    return hits / rows


@pytest.mark.parametrize("labels", [1, 4, 30])
def test_precision_at_top_is_that_of_a_loop_with_ties(labels: int) -> None:
    data = batch(6, 150, labels)
    data["scores"] = (data["scores"] * 5).round() / 5  # many ties, 0 and 1 too
    data["scores"][::2] *= torch.where(data["scores"][::2] == 0, -1, 1)  # -0.0 ties with 0.0
    data["mask"][:20] = False
    got = fed(PrecisionAtTop(), data).compute()
    want = [slow_precision_at(data, count) for count in (1, 3, 5)]
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)


def test_precision_at_top_is_that_of_torchmetrics_without_ties() -> None:
    scores, labels = torch.rand(50, 20), torch.rand(50, 20) < 0.3
    top = PrecisionAtTop()
    top.update(scores, labels)
    for index, count in enumerate((1, 3, 5)):
        rows = [retrieval_precision(s, y, top_k=count) for s, y in zip(scores, labels, strict=True)]
        assert float(top.compute()[index]) == pytest.approx(float(torch.stack(rows).mean()), abs=1e-6)


def slow_calibration_error(scores: Tensor, labels: Tensor, weights: Tensor, groups: int) -> float:
    """Sort, keep equal scores together, group by the middle of their mass."""
    below, total, surplus = 0.0, float(weights.sum()), [0.0] * groups
    for value in sorted(set(scores.tolist())):
        tied = scores == value
        mass = float(weights[tied].sum())
        group = min(int((below + mass / 2) / total * groups), groups - 1)
        surplus[group] += float(weights[tied] @ (labels[tied].double() - value))
        below += mass
    return sum(abs(part) for part in surplus) / total


def test_calibration_error_is_that_of_a_loop() -> None:
    data = part(batch(7, 300, 3), "logits", "labels", "weights")
    histogram = LabelHistogram(4, 4096)
    logits, labels = torch.cat([data["logits"]] * 2, 1)[:, :4], torch.cat([data["labels"]] * 2, 1)[:, :4]
    mask = torch.tensor([True, True, True, False]).expand(300, 4)
    histogram.update(logits, labels, mask, data["weights"])
    got = calibration_error(histogram, scores_of)
    kept = data["weights"] > 0
    for k in range(3):
        want = slow_calibration_error(
            scores_of(logits[kept, k]).double(), labels[kept, k], data["weights"][kept], groups=15
        )
        assert float(got[k]) == pytest.approx(want, abs=ROUNDING)
    assert got[3].isnan()


def test_calibration_error_is_small_when_calibrated_and_large_when_not() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100_000, 1, generator=generator) * 2 - 2
    labels = torch.rand(100_000, 1, generator=generator) < scores_of(logits)
    for shift, least, most in ((0.0, 0.0, 0.01), (1.0, 0.05, 0.2)):
        histogram = LabelHistogram(1, 4096)
        histogram.update(logits + shift, labels)
        assert least < float(calibration_error(histogram, scores_of)) < most
