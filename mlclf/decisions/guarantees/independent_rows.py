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
    check_request,
    entries_of,
)
from mlclf.decisions.guarantees.cut_grid import GRID_BYTES, CutGrid, first_of, grid_of, last_of, last_reached
from mlclf.decisions.guarantees.fixed_sequences import reached, start_counts, starts_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.thresholds.objectives import Objective
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
    share = check_request(objective, confidence, across_labels)
    _check_counts(histogram)
    positives, rows = histogram.positive_rows, histogram.rows
    measured = {"precision": rows, "recall": positives, "fpr": rows - positives}[objective.name]
    testable = measured > 0
    level = 1 - confidence
    procedure = _Procedure(objective.name, share, measured, 1 - confidence)
    if across_labels == "fdr":
        slices = histogram.label_slices(GRID_BYTES)
        least = torch.cat([procedure.least_levels(grid_of(histogram, part), part) for part in slices])
        level = shared_level(least[testable], level, dependent=True)
    procedure.set_level(level)
    entries, bests = [], []
    for part in histogram.label_slices(GRID_BYTES):
        grid = grid_of(histogram, part)
        greatest = scores_of(histogram.greatest[part].amax(1))
        entries.append(entries_of(grid, procedure.chosen(grid, part), objective, greatest))
        bests.append(procedure.bests(grid, part))
    all_entries = Entries(*(torch.cat(column) for column in zip(*entries, strict=True)))
    all_bests = Bests(*(torch.cat(column) for column in zip(*bests, strict=True)))
    if objective.name == "precision":
        all_bests = procedure.best_start(all_bests, ~all_entries.attained)
    return certified_of(all_entries, all_bests, testable, positives, objective, confidence, METHOD)


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


class _Procedure:
    """The tests of one constraint: which starts, which cuts are certified, which one is chosen."""

    def __init__(self, name: str, share: float, measured: Tensor, level: float) -> None:
        self.name, self.share, self.measured, self.level = name, share, measured, level
        counts = {count: start_counts(count, level, -math.log(share)) for count in set(measured.tolist())}
        most = max(map(len, counts.values()), default=1)
        # Fewer starts than others have: the last once more, which changes nothing.
        rows = [counts[count] + counts[count][-1:] * (most - len(counts[count])) for count in measured.tolist()]
        self.counts = torch.tensor(rows, dtype=torch.float64, device=measured.device)
        lengths = [len(counts[count]) for count in measured.tolist()]
        self.num_starts = torch.tensor(lengths, dtype=torch.float64, device=measured.device)

    def set_level(self, level: float) -> None:
        """Set the level of each label, and how many positives or negatives a cut needs then."""
        self.level = level
        if self.name == "recall":
            self.needed = least_successes(self.measured, self.share, level)
        elif self.name == "fpr":
            self.needed = least_successes(self.measured, 1 - self.share, level)

    def chosen(self, grid: CutGrid, labels: slice) -> Tensor:
        """Return [k] int64, the cuts that are certified, NEVER where there is none."""
        if self.name == "precision":
            starts = starts_of(grid.flagged, self.counts[labels])
            level = (self.level / self.num_starts[labels])[:, None]
            passed = upper_tail_within(grid.positives, grid.flagged, self.share, level)
            return last_reached(grid.usable, starts, reached(passed, starts))
        needed = self.needed[labels, None]
        if self.name == "recall":
            return first_of(grid.usable & (grid.positives >= needed))
        kept_negatives = self.measured[labels, None] - (grid.flagged - grid.positives)
        return last_of(grid.usable & (kept_negatives >= needed))

    def bests(self, grid: CutGrid, labels: slice) -> Bests:
        """Return the bests of k labels; for precision [k, J] candidates, the bounds still numbers of positives.

        For recall and fpr a label without a cut would have one at α^(1/n), or 1 - α^(1/n), where nothing is missed:
        targets that depend on the number of rows alone.
        """
        measured = self.measured[labels].double()
        if self.name == "precision":
            starts = starts_of(grid.flagged, self.counts[labels])
            starts = torch.searchsorted(grid.flagged, grid.flagged.gather(1, starts))
            usable, score = grid.usable.gather(1, starts), grid.score.gather(1, starts)
            positives = grid.positives.gather(1, starts).where(usable, 0.0)
            return Bests(positives, score, grid.flagged.gather(1, starts))
        bound = self.level ** (1 / measured)
        if self.name == "recall":
            return best_at(grid, first_of(grid.usable & (grid.positives == measured[:, None])), bound)
        return best_at(grid, last_of(grid.usable & (grid.flagged == grid.positives)), 1 - bound)

    def best_start(self, candidates: Bests, wanted: Tensor) -> Bests:
        """Return of [K, J] candidates the one with the greatest bound, for the labels that want one.

        The bounds of all J starts hold together, each having 1/J of the level.
        """
        level = (self.level / self.num_starts)[:, None].expand_as(candidates.bound)
        bounds = torch.zeros_like(candidates.bound)
        bounds[wanted] = share_below(candidates.bound[wanted], candidates.flagged[wanted], level[wanted])
        bound, place = bounds.max(1)
        some = bound > 0
        threshold = candidates.threshold.gather(1, place[:, None])[:, 0].where(some, torch.nan)
        return Bests(bound, threshold, candidates.flagged.gather(1, place[:, None])[:, 0].where(some, 0.0))

    def least_levels(self, grid: CutGrid, labels: slice) -> Tensor:
        """Return [k] float64, the least level at which each label attains."""
        measured = self.measured[labels].double()
        if self.name == "precision":
            starts = starts_of(grid.flagged, self.counts[labels])
            tails = log_upper_tail(grid.positives.gather(1, starts), grid.flagged.gather(1, starts), self.share)
            return tails.amin(1).exp() * self.num_starts[labels]
        if self.name == "recall":
            return self.share**measured
        strictest = first_of(grid.usable).clamp(min=0)[:, None]
        false = (grid.flagged - grid.positives).gather(1, strictest)[:, 0]
        return log_upper_tail(measured - false, measured, 1 - self.share).exp()


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
