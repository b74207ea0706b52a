"""Bins split into finer parts where the error of a metric could be too large."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms.filled_bins import FilledBins
from mlclf.decisions.metrics.auroc import auroc_steps
from mlclf.decisions.metrics.average_precision import average_precision_steps

TOLERANCE = 1e-4
_AIM = 0.75
"""Share of the tolerance that the allotment of parts aims at; it takes rows to lie evenly inside a bin."""

_HALVINGS = 30
SAME = 1e-9
"""How far sums of weights added up in another order may be apart, relatively."""


class Ranges(NamedTuple):
    """Bins that are split, by label and then by rising logit: R ranges with S parts together."""

    starts: Tensor  # [K + 1] int64, on the CPU: where the ranges of each label start
    least: Tensor  # [R] float32 or float64, as the histogram has it, the ends of a range, both inside
    greatest: Tensor  # [R]
    positives: Tensor  # [R] float64, what the first pass counted there
    negatives: Tensor  # [R] float64
    parts: Tensor  # [R] int64, at least 2
    first: Tensor  # [R + 1] int64, the number of a range's first part

    def of(self, label: int) -> slice:
        return slice(int(self.starts[label]), int(self.starts[label + 1]))


class _Split(NamedTuple):
    """The bins of one label that are split, [r]."""

    bins: FilledBins
    parts: Tensor


def split_bins(bins: FilledBins, least_weight: Tensor, tolerance: float, most_parts: int) -> _Split:
    """Give the bins of a label parts, so that what is left of both intervals comes down to the tolerance."""
    errors = (auroc_steps(bins).error_shares(), average_precision_steps(bins, least_weight).error_shares())
    parts = _parts_for(2 * torch.maximum(*errors)[0], tolerance * _AIM, most_parts)
    chosen = parts > 1
    return _Split(FilledBins(*(column[0, chosen] for column in bins)), parts[chosen])


def _parts_for(widths: Tensor, aim: float, most_parts: int) -> Tensor:
    """Return in how many parts [t] int64 to split bins whose shares of an interval are `widths` [t].

    A bin in m parts has 1/m of its share left where its rows lie evenly. The fewest parts with ``Σ width / m = aim``
    have m in proportion to √width; 1 means that a bin stays whole. The parts of the split bins are at most
    `most_parts` together (at least 2), and then the widest bins are the ones that are split.
    """
    roots = widths.sqrt()

    def parts(factor: float) -> Tensor:
        return (roots * factor).clamp(1, most_parts).ceil().long()

    def enough(factor: float) -> bool:
        return float((widths / parts(factor)).sum()) <= aim

    def fits(factor: float) -> bool:
        counts = parts(factor)
        return int(counts[counts > 1].sum()) <= most_parts

    high = 2 * float(roots.sum()) / aim
    low = 1 / float(roots.max())  # all stay whole
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if enough(middle) or not fits(middle):
            high = middle
        else:
            low = middle
    factor = high if fits(high) else low
    counts = parts(factor)
    if int(counts.max()) == 1:
        counts[int(widths.argmax())] = most_parts
    return counts


def ranges_of(found: dict[int, _Split], num_labels: int) -> Ranges:
    counts = torch.zeros(num_labels + 1, dtype=torch.int64)
    for label, split in found.items():
        counts[label + 1] = len(split.parts)
    bins = FilledBins(*(torch.cat(columns) for columns in zip(*(split.bins for split in found.values()), strict=True)))
    parts = torch.cat([split.parts for split in found.values()])
    first = torch.cat([parts.new_zeros(1), parts.cumsum(0)])
    return Ranges(counts.cumsum(0), bins.least, bins.greatest, bins.positives, bins.negatives, parts, first)
