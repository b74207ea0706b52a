"""What is said of the ranking of a row's labels is what loops, scikit-learn and torchmetrics say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import cell_weights, each_kind_of_cells, made_cells, padded, part_of, row_weights, scores_of, sliced
from sklearn.metrics import (
    coverage_error,
    label_ranking_average_precision_score,
    label_ranking_loss,
    ndcg_score,
)
from torch import Tensor
from torchmetrics.functional.classification import (
    multilabel_coverage_error,
    multilabel_ranking_average_precision,
    multilabel_ranking_loss,
)
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_precision

from mlclf.decisions.cells.cell_slices import cell_slices
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.metrics.label_ranking import RANKINGS, RowRankings, row_rankings

ROUNDING = 1e-12
ACROSS = ("label_ranking_average_precision", "coverage_error", "label_ranking_loss")


def ranked(*batches: Cells, scores: Tensor | None = None) -> RowRankings:
    rankings = RowRankings()
    for cells in batches:
        for part in sliced(cells, scores):
            rankings.update(part, row_rankings(part))
    return rankings


def named(rankings: RowRankings) -> dict[str, float]:
    return dict(zip(RANKINGS, rankings.means().tolist(), strict=True))


def slow_row(scores: list[float], labels: list[bool]) -> dict[str, float]:
    """One row of observed cells."""
    order = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
    positives = [k for k in order if labels[k]]
    negatives = [k for k in order if not labels[k]]
    found = {}
    for count in (1, 3, 5):
        gains = [labels[k] / np.log2(rank + 2) for rank, k in enumerate(order[:count])]
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(count, len(positives))))
        found[f"p_at_{count}"] = sum(labels[k] for k in order[:count]) / count
        found[f"ndcg_at_{count}"] = sum(gains) / ideal if positives else 0.0
    found["label_ranking_average_precision"], found["label_ranking_loss"] = 1.0, 0.0
    if positives and negatives:
        shares = [
            sum(scores[j] >= scores[k] for j in positives) / sum(score >= scores[k] for score in scores)
            for k in positives
        ]
        pairs = [scores[j] >= scores[k] for k in positives for j in negatives]
        found["label_ranking_average_precision"], found["label_ranking_loss"] = np.mean(shares), np.mean(pairs)
    lowest = min((scores[k] for k in positives), default=np.inf)
    found["coverage_error"] = sum(score >= lowest for score in scores)
    return found


def slow(cells: Cells, scores: Tensor) -> dict[str, float]:
    sums, rows = dict.fromkeys(RANKINGS, 0.0), 0.0
    for row, weights in enumerate(cell_weights(cells)):
        seen, weight = weights > 0, float(row_weights(cells)[row])
        if seen.any():
            rows += weight
            for name, value in slow_row(scores[row, seen].tolist(), cells.labels[row, seen].tolist()).items():
                sums[name] += weight * value
    return {name: value / rows for name, value in sums.items()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), labels=st.sampled_from([1, 2, 4, 13]), steps=st.sampled_from([1, 3, 1000]))
def test_rankings_are_those_of_a_loop_with_ties_masks_and_weights(seed: int, labels: int, steps: int) -> None:
    for cells in each_kind_of_cells(seed, 30, labels):
        if cells.mask is not None:
            cells.mask[:5] = False
        scores = (scores_of(cells.logits) * steps).round() / steps  # 0 and 1 too
        scores[::2] *= torch.where(scores[::2] == 0, -1, 1)  # -0.0 ties with 0.0
        assert named(ranked(cells, scores=scores)) == pytest.approx(slow(cells, scores), abs=ROUNDING)


@pytest.mark.parametrize("decimals", [0, 6])
def test_rankings_are_those_of_scikit_learn(decimals: int) -> None:
    cells = made_cells(7, 300, 12, decimals=decimals, masked=False)
    cells.labels[:3], cells.labels[3:6] = False, True
    scores, w = scores_of(cells.logits), row_weights(cells).numpy()
    got, y = named(ranked(cells)), cells.labels.numpy()
    for name, function in zip(
        ACROSS, (label_ranking_average_precision_score, coverage_error, label_ranking_loss), strict=True
    ):
        assert got[name] == pytest.approx(function(y, scores.numpy(), sample_weight=w), abs=ROUNDING)
    if decimals:  # without ties, which scikit-learn averages over
        for count in (1, 3, 5):
            want = ndcg_score(y, scores.numpy(), k=count, sample_weight=w)
            assert got[f"ndcg_at_{count}"] == pytest.approx(want, abs=ROUNDING)


def test_rankings_are_those_of_torchmetrics() -> None:
    cells = made_cells(8, 60, 20, decimals=6, masked=False, weighted=False)
    cells.labels[:, 0], cells.labels[:, 1] = True, False  # one class in a row is defined differently there
    scores, y = scores_of(cells.logits), cells.labels
    got = named(ranked(cells))
    for name, function in zip(
        ACROSS,
        (multilabel_ranking_average_precision, multilabel_coverage_error, multilabel_ranking_loss),
        strict=True,
    ):
        assert got[name] == pytest.approx(float(function(scores, y.long(), 20)), abs=1e-5)
    for count in (1, 3, 5):
        precision = [retrieval_precision(s, t, top_k=count) for s, t in zip(scores, y, strict=True)]
        gains = [retrieval_normalized_dcg(s, t.long(), top_k=count) for s, t in zip(scores, y, strict=True)]
        assert got[f"p_at_{count}"] == pytest.approx(float(torch.stack(precision).mean()), abs=1e-6)
        assert got[f"ndcg_at_{count}"] == pytest.approx(float(torch.stack(gains).mean()), abs=1e-6)


def test_parts_merge_to_the_whole_and_padding_counts_nowhere() -> None:
    for cells in each_kind_of_cells(9):
        whole, head = ranked(cells), ranked(part_of(cells, slice(0, 23)))
        rest = padded(part_of(cells, slice(23, None)))
        head.merge_state(ranked(replace(rest, logits=rest.logits.nan_to_num(3.0))))
        torch.testing.assert_close(head.means(), whole.means(), rtol=0, atol=ROUNDING)


def test_a_row_of_many_labels_costs_no_square_of_them() -> None:
    cells = made_cells(0, 3, 50_000, decimals=6, masked=False, weighted=False)
    assert 0 < named(ranked(cells))["label_ranking_loss"] < 0.5


def test_nothing_ranked_is_undefined() -> None:
    assert RowRankings().means().isnan().all()


def test_columns_side_by_side_are_ranked_like_rows() -> None:
    """Parquet gives scores column by column: [K, n] in memory, handed in as its transpose."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(50, 7, generator=generator).round(decimals=1)
    labels = (torch.rand(50, 7, generator=generator) < 0.4).to(torch.uint8)
    found = []
    for by_column in (False, True):
        held, truth = (scores.t().contiguous().t(), labels.t().contiguous().t()) if by_column else (scores, labels)
        cells = Cells(torch.logit(held, eps=1e-6), truth, torch.arange(50))
        found.append(torch.cat([row_rankings(part) for part in cell_slices(cells, held)]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
