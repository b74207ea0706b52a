"""Made scored rows: logits with ties, hidden cells, weights of rows and of cells, padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mlclf.decisions.cells.cell_slices import CellSlice, cell_slices
from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.evaluation.evaluation import Evaluation


def scores_of(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double()).float()


def made_cells(
    seed: int = 0,
    rows: int = 60,
    labels: int = 4,
    *,
    decimals: int = 1,
    masked: bool = True,
    weighted: bool = True,
    label_weighted: bool = False,
) -> Cells:
    """Rows of calibrated logits; a quarter of the rows of weighted ones are padding."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(-1, 2, (rows, labels)).round(decimals), dtype=torch.float32)
    return Cells(
        logits,
        torch.tensor(rng.random((rows, labels))) < scores_of(logits),
        row_identities(torch.arange(rows)),
        torch.tensor(rng.random((rows, labels)) < 0.7) if masked else None,
        torch.tensor(rng.integers(0, 4, rows) / 4) if weighted else None,
        torch.tensor(rng.integers(0, 3, (rows, labels)) / 2) if label_weighted else None,
    )


def sliced(cells: Cells, scores: Tensor | None = None) -> Iterator[CellSlice]:
    return cell_slices(cells, scores_of(cells.logits) if scores is None else scores)


def seen_cells(cells: Cells) -> Tensor:
    """[n, K] bool, the cells that count."""
    return cell_weights(cells) > 0


def cell_weights(cells: Cells) -> Tensor:
    """[n, K] float64, 0 in a cell that does not count."""
    weights = torch.ones(cells.labels.shape, dtype=torch.float64)
    if cells.mask is not None:
        weights = weights * cells.mask
    if cells.weights is not None:
        weights = weights * cells.weights[:, None]
    return weights if cells.label_weights is None else weights * cells.label_weights


def row_weights(cells: Cells) -> Tensor:
    """[n] float64."""
    return torch.ones(len(cells), dtype=torch.float64) if cells.weights is None else cells.weights


def part_of(cells: Cells, rows: slice) -> Cells:
    return cells.where(torch.arange(len(cells))[rows])


def padded(cells: Cells) -> Cells:
    """The same cells, followed by padding, with nonsense in all that does not count."""
    repeated = cells.where(torch.cat([torch.arange(len(cells)), torch.arange(5)]))
    weights = torch.cat([row_weights(cells), torch.zeros(5, dtype=torch.float64)])
    repeated = replace(repeated, weights=weights)
    return replace(repeated, logits=repeated.logits.masked_fill(~seen_cells(repeated), torch.nan))


def each_kind_of_cells(seed: int = 0, rows: int = 60, labels: int = 4) -> Iterator[Cells]:
    """Plain, masked, weighted, label-weighted, and all together."""
    for masked, weighted, label_weighted in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        yield made_cells(
            seed, rows, labels, masked=bool(masked), weighted=bool(weighted), label_weighted=bool(label_weighted)
        )


def count_rows(
    evaluation: Evaluation,
    logits: Tensor,
    scores: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    identities: Tensor | None = None,
) -> None:
    """Count rows in an evaluation, all of one identity where none are given."""
    if identities is None:
        identities = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    evaluation.update(Cells(logits, labels, identities, mask, weights), scores)
