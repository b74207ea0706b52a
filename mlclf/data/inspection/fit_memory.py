"""An estimate of the memory that a fit will take, from a look at the data."""

from __future__ import annotations

from dataclasses import dataclass

LIBRARY_BYTES = 620 << 20
"""Resident memory of a process that has loaded the library, PyTorch for the CPU among it, and fitted a few rows."""

STREAMING_BYTES = 100 << 20
"""Beside the budget where rows are streamed: readers, batches on their way, heads with their optimizer."""

RESIDENT_SHARE, KNOTS, FOLDS = 4, 5, 5
"""Of a fit: rows are held that take so small a part of the budget; knots of a numeric column; models side by side."""

SOLVER_BYTES, SOLVER_COPIES = 256 << 20, 26
TEMPORARY_CELLS, TEMPORARIES = 1 << 22, 6
HISTOGRAM_BYTES, BIN_BYTES, HISTOGRAMS = 64 << 20, 16, 7
ENTRY_BYTES, ROW_BYTES = 32, 48
"""Of a row in float64: each id with its value, in both orders; weight, part and the ends of its lists."""


@dataclass(frozen=True)
class FitSize:
    """How large a fit is.

    Attributes:
        rows, num_labels: of the data.
        row_bytes: of an encoded row.
        num_dense, vocabulary: inputs, without knots.
        num_splined: numeric columns, in which knots are tried.
        row_ids: ids of a row, about.
    """

    rows: int
    row_bytes: float
    num_labels: int
    num_dense: int = 0
    vocabulary: int = 0
    num_splined: int = 0
    row_ids: float = 0.0

    def estimated_bytes(self, budget: int) -> int:
        """About the peak of resident memory of a fit with default settings and this `runtime.memory_budget`."""
        held = self.rows * self.row_bytes
        if RESIDENT_SHARE * held > budget:
            return int(LIBRARY_BYTES + STREAMING_BYTES + min(budget, held) + self._histograms())
        knots = KNOTS * self.num_splined
        if RESIDENT_SHARE * (held + 4 * knots * self.rows) > budget:
            knots = 0
        inputs = self.num_dense + knots + min(self.vocabulary, self.rows * self.row_ids) + 1
        models = (FOLDS + 1) * self.num_labels
        exact = self.rows * (8 * (self.num_dense + knots) + ENTRY_BYTES * self.row_ids + ROW_BYTES)
        solver = min(SOLVER_BYTES, 8 * inputs * SOLVER_COPIES * models)
        temporary = 8 * TEMPORARIES * min(self.rows * models, TEMPORARY_CELLS)
        return int(LIBRARY_BYTES + held + 4 * knots * self.rows + exact + solver + temporary + self._histograms())

    def _histograms(self) -> float:
        """Those of the held-out rows and their folds, as far as rows fill them."""
        bins = min(HISTOGRAM_BYTES, BIN_BYTES * self.num_labels * 65_536)
        return HISTOGRAMS * min(bins, BIN_BYTES * self.rows * self.num_labels)
