"""Bins of a histogram put together into few groups: enough to fit a curve of the logit, and cheap to go over often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlclf.decisions.histograms.counting import LIMIT
from mlclf.decisions.histograms.label_histogram import LabelHistogram, effective

GROUPS = 512
"""The most groups of a label: with many labels they are fewer, down to LEAST_GROUPS, so that all take GROUP_CELLS."""

LEAST_GROUPS = 64
GROUP_CELLS = 1 << 21
SLICE_CELLS = 1 << 15
_BYTES_PER_BIN = 120


@dataclass(frozen=True)
class LogitGroups:
    """Counts of K labels in C groups of neighbouring bins, for each of F disjoint sets of rows, on the CPU.

    A label's weights are scaled so that they sum to its effective rows over all sets, (Σw)² / Σw² (Kish 1965): its
    log-likelihood is in nats of rows of equal weight, and the unit of the weights does not matter.

    Attributes:
        centres: [K, C] float64, the mean logit of a group, rising; within ±30, as the end bins hold all beyond. 0 in an
            empty group.
        positives, negatives: [F, K, C] float64.
        positive_rows, negative_rows, rows: [K] float64, effective ones over all sets.
    """

    centres: Tensor
    positives: Tensor
    negatives: Tensor
    positive_rows: Tensor
    negative_rows: Tensor
    rows: Tensor

    @classmethod
    def of(cls, histograms: Sequence[LabelHistogram]) -> LogitGroups:
        """Group histograms of the same labels and bins; each takes up to 3/C of each class and of the range.

        The place of a bin is the mean of three shares of what lies below: of the positives, of the negatives, and of
        the range of the logits. So neither a rare class nor a far tail ends up in one group.
        """
        num_labels, num_bins = histograms[0].num_labels, histograms[0].num_bins
        num_groups = min(num_bins, max(LEAST_GROUPS, min(GROUPS, GROUP_CELLS // max(1, num_labels))))
        shape = (len(histograms), num_labels, num_groups)
        centres = torch.zeros(shape[1:], dtype=torch.float64)
        positives, negatives = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        weights = [histogram.class_weights() for histogram in histograms]
        sums, squares = (torch.stack(column).sum(0).cpu() for column in zip(*weights, strict=True))
        rows, class_rows = effective(sums.sum(1), squares.sum(1)), effective(sums, squares)
        for part in histograms[0].label_slices(_BYTES_PER_BIN):
            p, n, middle = _summed(histograms, part)
            group = _group_of(p, n, num_groups)
            mass = p + n
            total = _gathered(group, mass, num_groups)
            centres[part] = (_gathered(group, mass * middle, num_groups) / total).nan_to_num().cpu()
            scale = (rows[part].to(p.device) / mass.sum(1).clamp_min(1e-300))[:, None]
            for fold, histogram in enumerate(histograms):
                for counts, bins in ((positives, histogram.positives[part]), (negatives, histogram.negatives[part])):
                    counts[fold, part] = _gathered(group, bins.double() * scale, num_groups).cpu()
        return cls(centres, positives, negatives, class_rows[:, 1], class_rows[:, 0], rows)

    def rows_of_rarer_class(self) -> Tensor:
        """[K] float64: the effective positive rows or negative ones, whichever are fewer."""
        return torch.minimum(self.positive_rows, self.negative_rows)

    def training_counts(self, fold: int | None, part: slice) -> tuple[Tensor, Tensor]:
        """Positives and negatives [k, C] of all sets but `fold`; of all with None."""
        kept = [index for index in range(len(self.positives)) if index != fold]
        return self.positives[kept, part].sum(0), self.negatives[kept, part].sum(0)

    def slices(self) -> Iterator[slice]:
        """Slices of labels whose counts stay in the processor's cache."""
        num_labels, num_groups = self.centres.shape
        step = max(1, SLICE_CELLS // max(1, num_groups))
        for start in range(0, num_labels, step):
            yield slice(start, min(start + step, num_labels))


def _summed(histograms: Sequence[LabelHistogram], part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Positives, negatives and the middle logit of each bin over all histograms, [k, T] float64."""
    first = histograms[0]
    positives, negatives = first.positives[part].double(), first.negatives[part].double()
    least, greatest = first.least[part], first.greatest[part]
    for other in histograms[1:]:
        positives, negatives = positives + other.positives[part], negatives + other.negatives[part]
        least, greatest = torch.minimum(least, other.least[part]), torch.maximum(greatest, other.greatest[part])
    middle = (least.double() + greatest.double()) / 2
    return positives, negatives, torch.where(greatest >= least, middle, 0.0).clamp(-LIMIT, LIMIT)


def _group_of(positives: Tensor, negatives: Tensor, num_groups: int) -> Tensor:
    """[k, T] int64, not falling from bin to bin: the group of each bin."""
    num_bins = positives.shape[1]
    bins = torch.arange(num_bins, device=positives.device)
    if num_bins <= num_groups:
        return bins.expand_as(positives)
    filled = (positives + negatives > 0).to(torch.uint8)
    first, last = filled.argmax(1, keepdim=True), num_bins - 1 - filled.flip(1).argmax(1, keepdim=True)
    place = ((bins - first + 0.5) / (last - first + 1)).clamp(0, 1)
    shares = [(c.cumsum(1) - c / 2) / c.sum(1, keepdim=True).clamp_min(1e-300) for c in (positives, negatives)]
    filled_so_far = (place + shares[0] + shares[1]) / 3
    return (filled_so_far * num_groups).long().clamp_(0, num_groups - 1)


def _gathered(group: Tensor, values: Tensor, num_groups: int) -> Tensor:
    return values.new_zeros(len(values), num_groups).scatter_add_(1, group, values)
