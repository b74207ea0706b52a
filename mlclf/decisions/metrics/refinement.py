"""A second pass for AUROC and average precision: finer bins where the error of the first could be too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.histograms.bins import row_slices
from mlclf.decisions.histograms.counting import bin_of
from mlclf.decisions.histograms.filled_bins import FilledBins, filled_bins
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc_steps
from mlclf.decisions.metrics.average_precision import Ranking, average_precision_steps, ranking
from mlclf.decisions.metrics.bin_splits import SAME, TOLERANCE, Ranges, ranges_of, split_bins
from mlclf.decisions.metrics.binned_metric import Bounded
from mlclf.errors import DataError


def labels_above(source: LabelHistogram | Refinement, tolerance: float = TOLERANCE) -> list[int]:
    """Return the labels with an interval, of AUROC or of average precision, that is wider than the tolerance."""
    (_, areas), (_, precisions) = source.ranking() if isinstance(source, Refinement) else ranking(source)
    above = 2 * torch.maximum(areas, precisions) > tolerance  # NaN, of one class, is not above
    return [int(label) for label in above.nonzero()[:, 0]]


BUDGET_BYTES = 256 << 20
MOST_PASSES = 8
_BYTES_PER_PART = 24


class Refinement(Metric):
    """Bins of a histogram that matter too much, split into equal parts of the range of their logits.

    Its answers are those of the histogram with each split bin replaced by its parts. It is filled by the rows that the
    histogram has counted, all of them and in any order. A split bin has at least its least and its greatest logit in
    different parts, so refining again and again ends with exact values; that is seldom needed more than twice.

    States, merged over ranks by sum, min or max (`sync`); S parts, and what is in none:
        counts: [2, S + 1] float64, sums of weights of negatives and positives.
        least, greatest: [S + 1]; +inf and -inf in an empty part.
    """

    full_state_update = False
    counts: Tensor
    least: Tensor
    greatest: Tensor

    def __init__(self, source: LabelHistogram | Refinement, ranges: Ranges) -> None:
        """See `needed`."""
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.source = source
        self.histogram: LabelHistogram = source.histogram if isinstance(source, Refinement) else source
        self.ranges = ranges
        for name, reduction in (("counts", "sum"), ("least", "min"), ("greatest", "max")):
            self.add_state(name, torch.empty(0), dist_reduce_fx=reduction)
        self._origin = _and_none(ranges.least)
        self._scale = _and_none(ranges.parts / (ranges.greatest.double() - ranges.least.double()))
        self._last = _and_none(ranges.parts - 1)
        self._range_in = torch.full((self.histogram.num_bins,), self.num_ranges, device=ranges.least.device)
        self.to(ranges.least.device)
        self._clear_parts()

    def _clear_parts(self) -> None:
        size, device = self.num_parts + 1, self.ranges.least.device
        self.counts = torch.zeros((2, size), dtype=torch.float64, device=device)
        self.least = torch.full((size,), torch.inf, dtype=self.histogram.ends_dtype, device=device)
        self.greatest = torch.full((size,), -torch.inf, dtype=self.histogram.ends_dtype, device=device)

    @property
    def num_parts(self) -> int:
        """S, the parts of all split bins."""
        return int(self.ranges.first[-1])

    @property
    def num_ranges(self) -> int:
        """R, the split bins."""
        return len(self.ranges.parts)

    @classmethod
    def needed(
        cls, source: LabelHistogram | Refinement, tolerance: float = TOLERANCE, budget_bytes: int = BUDGET_BYTES
    ) -> Refinement | None:
        """Return an empty refinement of a filled histogram, or of a filled refinement; None where none is needed.

        Args:
            source: what has counted all rows.
            tolerance: the most that the ends of a label's interval may be apart (twice its bound), above 0.
            budget_bytes: of the parts; with less than the tolerance needs, another pass does.

        Raises:
            ValueError: `tolerance` is not above 0.
            DataError: The rows given to `source`, a refinement, were not those of its histogram.
        """
        if not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance}")
        wide = labels_above(source, tolerance)
        if not wide:
            return None
        most_parts = max(2, (budget_bytes // _BYTES_PER_PART - 1) // len(wide))
        histogram = source.histogram if isinstance(source, Refinement) else source
        found = {
            label: split_bins(bins_of(source, label), histogram.least_weight, tolerance, most_parts) for label in wide
        }
        return cls(source, ranges_of(found, histogram.num_labels))

    def reset(self) -> None:
        """Empty the parts, to count the rows again."""
        super().reset()
        self._clear_parts()

    def update(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Count a batch of the rows that the histogram has counted; the arguments are those of its `update`."""
        if weights is not None:
            seen = weights > 0
            mask = seen.view(len(logits), -1).expand(logits.shape) if mask is None else mask & seen.view(len(mask), -1)
            weights = weights.double().view(len(logits), -1).expand(logits.shape)
        wide = (self.ranges.starts.diff() > 0).nonzero()[:, 0].tolist()
        for rows in row_slices(len(logits), len(wide)):
            for label in wide:
                self._count(
                    label,
                    logits[rows, label].to(self.histogram.ends_dtype).contiguous(),
                    labels[rows, label] != 0,
                    None if mask is None else mask[rows, label],
                    None if weights is None else weights[rows, label],
                )

    def _count(self, label: int, logits: Tensor, positive: Tensor, seen: Tensor | None, weights: Tensor | None) -> None:
        part = self._parts_of(label, logits)
        if seen is not None:
            part = part.where(seen, self.num_parts)
        mass = logits.new_ones(len(part), dtype=torch.float64) if weights is None else weights
        self.least.scatter_reduce_(0, part, logits, "amin")
        self.greatest.scatter_reduce_(0, part, logits, "amax")
        self.counts.view(-1).scatter_add_(0, part.add_(positive, alpha=self.num_parts + 1), mass)

    def _parts_of(self, label: int, logits: Tensor) -> Tensor:
        """[n] int64: the part that each logit of a label falls into, S where it is in no split bin."""
        index = self._range_of(self.ranges.of(label), logits)
        origin, scale, last, first = (
            column.index_select(0, index)  # several times faster than column[index]
            for column in (self._origin, self._scale, self._last, self.ranges.first)
        )
        part = (logits.double() - origin).mul_(scale).long()
        return torch.minimum(part.clamp_(min=0), last).add_(first)

    def _range_of(self, within: slice, logits: Tensor) -> Tensor:
        """[n] int64: the range that each logit falls into, of those of its label; R for none."""
        starts, none = self.ranges.least[within], self.num_ranges
        if isinstance(self.source, LabelHistogram):  # whole bins are split
            own = bin_of(starts, self.histogram.num_bins)
            self._range_in.index_copy_(0, own, torch.arange(within.start, within.stop, device=own.device))
            index: Tensor = self._range_in.index_select(0, bin_of(logits, self.histogram.num_bins))
            self._range_in.index_fill_(0, own, none)
            return index
        index = torch.searchsorted(starts, logits, right=True) + (within.start - 1)
        outside = (index < within.start) | (logits > self.ranges.greatest[index.clamp_(min=within.start)])
        return index.masked_fill_(outside, none)

    def ranking(self) -> Ranking:
        """Return values and bounds of AUROC and of average precision, as `ranking.auroc` does, each [K] float64.

        Raises:
            DataError: The rows given were not those of the histogram.
        """
        areas, precisions = ranking(self.histogram)
        for label in self.split_labels():
            bins = self.filled(label)
            found = auroc_steps(bins), average_precision_steps(bins, self.histogram.least_weight)
            for (values, bounds), steps in zip((areas, precisions), found, strict=True):
                values[[label]], bounds[[label]] = steps.totals()
        return areas, precisions

    def auroc(self) -> Bounded:
        """Return values and bounds of AUROC; see `ranking`."""
        return self.ranking()[0]

    def average_precision(self) -> Bounded:
        """Return values and bounds of average precision; see `ranking`."""
        return self.ranking()[1]

    def compute(self) -> Ranking:
        """Return `ranking`; but torchmetrics drops the axis of a single label from what `compute` returns."""
        return self.ranking()

    def split_labels(self) -> list[int]:
        """The labels that were split, here or in what this refines."""
        own = (self.ranges.starts.diff() > 0).nonzero()[:, 0].tolist()
        return sorted({*own, *self.source.split_labels()}) if isinstance(self.source, Refinement) else own

    def filled(self, label: int) -> FilledBins:
        """The bins of a label, [1, t], with those that were split in parts.

        Raises:
            DataError: The rows given were not those of the histogram.
        """
        bins, within = bins_of(self.source, label), self.ranges.of(label)
        if within.start == within.stop:
            return bins
        self._check_same(label, within)
        starts, ends = self.ranges.least[within], self.ranges.greatest[within]
        range_of = torch.searchsorted(starts, bins.least[0], right=True) - 1
        whole = (range_of < 0) | (bins.least[0] > ends[range_of.clamp(min=0)])
        parts = slice(int(self.ranges.first[within.start]), int(self.ranges.first[within.stop]))
        least, greatest = self.least[parts], self.greatest[parts]
        held = greatest >= least
        inner = (self.counts[1, parts][held], self.counts[0, parts][held], least[held], greatest[held])
        joined = [torch.cat([outer[0, whole], part]) for outer, part in zip(bins, inner, strict=True)]
        order = joined[2].argsort()
        return FilledBins(*(column[order][None] for column in joined))

    def _check_same(self, label: int, within: slice) -> None:
        first = self.ranges.first[within.start : within.stop + 1]
        low, high = self.least[first[:-1]], self.greatest[first[1:] - 1]
        for logits, wrong in ((low, low < self.ranges.least[within]), (high, high > self.ranges.greatest[within])):
            if bool(wrong.any()):
                raise DataError(
                    f"the second pass must see the rows of the first, where label {label} had no logit of "
                    f"{float(logits[wrong][0])!r}; score the same data with the same model"
                )
        span = slice(int(first[0]), int(first[-1]))
        range_of = torch.repeat_interleave(self.ranges.parts[within])
        for name, row, want in (("positive", 1, self.ranges.positives), ("negative", 0, self.ranges.negatives)):
            expected = want[within]
            got = torch.zeros_like(expected).index_add_(0, range_of, self.counts[row, span])
            wrong = (got - expected).abs() > SAME * expected
            if bool(wrong.any()):
                index = int(wrong.nonzero()[0])
                where = within.start + index
                raise DataError(
                    "the second pass must see the rows of the first: the weights of the "
                    f"{name} rows of label {label} with logits from {float(self.ranges.least[where])!r} to "
                    f"{float(self.ranges.greatest[where])!r} must sum to {float(expected[index])!r}, "
                    f"got {float(got[index])!r}; score the same data with the same model"
                )


