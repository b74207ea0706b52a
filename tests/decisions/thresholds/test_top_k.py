"""The best labels of each row are flagged, ties in label order, hidden labels never."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.cells.top_labels import is_top
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.tuning.tuner import Tuner


def slow_top(scores: list[float], seen: list[bool], count: int) -> list[bool]:
    order = sorted((-score, label) for label, score in enumerate(scores) if seen[label])
    chosen = {label for _, label in order[:count]}
    return [label in chosen for label in range(len(scores))]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 6), labels=st.integers(1, 5))
def test_the_best_labels_of_each_row_are_flagged(seed: int, count: int, labels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(20, labels, generator=generator).round(decimals=1)
    seen = torch.rand(20, labels, generator=generator) < 0.7
    found = is_top(scores, seen, count)
    for row in range(20):
        assert found[row].tolist() == slow_top(scores[row].tolist(), seen[row].tolist(), count)


def test_thresholds_of_top_k_decide_the_rows_they_came_from() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 6, generator=generator)
    labels = (torch.rand(300, 6, generator=generator) < 0.3).to(torch.uint8)
    weights = torch.randint(1, 3, (300,), generator=generator).double()
    tuner = Tuner(parse_objective("top_k:2"), 6)
    for part in (slice(0, 100), slice(100, 300)):
        rows = torch.arange(300)[part]
        tuner.update(Cells(logits[part], labels[part], row_identities(rows), None, weights[part]))
    tuned = tuner.thresholds()
    assert tuned.per_row == 2
    scores = scores_of(logits)
    decisions = tuned.decide(scores)
    assert (decisions == is_top(scores, torch.ones_like(decisions), 2)).all()
    true = weights @ (decisions & (labels > 0)).double()
    torch.testing.assert_close(tuned.precision, true / (weights @ decisions.double()))
    torch.testing.assert_close(tuned.recall, true / (weights @ labels.double()))
