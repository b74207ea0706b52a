"""What a procedure with confidence returns: thresholds, and for labels that cannot the best that they can do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.counting import LIMIT
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.thresholds.cutoffs import NEVER

GRID_BYTES = 256
"""Temporary memory that a grid of cuts and its tests take for each bin."""


class CutGrid(NamedTuple):
    """The cuts of k labels at the W bins that hold rows, [k, W] from the strictest on.

    A cut is the lower edge of its bin, which was fixed before the data. Labels with fewer such bins are padded with
    cuts that are not usable and flag all rows. Bins without rows would only repeat the test of the bin above them.

    Attributes:
        score: [k, W] float32, a decision at the cut is ``score >= this``.
        lower: [k, W] float32, the greatest score that is not flagged, 0 if there is none.
        least: [k, W] float32, the least score of the bin, which is flagged.
        usable: [k, W] bool, True where no row below the bin is flagged.
        positives, flagged: [k, W] float64, sums of weights over the flagged rows.
        bins: [k, W] int64, the bins.
    """

    score: Tensor
    lower: Tensor
    least: Tensor
    usable: Tensor
    positives: Tensor
    flagged: Tensor
    bins: Tensor

    @property
    def tally(self) -> Tally:
        """What each cut decides, [k, W], positives and rows [k, 1]."""
        return Tally.of_cuts(self.positives, self.flagged)


def grid_of(histogram: LabelHistogram, labels: slice) -> CutGrid:
    """Return the grid of a slice of labels.

    Of bins that no float32 score tells apart, the decision at one is that at the laxest; it flags the same rows
    wherever the cut is usable, and every test gives both the same answer.
    """
    least, greatest = histogram.least[labels], histogram.greatest[labels]
    holds_rows = (greatest >= least).flip(1)
    num_bins = histogram.num_bins
    width = max(1, int(holds_rows.sum(1).max()))
    label, place = holds_rows.nonzero(as_tuple=True)
    column = (holds_rows.cumsum(1) - 1)[label, place]
    bins = torch.full((len(least), width), NEVER, device=least.device)
    bins[label, column] = num_bins - 1 - place
    held, at = bins != NEVER, bins.clamp(min=0)
    positives = histogram.positives[labels].gather(1, at).where(held, 0.0)
    negatives = histogram.negatives[labels].gather(1, at).where(held, 0.0)
    least_score = scores_of(least.gather(1, at).where(held, 0.0))
    greatest_score = scores_of(greatest.gather(1, at).where(held, 0.0)).where(held, 0.0)
    # float32 may put a logit a hair below an edge into the bin above it.
    score = scores_of(at * (2 * LIMIT / num_bins) - LIMIT).minimum(least_score).where(at > 0, 0.0)
    lower = torch.cat([greatest_score[:, 1:], torch.zeros_like(score[:, :1])], 1)
    last = torch.cat([~held[:, 1:], torch.ones_like(held[:, :1])], 1)
    return CutGrid(
        score=score,
        lower=lower,
        least=least_score,
        usable=held & (last | (score > lower)),
        positives=positives.cumsum(1),
        flagged=(positives + negatives).cumsum(1),
        bins=bins,
    )


def last_reached(usable: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
    """Return [k] int64, the laxest usable cut that one of the sequences certifies, NEVER where there is none.

    Args:
        usable: [k, W] bool.
        starts, stops: [k, J] int64, where each sequence starts and fails; it certifies the cuts from the one to before
            the other.
    """
    place = torch.arange(usable.shape[1], device=usable.device)
    last_usable = place.expand_as(usable).where(usable, NEVER).cummax(1).values
    last = last_usable.gather(1, (stops - 1).clamp(min=0))
    return last.where((stops > starts) & (last >= starts), NEVER).amax(1)
