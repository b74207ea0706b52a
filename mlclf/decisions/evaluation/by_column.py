"""The metrics of every value of a column, each as of a data set of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mlclf.data.arrow.identities import levels_of
from mlclf.decisions.cells.cells import Cells, value_identities
from mlclf.decisions.evaluation.bootstrap import DistinctCount
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.errors import DataError

MOST_VALUES = 100
SLICE_BYTES = 256 << 20
_BYTES_PER_BIN = 24
_MOST_BINS = 65_536
_LEAST_BINS = 256


class SlicedEvaluation:
    """One `Evaluation` for each value of a column, in memory that does not grow with the rows or the values.

    The first 100 values have their own, or as many as the budget holds with 256 bins a label; rows of later ones are
    pooled as `other`, and null is a value of its own, `missing`. The bins are as fine as the budget allows, so ranking
    metrics have wider error bounds than those of all rows.
    """

    def __init__(
        self,
        column: str,
        thresholds: Tensor,
        *,
        decide: Callable[[Tensor], Tensor] | None = None,
        most_values: int = MOST_VALUES,
        budget_bytes: int = SLICE_BYTES,
        ends_dtype: torch.dtype = torch.float32,
        recalibrated_within: float = math.inf,
    ) -> None:
        """Start empty.

        Args:
            column: name of the column, for the document.
            thresholds, decide, ends_dtype, recalibrated_within: see `Evaluation`.
            most_values: how many values have an evaluation of their own.
            budget_bytes: for the histograms of all values.

        Raises:
            DataError: The labels are so many that not even two values fit the budget.
        """
        self.column = column
        label_bytes = len(thresholds) * (_BYTES_PER_BIN + 2 * (ends_dtype.itemsize - torch.float32.itemsize))
        self.more: dict[str, Any] = {"ends_dtype": ends_dtype, "recalibrated_within": recalibrated_within}
        fitting = budget_bytes // (label_bytes * _LEAST_BINS) - 2  # `missing` and `other` need theirs
        if fitting < 2:
            raise DataError(
                f"metrics by a column of {len(thresholds):,} labels need {4 * label_bytes * _LEAST_BINS:,} bytes for "
                f"two values, got a budget of {budget_bytes:,}; raise it, or evaluate fewer labels"
            )
        self.most_values = min(most_values, fitting)
        self.num_bins = _MOST_BINS
        while self.num_bins > _LEAST_BINS and label_bytes * self.num_bins * (self.most_values + 2) > budget_bytes:
            self.num_bins //= 2
        self.thresholds, self.decide = thresholds, decide
        self.values: dict[str, Evaluation] = {}
        self.missing: Evaluation | None = None
        self.other: Evaluation | None = None
        self.pooled = DistinctCount()

    def _empty(self) -> Evaluation:
        return Evaluation(self.thresholds, self.num_bins, decide=self.decide, **self.more)

    def update(self, values: pa.Array | pa.ChunkedArray, cells: Cells, scores: Tensor) -> None:
        """Count a batch.

        Args:
            values: n of the column.
            cells: n rows of K labels.
            scores: [n, K] float32, the probabilities of the logits.

        Raises:
            ValueError: There are not as many values as rows.
            DataError: A logit, score or weight is out of range.
        """
        if len(values) != len(cells):
            raise ValueError(f"values must be one a row, got {len(values)} for {len(cells)} rows")
        found, texts = levels_of(values if isinstance(values, pa.Array) else values.combine_chunks())
        codes, first = np.unique(found, return_index=True)
        rows = torch.tensor(found)
        self._count_missing(rows == len(texts), cells, scores)
        late: list[int] = []
        for code in codes[np.argsort(first)].tolist():
            if code == len(texts):
                continue
            evaluation = self._evaluation(texts[code].as_py())
            if evaluation is None:
                late.append(code)
            else:
                _count(evaluation, rows == code, cells, scores)
        if late:
            self.other = self.other or self._empty()
            _count(self.other, torch.isin(rows, torch.tensor(late)), cells, scores)
            self.pooled.update(value_identities(pa.chunked_array([texts.take(pa.array(late))])))

    def _count_missing(self, chosen: Tensor, cells: Cells, scores: Tensor) -> None:
        if bool(chosen.any()):
            self.missing = self.missing or self._empty()
            _count(self.missing, chosen, cells, scores)

    def _evaluation(self, name: str) -> Evaluation | None:
        if name not in self.values and len(self.values) < self.most_values:
            self.values[name] = self._empty()
        return self.values.get(name)

    def report(self, label_names: list[str], train_prevalences: Tensor) -> dict[str, Any]:
        """Return ``{"by": {"column", "values": {value: document}, "missing", "other", "pooled_values"}}``.

        Documents are those of `Evaluation.report`; `missing` and `other` are None where they have no rows, and
        `pooled_values` says how many values are pooled as `other`.
        """

        def document(evaluation: Evaluation | None) -> dict[str, Any] | None:
            return None if evaluation is None else evaluation.report(label_names, train_prevalences)

        return {
            "by": {
                "column": self.column,
                "values": {value: document(evaluation) for value, evaluation in self.values.items()},
                "missing": document(self.missing),
                "other": document(self.other),
                "pooled_values": self.pooled.count(),
            }
        }

    def merge(self, other: SlicedEvaluation) -> None:
        """Add what another one, of the same column, thresholds and bins, has counted.

        Where one of the two has pooled values, a value that it does not have may be among them, so it is pooled too;
        then `pooled_values` may count values that were met in one of the two only.
        """
        mine, theirs = self.values, other.values
        pooled_here, pooled_there = self.other is not None, other.other is not None
        names = [*mine, *(name for name in theirs if name not in mine)]
        own = [name for name in names if (name in mine or not pooled_here) and (name in theirs or not pooled_there)]
        own = own[: self.most_values]
        for name in set(names) - set(own):
            self.other = self.other or self._empty()
            for evaluation in (mine.get(name), theirs.get(name)):
                if evaluation is not None:
                    self.other.merge(evaluation)
            self.pooled.update(value_identities(pa.chunked_array([[name]])))
        self.values = {name: self._merged(mine.get(name), theirs.get(name)) for name in own}
        self.missing = self._merged(self.missing, other.missing) if self.missing or other.missing else None
        self.other = self._merged(self.other, other.other) if self.other or other.other else None
        self.pooled.merge_state(other.pooled)

    def _merged(self, *evaluations: Evaluation | None) -> Evaluation:
        whole = self._empty()
        for evaluation in evaluations:
            if evaluation is not None:
                whole.merge(evaluation)
        return whole


def _count(evaluation: Evaluation, chosen: Tensor, cells: Cells, scores: Tensor) -> None:
    if bool(chosen.all()):
        evaluation.update(cells, scores)
    else:
        chosen = chosen.to(scores.device)
        evaluation.update(cells.where(chosen), scores[chosen])
