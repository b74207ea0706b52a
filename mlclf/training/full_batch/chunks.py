"""Rows in float64 as the solvers take them, and the problems that are solved over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.data.batch import Batch

CELLS = 1 << 22
"""Rows × problems that are worked on at a time."""

BLOCK_ROWS = 4096
"""Rows whose products are summed at a time."""


@dataclass
class Chunk:
    """Rows of the full batch in float64.

    Attributes:
        dense: [n, D].
        sparse, transposed: CSR [n, V] and [V, n]; None where there are no tokens.
        labels: [n, K] uint8; mask: [n, K] bool or None; weights: [n]; parts: [n] int64.
    """

    dense: Tensor
    sparse: Tensor | None
    transposed: Tensor | None
    labels: Tensor
    mask: Tensor | None
    weights: Tensor
    parts: Tensor

    @classmethod
    def of(cls, batch: Batch, vocabulary_size: int) -> Chunk:
        sparse = transposed = None
        if vocabulary_size:
            sparse, transposed = _csr(batch, vocabulary_size)
        return cls(
            batch.dense.double(),
            sparse,
            transposed,
            batch.labels,
            batch.label_mask,
            batch.weights.double(),
            batch.parts.long(),
        )

    def logits(self, columns: Tensor) -> Tensor:
        """[n, P] float64 of columns [D + V + 1, P]: dense weights, embedding rows, bias."""
        num_dense = self.dense.shape[1]
        logits = columns[-1:] + self.dense @ columns[:num_dense] if num_dense else columns[-1:].expand(len(self), -1)
        if self.sparse is not None:
            logits = logits + self.sparse @ columns[num_dense:-1].contiguous()
        return logits

    def back(self, slopes: Tensor) -> Tensor:
        """Gradient [D + V + 1, P] of slopes [n, P]."""
        parts = [self.dense.T @ slopes]
        if self.transposed is not None:
            parts.append(self.transposed @ slopes)
        parts.append(slopes.sum(0, keepdim=True))
        return torch.cat(parts)

    def squares(self, weights: Tensor) -> Tensor:
        """Σ weight · input², [D + V + 1, P]; weights [n, P]."""
        dense = torch.zeros(self.dense.shape[1], weights.shape[1], dtype=torch.float64)
        for rows, cells in zip(torch.split(self.dense, BLOCK_ROWS), torch.split(weights, BLOCK_ROWS), strict=True):
            dense += rows.square().T @ cells  # a square of all rows would take as much memory as they do
        parts = [dense]
        if self.transposed is not None:
            values = self.transposed.values().square()
            squared = _csr_tensor(
                self.transposed.crow_indices(), self.transposed.col_indices(), values, tuple(self.transposed.shape)
            )
            parts.append(squared @ weights)
        parts.append(weights.sum(0, keepdim=True))
        return torch.cat(parts)

    def add_products(self, weights: Tensor, kept: Tensor, out: Tensor) -> None:
        """Add Σ weight · input · inputᵀ of some inputs to `out` [P, A, A]; weights [n, P].

        Args:
            kept: [A] int64, all dense inputs, then others, rising.
        """
        num_dense = self.dense.shape[1]
        places = torch.full((self.num_inputs,), -1)
        places[kept] = torch.arange(len(kept))
        for start in range(0, len(self), BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, len(self))
            block = torch.zeros(end - start, len(kept), dtype=torch.float64)
            block[:, :num_dense] = self.dense[start:end]
            if self.sparse is not None:
                _add_rows(self.sparse, start, end, places[num_dense:-1], block)
            if places[-1] >= 0:
                block[:, -1] = 1
            for products, cells in zip(out, weights[start:end].T, strict=True):
                products.addmm_(block.T, block * cells[:, None])

    @property
    def num_inputs(self) -> int:
        """D + V + 1."""
        return self.dense.shape[1] + (0 if self.sparse is None else self.sparse.shape[1]) + 1

    def __len__(self) -> int:
        return self.dense.shape[0]


def _add_rows(sparse: Tensor, start: int, end: int, places: Tensor, out: Tensor) -> None:
    """Add rows of a CSR matrix to `out`, each column at its place; columns without a place are left out."""
    offsets = sparse.crow_indices()[start : end + 1]
    inside = slice(int(offsets[0]), int(offsets[-1]))
    rows = torch.repeat_interleave(torch.arange(end - start), offsets.diff())
    columns = places[sparse.col_indices()[inside]]
    kept = columns >= 0
    out.index_put_((rows[kept], columns[kept]), sparse.values()[inside][kept], accumulate=True)


def _csr(batch: Batch, vocabulary_size: int) -> tuple[Tensor, Tensor]:
    values = torch.ones(len(batch.ids), dtype=torch.float64) if batch.values is None else batch.values.double()
    shape = (len(batch), vocabulary_size)
    rows = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets.diff())
    order = torch.argsort(batch.ids, stable=True)
    starts = torch.zeros(vocabulary_size + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(batch.ids, minlength=vocabulary_size), 0, out=starts[1:])
    sparse = _csr_tensor(batch.offsets, batch.ids, values, shape)
    transposed = _csr_tensor(starts, rows[order], values[order], (vocabulary_size, len(batch)))
    return sparse, transposed


def _csr_tensor(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


Chunks = Callable[[], Iterable[Chunk]]
"""One pass over all rows; called again for the next pass."""


@dataclass(frozen=True)
class Problems:
    """P independent problems over the same rows.

    Attributes:
        labels: [P] int64, the label of each.
        models: [P] int64, row of `trained` that says on which parts each is trained.
        l2: [P] float64.
        trained: [R, parts] float64 of 0 and 1.
        totals: [P] float64, Σ w over the rows that it is trained on and that observe its label.
        pos_weight: [P] float64.
        l1: the same for all.
    """

    labels: Tensor
    models: Tensor
    l2: Tensor
    trained: Tensor
    totals: Tensor
    pos_weight: Tensor
    l1: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, index: Tensor) -> Problems:
        """Some of the problems."""
        return Problems(
            self.labels[index],
            self.models[index],
            self.l2[index],
            self.trained,
            self.totals[index],
            self.pos_weight[index],
            self.l1,
        )


def problem_slices(chunk: Chunk, problems: Problems) -> Iterator[slice]:
    """The problems in slices so small that rows × problems stay within CELLS."""
    step = max(1, CELLS // max(1, len(chunk)))
    for start in range(0, len(problems), step):
        yield slice(start, start + step)


def cell_weights(chunk: Chunk, problems: Problems, part: slice) -> Tensor:
    """Weight of each row in the mean of each problem: [n, P] float64, summing to 1 over all rows."""
    rows = chunk.weights[:, None] * problems.trained.T[chunk.parts]
    cells = rows[:, problems.models[part]] / problems.totals[part]
    if chunk.mask is not None:
        cells *= chunk.mask[:, problems.labels[part]]
    return cells
