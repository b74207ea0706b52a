"""Thresholds that hold a constraint with confidence, from weighted or clustered rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.guarantees.betting import (
    BYTES_PER_CUT,
    LARGEST_STAKE,
    NUM_STAKES,
    RowWealth,
    Wealth,
    greatest_loss,
)
from mlclf.decisions.guarantees.certified import (
    Bests,
    Certified,
    Entries,
    best_at,
    certified_of,
    checked_constraint,
    entries_of,
)
from mlclf.decisions.guarantees.clusters import PLACE_BITS, ClusterWealth
from mlclf.decisions.guarantees.cut_grid import CutGrid, grid_of, last_reached
from mlclf.decisions.guarantees.fixed_sequences import reached, reached_with_carry, start_counts, starts_of
from mlclf.decisions.guarantees.independent_rows import shared_level
from mlclf.decisions.histograms.bins import row_slices
from mlclf.decisions.histograms.counting import bin_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.constraints import Constraint
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.thresholds.cutoffs import NEVER, first_of, last_of
from mlclf.errors import DataError

METHOD = "betting"
_FEWEST_CUTS, _MOST_CUTS = 64, 1 << PLACE_BITS
_HEAD_START, _RATIO = 3, 1.5
"""Sequences start at three times the fewest rows that could do: bets grow slowly where not all of them are right."""

_SLICE_BYTES_PER_CUT = 64 * NUM_STAKES


def cuts_for(num_labels: int, budget_bytes: int = 64 << 20) -> int:
    """Return how many cuts a label gets: 4,096, halved until all labels fit the budget, never below 64."""
    num_cuts = _MOST_CUTS
    while num_cuts > _FEWEST_CUTS and num_labels * num_cuts * BYTES_PER_CUT > budget_bytes:
        num_cuts //= 2
    return num_cuts


class BettingConstraints:
    """Thresholds at which a constraint on weighted or clustered rows holds: P(attained and violated) ≤ 1 - confidence.

    What is constrained is the weighted precision Σ w y ÷ Σ w over the flagged cells of the population that the rows,
    or the clusters, are independent draws of (recall and the false-positive rate likewise). With weights 1 ÷ sampling
    rate of an audit that is the unweighted precision of what was sampled from.

    The rows must be used for nothing else. The test of each cut is a bet (`wealth`, Waudby-Smith and Ramdas 2023) over
    a mixture of stakes that is fixed before the data; the cuts are the edges of T bins of the logit, tested in
    sequences that start at counts of flagged rows and hand their level on (`sequences`).

    With `clustered`, rows of one identity are one observation, wherever they are in the stream. A sequence that starts
    at a count is then sound if clusters with a row above a cut that holds the constraint do no worse below it than
    others; without clusters nothing of the kind is assumed.

    Memory: about 160 bytes for each label and cut, and with clusters `memory_bytes` more. Time: a few logarithms for
    each cell.

    Args:
        objective: `precision:p`, `recall:r` or `fpr:a`.
        num_labels: K.
        clustered: True = identities are clusters; False = every row is independent, and identities are not looked at.
        greatest_weight: for independent rows, what no weight of a cell exceeds; bets are smaller the larger it is.
        num_cuts: T, a power of two up to 4,096; None = `cuts_for`.
        memory_bytes: for the sums of clusters.
        device: where the state lives.

    Raises:
        ConfigError: The objective is not a constraint.
    """

    def __init__(
        self,
        objective: Objective,
        num_labels: int,
        *,
        clustered: bool = False,
        greatest_weight: float = 1.0,
        num_cuts: int | None = None,
        memory_bytes: int = 256 << 20,
        device: torch.device | str = "cpu",
    ) -> None:
        self.constraint = checked_constraint(objective, 0.5, None)
        self.clustered, self.greatest_weight = clustered, greatest_weight
        self.histogram = LabelHistogram(num_labels, num_cuts or cuts_for(num_labels)).to(device)
        size = (num_labels, self.histogram.num_bins)
        device = self.histogram.rows.device
        self.observations: RowWealth | ClusterWealth
        if clustered:
            self.observations = ClusterWealth(self.constraint, *size, memory_bytes, device)
        else:
            self.observations = RowWealth(self.constraint, *size, greatest_weight, device)

    def update(self, cells: Cells) -> None:
        """Count a batch.

        Raises:
            DataError: A logit or a weight is not finite, a weight is negative or above `greatest_weight`, or the
                clusters do not fit the memory. Nothing is counted then, except in the last case.
        """
        weights = cells.cell_weights()
        if weights is not None and not self.clustered and bool((weights > self.greatest_weight).any()):
            raise DataError(
                f"weights must be at most greatest_weight = {self.greatest_weight!r}, got {float(weights.max())!r}; "
                "give the greatest weight that any row can have"
            )
        self.histogram.update(cells.logits, cells.labels, cells.mask, weights)
        for rows in row_slices(*cells.logits.shape):
            kept = torch.zeros(len(cells), dtype=torch.bool, device=cells.logits.device)
            kept[rows] = True
            self._count(cells.where(kept))

    def _count(self, cells: Cells) -> None:
        z, y = cells.logits.float().t(), cells.labels.t() != 0
        weights = cells.cell_weights()
        mass = torch.ones_like(z, dtype=torch.float64)
        if weights is not None:
            mass = mass * (weights.t() if weights.ndim == 2 else weights)
        if cells.mask is not None:
            mass = mass * cells.mask.t()
        num_bins = self.histogram.num_bins
        bins = bin_of(z, num_bins).masked_fill(mass == 0, 0)
        self.observations.update(num_bins - 1 - bins, mass * y, mass * ~y, cells.identities)

    def merge(self, other: BettingConstraints) -> None:
        """Add what another one of the same settings has counted.

        Raises:
            ValueError: The settings differ.
            DataError: The clusters do not fit the memory.
        """
        mine, theirs = self._settings(), other._settings()
        if mine != theirs:
            raise ValueError(f"constraints must have the same settings to be merged, got {mine} and {theirs}")
        self.histogram.merge(other.histogram)
        self.observations.merge(other.observations)  # type: ignore[arg-type]  # the same settings make the same kind

    def _settings(self) -> tuple[str, int, int, bool, float]:
        histogram = self.histogram
        return str(self.constraint), histogram.num_labels, histogram.num_bins, self.clustered, self.greatest_weight

    def certified(self, confidence: float, across_labels: str | None = None) -> Certified:
        """Choose the thresholds, as `constraints.certified` does.

        Args:
            confidence: in (0, 1), for each label by itself.
            across_labels: `fdr` = the expected share of violated labels among the attained ones is at most
                1 - confidence, whatever the dependence between labels: R of K labels are tested at
                (1 - confidence) R/K, as wealth is an e-value (Wang and Ramdas 2022).

        Returns:
            Thresholds with method `betting`, each for a population without observations above `heaviest`. The best of a
            label that cannot is, for precision, Hoeffding's (1963) lower bound at one of the starts; for recall and fpr
            there is none.

        Raises:
            ConfigError: The confidence or `across_labels` is out of range.
        """
        checked_constraint(self.constraint, confidence, across_labels)
        histogram = self.histogram
        positives, rows = histogram.positive_rows, histogram.rows
        measured = self.constraint.measured(positives, rows - positives)
        level = 1 - confidence
        if across_labels == "fdr":
            parts = histogram.label_slices(_SLICE_BYTES_PER_CUT)
            least = torch.cat([self._tests(part, level).least_levels() for part in parts])
            level = shared_level(least[measured > 0], level, dependent=False)
        entries, bests, heaviest = [], [], []
        for part in histogram.label_slices(_SLICE_BYTES_PER_CUT):
            tests = self._tests(part, 1 - confidence)
            greatest, chosen = scores_of(histogram.greatest[part].amax(1)), tests.chosen(level)
            entries.append(entries_of(tests.grid, chosen, self.constraint, greatest))
            best = tests.best(level)
            bests.append(best_at(tests.grid, *best))
            told = chosen.where(chosen != NEVER, best[0]).clamp(min=0)
            heaviest.append(tests.wealth.heaviest.gather(1, told[:, None])[:, 0])
        all_entries = Entries(*(torch.cat(column) for column in zip(*entries, strict=True)))
        all_bests = Bests(*(torch.cat(column) for column in zip(*bests, strict=True)))
        found = certified_of(all_entries, all_bests, measured > 0, positives, self.constraint, confidence, METHOD)
        return replace(found, heaviest=torch.cat(heaviest).cpu())

    def _tests(self, labels: slice, level: float) -> _Tests:
        grid = grid_of(self.histogram, labels)
        return _Tests(self.constraint, grid, self.observations.wealth(labels, level), self.histogram.num_bins, level)


class _Tests:
    """The tests of k labels at the cuts of a grid, and the starts that the level of a label by itself gives."""

    def __init__(self, constraint: Constraint, grid: CutGrid, wealth: Wealth, num_bins: int, level: float) -> None:
        self.constraint, self.grid = constraint, grid
        last = wealth.flagged.shape[1] - 1
        places = (num_bins - 1 - grid.bins).where(grid.bins != NEVER, last)
        self.wealth = Wealth(*(part.gather(1, places) for part in wealth))
        growth = math.log1p(LARGEST_STAKE * (1 - constraint.share) / greatest_loss(constraint))
        totals = wealth.flagged[:, -1].long().tolist()
        counts = [start_counts(total, level, growth / _HEAD_START, _RATIO) for total in totals]
        most = max(map(len, counts))
        device = grid.flagged.device
        padded = [row + row[-1:] * (most - len(row)) for row in counts]
        self.num_starts = torch.tensor([len(row) for row in counts], dtype=torch.float64, device=device)
        self.starts = starts_of(self.wealth.flagged, torch.tensor(padded, dtype=torch.float64, device=device))
        self.padding = torch.arange(most, device=device) >= self.num_starts[:, None]

    def chosen(self, level: float) -> Tensor:
        """Return [k] int64, the cuts that are certified, NEVER where there is none."""
        log_wealth, usable = self.wealth.log_wealth, self.grid.usable
        if self.constraint.follows_cut:
            starts = self.starts.where(~self.padding, usable.shape[1])
            stops = reached_with_carry(log_wealth, starts, (self.num_starts / level).log())
            return last_reached(usable, starts, stops)
        passed = log_wealth >= -math.log(level)
        start = torch.zeros(len(usable), 1, dtype=torch.int64, device=usable.device)
        if not self.constraint.holds_at_lax_cuts:
            return last_reached(usable, start, reached(passed, start))
        passed, usable = passed.flip(1), usable.flip(1)
        index = last_reached(usable, start, reached(passed, start))
        return (usable.shape[1] - 1 - index).where(index != NEVER, NEVER)

    def least_levels(self) -> Tensor:
        """Return [k] float64, a level at which each label attains, infinite where there is none."""
        if self.constraint.follows_cut:
            most = self.wealth.log_wealth.gather(1, self.starts).amax(1)
            return self.num_starts * (-most).exp()
        index = (last_of if self.constraint.holds_at_lax_cuts else first_of)(self.grid.usable)
        at = self.wealth.log_wealth.gather(1, index.clamp(min=0)[:, None])[:, 0]
        return (-at).exp().where(index != NEVER, torch.inf)

    def best(self, level: float) -> tuple[Tensor, Tensor]:
        """Return for precision the greatest of Hoeffding's bounds at the starts, which hold together: cut, bound."""
        grid, wealth = self.grid, self.wealth
        if not self.constraint.follows_cut:
            nothing = torch.full((len(grid.bins),), NEVER, device=grid.bins.device)
            return nothing, torch.full_like(self.num_starts, torch.nan)
        starts = torch.searchsorted(wealth.flagged, wealth.flagged.gather(1, self.starts))
        count, heaviest = wealth.flagged.gather(1, starts), wealth.heaviest.gather(1, starts)
        margin = heaviest * (count * (self.num_starts[:, None] / level).log() / 2).sqrt()
        bounds = (grid.positives.gather(1, starts) - margin) / grid.flagged.gather(1, starts)
        bound, place = bounds.where(grid.usable.gather(1, starts), -1.0).max(1)
        some = bound > 0
        index = starts.gather(1, place[:, None])[:, 0].where(some, NEVER)
        return index, bound.clamp(min=0.0)