def refined(
    histogram: LabelHistogram,
    passes: Callable[[], Iterable[Cells]],
    tolerance: float = TOLERANCE,
    budget_bytes: int = BUDGET_BYTES,
    most_passes: int = MOST_PASSES,
) -> LabelHistogram | Refinement:
    """Refine a histogram until no label's interval is wider than `tolerance`; each refinement is one more pass.

    Args:
        histogram: that has counted all rows.
        passes: called for each pass; must return all the rows again.
        tolerance, budget_bytes: see `Refinement.needed`.
        most_passes: after which it stops, whatever is still wide.

    Raises:
        DataError: A pass had other rows.
    """
    found: LabelHistogram | Refinement = histogram
    for _ in range(most_passes):
        step = Refinement.needed(found, tolerance, budget_bytes)
        if step is None:
            break
        for cells in passes():
            step.update(cells.logits, cells.labels, cells.mask, cells.cell_weights())
        found = step
    return found


def _and_none(values: Tensor) -> Tensor:
    """Values of ranges [R] and a 0 for what is in none: [R + 1]."""
    return torch.cat([values, values.new_zeros(1)])


def bins_of(counted: LabelHistogram | Refinement, label: int) -> FilledBins:
    """Return the bins of a label, [1, t], in parts where they were split; errors are those of `Refinement.filled`."""
    return counted.filled(label) if isinstance(counted, Refinement) else filled_bins(counted, slice(label, label + 1))
