"""Slices hold every row that counts once, and nothing that is not a probability gets into them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from made_cells import cell_weights, each_kind_of_cells, made_cells, padded, row_weights, scores_of, seen_cells, sliced

from mlclf.decisions.cells import cell_slices
from mlclf.decisions.cells.cell_slices import CellSlice
from mlclf.errors import DataError


@pytest.mark.parametrize("cells_a_slice", [1, 23, 1 << 17])
def test_slices_sum_to_the_whole(cells_a_slice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_slices, "SLICE_CELLS", cells_a_slice)
    for cells in each_kind_of_cells():
        parts = list(sliced(padded(cells)))
        labels = sum(part.label_sums(part.labels) for part in parts)
        torch.testing.assert_close(labels, (cell_weights(cells) * cells.labels).sum(0), rtol=0, atol=1e-12)
        floats = sum(part.label_sums(part.observed(part.scores)) for part in parts)
        want = (cell_weights(cells) * scores_of(cells.logits)).sum(0)
        torch.testing.assert_close(floats, want, rtol=0, atol=1e-12)
        weights = sum(part.weight_sums() for part in parts)
        torch.testing.assert_close(weights, cell_weights(cells).sum(0), rtol=0, atol=1e-12)
        rows = sum(part.row_sums(part.labelled()) for part in parts)
        assert float(rows) == float(row_weights(cells) @ seen_cells(cells).any(1).double())


def refused(cells: object, scores: torch.Tensor | None, message: str, kind: type[Exception] = DataError) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        list(sliced(cells, scores))  # type: ignore[arg-type]  # any cells


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (1.5, "1.5"), (-3.0, "-3.0")])
def test_scores_that_are_not_probabilities_are_refused(value: float, shown: str) -> None:
    cells = made_cells(masked=False, weighted=False)
    scores = scores_of(cells.logits)
    scores[3, 2] = scores[5, 1] = value
    message = (
        f"scores must be probabilities from 0 to 1, got {shown} for label 2 (2 such cells in a batch); "
        "logits are refused, not converted"
    )
    refused(cells, scores, message)


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (-torch.inf, "-inf")])
def test_logits_that_are_not_finite_are_refused(value: float, shown: str) -> None:
    cells = made_cells(masked=False, weighted=False)
    cells.logits[7, 1] = value
    message = (
        f"logits must be finite where a label is observed, got {shown} for label 1 (1 such cells in a batch); "
        "look for infinite inputs or weights"
    )
    refused(cells, None, message)


def test_float64_scores_are_refused() -> None:
    cells = made_cells()
    refused(cells, scores_of(cells.logits).double(), "scores must be float32, got torch.float64", TypeError)


@pytest.mark.parametrize("value", [-1.0, torch.inf, torch.nan])
def test_weights_that_are_not_finite_and_positive_are_refused(value: float) -> None:
    cells = made_cells(label_weighted=True)
    assert cells.weights is not None
    assert cells.label_weights is not None
    weights, label_weights = cells.weights.clone(), cells.label_weights.clone()
    weights[4] = label_weights[4, 1] = value
    start = f"must be finite and not negative, got {value!r} in row 4"
    refused(replace(cells, weights=weights), None, f"weights {start} of a batch")
    refused(replace(cells, label_weights=label_weights), None, f"label weights {start} for label 1 of a batch")


def test_no_rows_are_no_slices() -> None:
    cells = made_cells(rows=3)
    assert list(sliced(replace(cells, weights=torch.zeros(3)))) == []
    assert isinstance(next(sliced(cells)), CellSlice)
