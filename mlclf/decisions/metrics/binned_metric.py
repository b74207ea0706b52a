"""A metric as a sum over bins, and how far it can be from that of the scores themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms.filled_bins import FilledBins, Measure
from mlclf.decisions.histograms.label_histogram import LabelHistogram

TINY = torch.finfo(torch.float64).tiny


Bounded = tuple[Tensor, Tensor]
"""Values of a metric and bounds of their errors, [K] float64 each."""


class Steps(NamedTuple):
    """A metric of k labels as a sum over their bins, [k, t] float64, divided by a total [k, 1].

    The division comes last: whole numbers add up exactly, so that classes apart have an area of 1, not nearly.
    """

    values: Tensor
    errors: Tensor  # how far each value may be off, to either side
    total: Tensor

    def totals(self) -> Bounded:
        """The metric and the bound on its error, each [k] float64."""
        total = self.total[:, 0]
        return self.values.sum(1) / total, self.errors.sum(1) / total

    def error_shares(self) -> Tensor:
        """The bound of the error that each bin makes, [k, t] float64."""
        return self.errors / self.total


def where_defined(histogram: LabelHistogram, steps_of: Callable[[FilledBins], Steps]) -> Measure:
    """The totals of the steps, NaN for a label without both classes."""
    defined = has_both_classes(histogram)
    return lambda bins, labels: torch.stack(steps_of(bins).totals()).where(defined[labels], torch.nan)


def has_both_classes(histogram: LabelHistogram) -> Tensor:
    """Return [K] bool, True for a label with an observed positive and an observed negative row."""
    return (histogram.positive_rows > 0) & (histogram.positive_rows < histogram.rows)
