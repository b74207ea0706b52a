"""Thresholds that hold a constraint with confidence, from rows that were used for nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.guarantees.binomial import least_successes, log_upper_tail, share_below, upper_tail_within
from mlclf.decisions.guarantees.certified import (
    Bests,
    Certified,
    Entries,
    best_at,
    certified_of,
    checked_constraint,
    entries_of,
)
from mlclf.decisions.guarantees.cut_grid import GRID_BYTES, CutGrid, grid_of, last_reached
from mlclf.decisions.guarantees.fixed_sequences import reached, start_counts, starts_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.constraints import Constraint
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.thresholds.cutoffs import NEVER, first_of, last_of
from mlclf.errors import ConfigError

METHOD = "binomial"


def certified(
    histogram: LabelHistogram,
    objective: Objective,
    confidence: float,
    across_labels: str | None = None,
) -> Certified:
    """Choose for each label a threshold at which the constraint holds: P(attained and violated) ≤ 1 - confidence.

    The rows must be independent draws of what the thresholds will meet, of weight 1, and nothing else may have been
    chosen or fitted on them. Weighted and clustered rows are for `BettingConstraints`.

    `precision:p` takes the certified cut with the largest recall. It runs Learn-then-Test over the edges of the bins
    with several starts (`sequences`), the p-value of a cut that flags n rows with k positives being P(Bin(n, p) ≥ k):
    given how many rows a cut flags, their positives are binomial. `recall:r` takes the strictest certified cut and
    `fpr:a` the laxest. Both are monotone in the cut and are about one number of rows, the positives or the negatives,
    so one sequence with the whole level does: P(Bin(P, r) ≥ k) and P(Bin(N, a) ≤ k).

    Args:
        histogram: counts of unweighted rows.
        objective: `precision:p`, `recall:r` or `fpr:a`.
        confidence: in (0, 1), for each label by itself.
        across_labels: `fdr` = the expected share of violated labels among the attained ones is at most 1 - confidence,
            whatever the dependence between labels: R labels are tested at (1 - confidence) R / (K (1 + ½ + … + 1/K)),
            with the greatest R of which as many labels attain (Benjamini and Yekutieli 2001). It holds because the
            least level at which a label's procedure rejects a true null is a valid p-value.

    Returns:
        Thresholds with method `binomial`, and the best of labels that cannot.

    Raises:
        ConfigError: The objective is not a constraint, the confidence or `across_labels` is out of range, or the
            histogram holds weighted rows.
    """
    constraint = checked_constraint(objective, confidence, across_labels)
    _check_counts(histogram)
    positives, rows = histogram.positive_rows, histogram.rows
    measured = constraint.measured(positives, rows - positives)
    testable = measured > 0
    level = 1 - confidence
    tests = (_SeveralStarts if constraint.follows_cut else _OneSequence)(constraint, measured, level)
    if across_labels == "fdr":
        slices = histogram.label_slices(GRID_BYTES)
        least = torch.cat([tests.least_levels(grid_of(histogram, part), part) for part in slices])
        level = shared_level(least[testable], level, dependent=True)
    entries, bests = [], []
    for part in histogram.label_slices(GRID_BYTES):
        grid = grid_of(histogram, part)
        greatest = scores_of(histogram.greatest[part].amax(1))
        entries.append(entries_of(grid, tests.chosen(grid, part, level), constraint, greatest))
        bests.append(tests.bests(grid, part, level, ~entries[-1].attained))
    all_entries = Entries(*(torch.cat(column) for column in zip(*entries, strict=True)))
    all_bests = Bests(*(torch.cat(column) for column in zip(*bests, strict=True)))
    return certified_of(all_entries, all_bests, testable, positives, constraint, confidence, METHOD)


def shared_level(least_levels: Tensor, level: float, dependent: bool) -> float:
    """Return the level at which each of K labels is tested so that the false discovery rate is at most `level`.

    Args:
        least_levels: [K] float64, the least level at which each label attains.
        level: in (0, 1).
        dependent: True = divided by 1 + ½ + … + 1/K for p-values of any dependence (Benjamini and Yekutieli 2001);
            False for e-values, which need no such factor (Wang and Ramdas 2022).

    Returns:
        level × R ÷ (K × factor) for the greatest R of which as many labels attain; R = 1 where there is none.
    """
    count = len(least_levels)
    if count == 0:
        return level
    ranks = torch.arange(1, count + 1, dtype=torch.float64, device=least_levels.device)
    factor = float((1 / ranks).sum()) if dependent else 1.0
    attained = (least_levels.sort().values <= level * ranks / (count * factor)).nonzero()
    return level * (int(attained[-1]) + 1 if len(attained) else 1) / (count * factor)


class _SeveralStarts:
    """Binomial tests of a constraint on the flagged rows: sequences from several starts; see `fixed_sequences`."""

    def __init__(self, constraint: Constraint, measured: Tensor, level: float) -> None:
        self.share = constraint.share
        starts = {count: start_counts(count, level, -math.log(self.share)) for count in set(measured.tolist())}
        counts = [starts[count] for count in measured.tolist()]
        most = max(map(len, counts), default=1)
        # Fewer starts than others have: the last once more, which changes nothing.
        padded = [own + own[-1:] * (most - len(own)) for own in counts]
        self.counts = torch.tensor(padded, dtype=torch.float64, device=measured.device)
        self.num_starts = torch.tensor([len(own) for own in counts], dtype=torch.float64, device=measured.device)

    def chosen(self, grid: CutGrid, labels: slice, level: float) -> Tensor:
        """Return [k] int64, the cuts that are certified, NEVER where there is none."""
        starts = starts_of(grid.flagged, self.counts[labels])
        levels = (level / self.num_starts[labels])[:, None]
        passed = upper_tail_within(grid.positives, grid.flagged, self.share, levels)
        return last_reached(grid.usable, starts, reached(passed, starts))

    def bests(self, grid: CutGrid, labels: slice, level: float, wanted: Tensor) -> Bests:
        """Return the starts with the greatest bounds, for the labels that want one, [k] bool.

        The bounds of all J starts hold together, each having 1/J of the level.
        """
        starts = starts_of(grid.flagged, self.counts[labels])
        starts = torch.searchsorted(grid.flagged, grid.flagged.gather(1, starts))
        usable, flagged = grid.usable.gather(1, starts), grid.flagged.gather(1, starts)
        positives = grid.positives.gather(1, starts).where(usable, 0.0)
        levels = (level / self.num_starts[labels])[:, None].expand_as(positives)
        bounds = torch.zeros_like(positives)
        bounds[wanted] = share_below(positives[wanted], flagged[wanted], levels[wanted])
        bound, place = bounds.max(1)
        return best_at(grid, starts.gather(1, place[:, None])[:, 0].where(bound > 0, NEVER), bound)

    def least_levels(self, grid: CutGrid, labels: slice) -> Tensor:
        """Return [k] float64, the least level at which each label attains."""
        starts = starts_of(grid.flagged, self.counts[labels])
        tails = log_upper_tail(grid.positives.gather(1, starts), grid.flagged.gather(1, starts), self.share)
        return tails.amin(1).exp() * self.num_starts[labels]


class _OneSequence:
    """Binomial tests of a constraint on the same rows at every cut: one sequence, from the cut that keeps it for sure.

    It ends at the strictest of the cuts with enough successes, or at the laxest, whichever is the farther end.
    """

    def __init__(self, constraint: Constraint, measured: Tensor, level: float) -> None:
        self.constraint, self.measured = constraint, measured
        self.farthest, self.nearest = (first_of, last_of) if constraint.holds_at_lax_cuts else (last_of, first_of)

    def chosen(self, grid: CutGrid, labels: slice, level: float) -> Tensor:
        """Return [k] int64, the cuts that are certified, NEVER where there is none."""
        needed = least_successes(self.measured[labels], self.constraint.success_share, level)
        return self.farthest(grid.usable & (self.constraint.successes(grid.tally) >= needed[:, None]))

    def bests(self, grid: CutGrid, labels: slice, level: float, wanted: Tensor) -> Bests:
        """Return what could be certified where nothing is missed: targets that depend on the number of rows alone."""
        measured = self.measured[labels].double()
        perfect = grid.usable & (self.constraint.successes(grid.tally) == measured[:, None])
        return best_at(grid, self.farthest(perfect), self.constraint.bound(level ** (1 / measured)))

    def least_levels(self, grid: CutGrid, labels: slice) -> Tensor:
        """Return [k] float64, the least level at which each label attains."""
        measured = self.measured[labels].double()
        nearest = self.nearest(grid.usable).clamp(min=0)[:, None]
        successes = self.constraint.successes(grid.tally).gather(1, nearest)[:, 0]
        return log_upper_tail(successes, measured, self.constraint.success_share).exp()


def _check_counts(histogram: LabelHistogram) -> None:
    for labels in histogram.label_slices(GRID_BYTES):
        positives, negatives = histogram.positives[labels], histogram.negatives[labels]
        whole = bool(((positives == positives.round()) & (negatives == negatives.round())).all())
        same = bool((positives.sum(1) == histogram.positive_rows[labels]).all())
        if not (whole and same and bool(((positives.sum(1) + negatives.sum(1)) == histogram.rows[labels]).all())):
            raise ConfigError(
                "certified thresholds must come from rows of weight 1, got a histogram of weighted rows; "
                "use BettingConstraints for weighted or clustered rows"
            )
