"""Histograms whose memory is taken where logits fall: nothing that can be asked of them differs."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch

from mlclf.decisions.histograms import lazy_bins
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.histograms.tables import table_of
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.average_precision import average_precision
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.tuning.best_cut import best_thresholds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is taken whole elsewhere")

NUM_LABELS, NUM_BINS = 5, 8192


def batches(seed: int, masked: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Three batches, each of a wider range of logits; the last label is never observed, one has a far outlier."""
    random = torch.Generator().manual_seed(seed)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
    for spread in (0.5, 3.0, 0.1):
        logits = spread * torch.randn((400, NUM_LABELS), generator=random) + torch.linspace(-12, 8, NUM_LABELS)
        labels = (torch.rand(logits.shape, generator=random) < torch.sigmoid(logits / 3)).to(torch.uint8)
        mask = torch.rand(logits.shape, generator=random) < 0.7 if masked else None
        if mask is not None:
            mask[:, -1] = False
            logits[~mask] = torch.nan
        found.append((logits, labels, mask))
    if not masked:
        found[1][0][7, 2] = 1e6
    return found


@pytest.fixture(params=[False, True], ids=["seen", "masked"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[LabelHistogram, LabelHistogram]:
    """A histogram with its memory taken at once, and a lazy one of the same rows."""
    plain = LabelHistogram(NUM_LABELS, NUM_BINS)
    monkeypatch.setattr(lazy_bins, "LEAST_BYTES", 0)
    lazy = LabelHistogram(NUM_LABELS, NUM_BINS)
    assert lazy.window(slice(0, NUM_LABELS)) == slice(0, 1)
    for batch in batches(0, request.param):
        plain.update(*batch)
        lazy.update(*batch)
    monkeypatch.setattr(lazy_bins, "LEAST_BYTES", 1 << 40)
    return plain, lazy


def test_ends_are_those_of_plain_memory(pair: tuple[LabelHistogram, LabelHistogram]) -> None:
    plain, lazy = pair
    for labels in (slice(0, NUM_LABELS), slice(1, 3), slice(4, 5)):
        for bins in (slice(0, NUM_BINS), slice(3000, 5000), lazy.window(labels)):
            for found, want in zip(lazy.ends(labels, bins), plain.ends(labels, bins), strict=True):
                assert found.equal(want)
    window = lazy.window(slice(0, 1))
    assert window.stop - window.start < 0.6 * NUM_BINS
    empty = torch.ones(NUM_BINS, dtype=torch.bool)
    empty[window] = False
    assert not plain.nonempty()[0, empty].any()


def test_thresholds_and_metrics_are_the_same(pair: tuple[LabelHistogram, LabelHistogram]) -> None:
    plain, lazy = pair
    for text in ("f1", "recall:0.9", "precision:0.8", "micro_f1", "cost:1,5", "alert_budget:20", "fpr:0.01"):
        want, found = (best_thresholds(each, parse_objective(text)) for each in pair)
        assert found.status == want.status
        for name in ("thresholds", "precision", "recall", "f1", "intervals"):
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name), err_msg=f"{text} {name}")
    for metric in (auroc, average_precision):
        for found, want in zip(metric(lazy), metric(plain), strict=True):
            np.testing.assert_array_equal(found, want)


def test_whole_states_are_the_same(pair: tuple[LabelHistogram, LabelHistogram]) -> None:
    plain, lazy = pair
    other = copy.deepcopy(lazy)
    assert table_of(lazy).equals(table_of(plain), check_metadata=True)
    for name, state in plain.compute().items():
        assert other.compute()[name].equal(state), name
    other.update(*batches(1, False)[0])
    plain.update(*batches(1, False)[0])
    assert table_of(other).equals(table_of(plain), check_metadata=True)
    lazy.reset()
    assert not lazy.nonempty().any()


def test_lazy_histograms_merge(pair: tuple[LabelHistogram, LabelHistogram], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lazy = pair
    twice = LabelHistogram(NUM_LABELS, NUM_BINS)
    twice.merge(plain)
    monkeypatch.setattr(lazy_bins, "LEAST_BYTES", 0)
    merged = LabelHistogram(NUM_LABELS, NUM_BINS)
    merged.merge(lazy)
    merged.merge(lazy)
    twice.merge(plain)
    assert table_of(merged).equals(table_of(twice), check_metadata=True)


def test_pages_are_taken_where_logits_fall() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096

    before = resident()
    histogram = LabelHistogram(300, 65_536)
    histogram.update(torch.randn(200, 300), torch.zeros(200, 300, dtype=torch.uint8))
    taken, whole = resident() - before, 300 * 65_536 * 16
    assert taken < whole / 3
