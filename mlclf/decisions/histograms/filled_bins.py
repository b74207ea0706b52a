"""Bins of a histogram that hold rows, and what is measured on them, a slice of labels at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms.bins import middle_of, take_bins
from mlclf.decisions.histograms.counting import true_places
from mlclf.decisions.histograms.label_histogram import LabelHistogram

_BYTES_PER_BIN = 128


class FilledBins(NamedTuple):
    """Bins of k labels in rising order of the logit, [k, t]; each holds rows of at least one of the labels."""

    positives: Tensor  # float64, sums of weights
    negatives: Tensor  # float64
    least: Tensor  # float32 or float64, +inf where a bin of this label is empty
    greatest: Tensor  # the same, -inf where a bin of this label is empty

    def spread(self) -> Tensor:
        """[k, t] bool, True for a bin of more than one value: the order of its rows is not known."""
        return self.greatest > self.least

    def middle(self, values_of: Callable[[Tensor], Tensor]) -> Tensor:
        """[k, t] float64; see `middle_of`."""
        return middle_of(values_of, self.least, self.greatest)


Measure = Callable[[FilledBins, slice], Tensor]
"""The bins of a slice of k labels to numbers of each label, [..., k] float64."""


def filled_bins(histogram: LabelHistogram, labels: slice) -> FilledBins:
    """Return the bins of a slice of labels without those that are empty for all of them."""
    bins = histogram.window(labels)
    counts = histogram.counts[labels, :, bins]
    kept = true_places(counts.amax((0, 1)) > 0)
    counts = take_bins(counts, kept).double()
    least, greatest = histogram.ends(labels, kept + bins.start)
    return FilledBins(counts[:, 1], counts[:, 0], least, greatest)


def over_labels(histogram: LabelHistogram, *measures: Measure) -> list[Tensor]:
    """What each measure says of all labels, [..., K]; the bins are looked for once for all of them."""
    found = []
    for labels in histogram.label_slices(_BYTES_PER_BIN):
        bins = filled_bins(histogram, labels)
        found.append([measure(bins, labels) for measure in measures])
    return [torch.cat(parts, -1) for parts in zip(*found, strict=True)]
