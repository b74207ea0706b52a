"""Thresholds that hold a constraint with confidence, from rows that were used for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlclf.decisions.binomial import least_successes, log_upper_tail, share_below, upper_tail_within
from mlclf.decisions.certificates import (
    GRID_BYTES,
    NEVER,
    Certified,
    Choice,
    CutGrid,
    certified_of,
    check_request,
    entries_of,
    first_of,
    grid_of,
    last_of,
)
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.objectives import Objective
from mlclf.decisions.sequences import reached, start_counts, starts_of
from mlclf.errors import ConfigError

METHOD = "binomial"


def certified(
    histogram: LabelHistogram,
    objective: Objective,
    confidence: float,
    scores_of: Callable[[Tensor], Tensor],
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
        scores_of: maps float32 logits of any shape to float32 scores, not falling.
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
    levels = torch.full((histogram.num_labels,), 1 - confidence, dtype=torch.float64, device=rows.device)
    procedure = _Procedure(objective.name, share, measured, 1 - confidence)
    if across_labels == "fdr":
        slices = histogram.label_slices(GRID_BYTES)
        least = torch.cat([procedure.least_levels(grid_of(histogram, part, scores_of), part) for part in slices])
        levels *= shared_level(least[testable], 1 - confidence, dependent=True) / (1 - confidence)
    entries = []
    for part in histogram.label_slices(GRID_BYTES):
        grid = grid_of(histogram, part, scores_of)
        entries.append(entries_of(grid, procedure.choice(grid, part, levels[part]), objective))
    return certified_of(entries, testable, positives, objective, confidence, METHOD)


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
        self.name, self.share, self.measured = name, share, measured
        self.starts = {count: start_counts(count, share, level) for count in measured.unique().tolist()}

    def choice(self, grid: CutGrid, labels: slice, levels: Tensor) -> Choice:
        """Return what is certified for k labels at [k] float64 levels."""
        measured = self.measured[labels].double()
        if self.name == "precision":
            return self._precision(grid, labels, levels)
        if self.name == "recall":
            enough = least_successes(measured, self.share, levels)[:, None]
            found = grid.usable & (grid.positives >= enough)
            whole = grid.usable & (grid.positives == measured[:, None])
            best = levels ** (1 / measured)
            return Choice(first_of(found), best.where(measured > 0, torch.nan), first_of(whole))
        most = (measured - least_successes(measured, 1 - self.share, levels))[:, None]
        false = grid.flagged - grid.positives
        best = 1 - levels ** (1 / measured)
        return Choice(last_of(grid.usable & (false <= most)), best, last_of(grid.usable & (false == 0)))

    def least_levels(self, grid: CutGrid, labels: slice) -> Tensor:
        """Return [k] float64, the least level at which each label attains."""
        measured = self.measured[labels].double()
        if self.name == "precision":
            starts, num_starts = self._starts(grid, labels)
            tails = log_upper_tail(grid.positives.gather(1, starts), grid.flagged.gather(1, starts), self.share)
            return tails.amin(1).exp() * num_starts
        if self.name == "recall":
            return self.share**measured
        strictest = first_of(grid.usable).clamp(min=0)[:, None]
        false = (grid.flagged - grid.positives).gather(1, strictest)[:, 0]
        return log_upper_tail(measured - false, measured, 1 - self.share).exp()

    def _precision(self, grid: CutGrid, labels: slice, levels: Tensor) -> Choice:
        starts, num_starts = self._starts(grid, labels)
        each = (levels / num_starts)[:, None]
        passed = upper_tail_within(grid.positives, grid.flagged, self.share, each)
        found = reached(passed, starts) & grid.usable
        # What the starts certify: bounds at the level of each hold together.
        first = torch.searchsorted(grid.flagged, grid.flagged.gather(1, starts))
        bounds = share_below(grid.positives.gather(1, first), grid.flagged.gather(1, first), each)
        best, place = bounds.where(grid.usable.gather(1, first), 0.0).max(1)
        best_index = first.gather(1, place[:, None])[:, 0].where(best > 0, NEVER)
        return Choice(last_of(found), best, best_index)

    def _starts(self, grid: CutGrid, labels: slice) -> tuple[Tensor, Tensor]:
        """Return the cuts [k, J] int64 at which sequences start, and how many there are: [k] float64."""
        counts = [self.starts[count] for count in self.measured[labels].tolist()]
        most = max(map(len, counts))
        # Fewer starts than others have: the last once more, which changes nothing.
        padded = torch.tensor([part + part[-1:] * (most - len(part)) for part in counts], dtype=torch.float64)
        lengths = torch.tensor([len(part) for part in counts], dtype=torch.float64)
        device = grid.flagged.device
        return starts_of(grid.flagged, padded.to(device)), lengths.to(device)


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
