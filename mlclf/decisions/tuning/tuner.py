"""The tuner: scored rows in one pass, thresholds for an objective out of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlclf.decisions.calibration.calibrators import Calibrators
from mlclf.decisions.calibration.choosing import fit_cross_calibrators
from mlclf.decisions.calibration.prevalence import reweighted
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.guarantees.independent_rows import certified
from mlclf.decisions.guarantees.weighted_rows import BettingConstraints
from mlclf.decisions.histograms.derived import summed, without_rows
from mlclf.decisions.histograms.folds import FoldHistograms
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.objectives.table import OBJECTIVES
from mlclf.decisions.thresholds.cutoffs import CUT_BYTES, Outcome, Probabilities, cuts_of
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.decisions.tuning.best_cut import best_thresholds
from mlclf.decisions.tuning.shrinkage import choose_trust, drawn_to, weigh_prior_positives
from mlclf.errors import ConfigError
from mlclf.machine.workers import one_thread


@dataclass(frozen=True)
class ConfidenceClaim:
    """What is claimed of thresholds that keep a constraint, and of the rows that it is claimed from.

    Attributes:
        confidence: P(attained and violated) is at most 1 − confidence for each label.
        across_labels: `fdr` bounds the share of violated labels among the attained ones instead.
        clustered: rows of one identity are one observation.
        greatest_weight: what no weight of a cell exceeds; None where rows have no weights.
    """

    confidence: float
    across_labels: str | None = None
    clustered: bool = False
    greatest_weight: float | None = None


class Tuner:
    """Collects scored rows in one pass and tunes thresholds for an objective from them.

    Attributes:
        histogram: of all rows.
        folds: of the same rows; None where nothing is cross-validated.
    """

    def __init__(
        self,
        objective: Objective,
        num_labels: int,
        *,
        method: str = "auto",
        prior: Tensor | None = None,
        num_bins: int | None = None,
        keeps_folds: bool = False,
        claim: ConfidenceClaim | None = None,
    ) -> None:
        """Start empty.

        Args:
            objective: from `parse_objective`.
            num_labels: K.
            method: `auto` shrinks F measures as cross-validation finds best; `plain` takes the best on these rows.
            prior: [K] float32, earlier thresholds (NaN: none) to draw to, as far as cross-validation finds best.
            num_bins: of the histogram; None = as many as fit its budget.
            keeps_folds: count folds in any case, so that thresholds for other objectives can be tuned later.
            claim: what is claimed of a constraint; the rows must then be used for nothing else. Objectives that are no
                constraints claim nothing.

        Raises:
            ConfigError: `prior` is given for an objective that has no value to cross-validate.
        """
        if prior is not None and not objective.has_worth:
            judged = ", ".join(name for name, kind in OBJECTIVES.items() if kind.has_worth)
            raise ConfigError(
                f"--prior needs an objective that can be cross-validated ({judged}), got {objective}; leave it out"
            )
        self.objective, self.prior = objective, prior
        self.claim = claim if objective.is_constraint else None
        self.bets: BettingConstraints | None = None
        if self.claim is not None and (self.claim.clustered or self.claim.greatest_weight is not None):
            self.bets = BettingConstraints(
                objective,
                num_labels,
                clustered=self.claim.clustered,
                greatest_weight=self.claim.greatest_weight if self.claim.greatest_weight is not None else 1.0,
            )
        self.shrinks = objective.shrinks and method == "auto"
        self._weighed: dict[float, float] | None = None
        self.histogram = LabelHistogram(num_labels, num_bins)
        folded = keeps_folds or self.shrinks or objective.compares_probabilities or prior is not None
        self.folds = FoldHistograms(num_labels) if folded else None
        self.top = objective.row_counts(num_labels)

    def count_again(self, histogram: LabelHistogram, folds: FoldHistograms) -> None:
        """Take in what was counted before, of the same labels, in place of rows.

        Raises:
            ConfigError: the objective needs the rows themselves.
        """
        if self.top is not None:
            raise ConfigError(f"the objective {self.objective} looks across the labels of a row; give the rows")
        self.histogram, self.folds = histogram, folds

    @property
    def takes_labels(self) -> bool:
        """Whether rows may come a part of the labels at a time, since nothing looks across those of a row."""
        return self.top is None and self.bets is None

    def prepare(self) -> None:
        """Get ready for several threads; see `LabelHistogram.update`."""
        if self.folds is not None:
            self.folds.prepare()

    def update(self, cells: Cells, part: slice | None = None) -> None:
        """Count rows; `part` says which of the labels are there, None for all.

        Raises:
            DataError: a logit that counts or a weight is not finite, or a weight is negative.
        """
        self._weighed = None
        self.histogram.update(cells.logits, cells.labels, cells.mask, cells.cell_weights(), part)
        if self.folds is not None:
            self.folds.update(cells, part)
        if self.top is not None:
            self.top.update(cells, scores_of(cells.logits))
        if self.bets is not None:
            self.bets.update(cells)

    def thresholds(self) -> Thresholds:
        """Thresholds that serve the objective best on rows like these."""
        if self.top is not None:
            return self.top.thresholds(str(self.objective))
        if self.claim is not None:
            return self._certified(self.claim)
        probabilities, without_folds = self._probabilities()
        prior_positives = self._prior_positives(without_folds)
        tuned = best_thresholds(self.histogram, self.objective, prior_positives, probabilities)
        return tuned if self.prior is None else self._drawn_to_prior(tuned, self.prior, prior_positives, probabilities)

    def thresholds_without_folds(self) -> Tensor | None:
        """Thresholds for the rows of each fold, tuned on the rows of the others: [V, K] float32.

        None where labels choose no thresholds, as with `top_k`, or no folds are kept. How far thresholds are shrunk,
        one choice for all labels, is that of all rows.
        """
        if self.top is not None or self.folds is None:
            return None
        folds, (_, without_folds) = self.folds.histograms, self._probabilities()
        total, prior_positives = summed(folds), self._prior_positives(without_folds)
        tuned = [
            best_thresholds(without_rows(total, fold), self.objective, prior_positives, promised).thresholds
            for fold, promised in zip(folds, without_folds, strict=True)
        ]
        return torch.stack(tuned)

    def _prior_positives(self, without_folds: list[Probabilities]) -> dict[float, float]:
        """How much the promise of the probabilities counts; found once, since rows are counted before."""
        if not self.shrinks:
            return {0.0: 1.0}
        if self._weighed is None:
            assert self.folds is not None
            folds = self.folds.histograms
            with one_thread():
                self._weighed = weigh_prior_positives(folds, self.objective, without_folds)
        return self._weighed

    def thresholds_at(self, old: Tensor, new: Tensor) -> Thresholds:
        """Thresholds for rows of other prevalences, old → new [K] float64; nothing is claimed.

        Raises:
            ConfigError: the objective looks across the labels of a row, whose weights would differ by label.
        """
        if self.top is not None:
            raise ConfigError(
                f"the objective {self.objective} looks across the labels of a row; prevalences cannot shift"
            )
        rest = copy.copy(self)
        rest.claim, rest.bets, rest._weighed = None, None, None
        rest.histogram = reweighted(self.histogram, old, new)
        if self.folds is not None:
            rest.folds = FoldHistograms.of([reweighted(fold, old, new) for fold in self.folds.histograms])
        return rest.thresholds()

    def _certified(self, claim: ConfidenceClaim) -> Thresholds:
        if self.bets is not None:
            found = self.bets.certified(claim.confidence, claim.across_labels)
        else:
            found = certified(self.histogram, self.objective, claim.confidence, claim.across_labels)
        bests = {index: {"best": best} for index, best in enumerate(found.best) if best is not None}
        if found.heaviest is None:
            return replace(found.thresholds, details=bests)
        of_labels = zip(found.thresholds.status, found.heaviest.tolist(), strict=True)
        limits = [(index, status, limit) for index, (status, limit) in enumerate(of_labels) if status != "fallback"]
        details = {index: bests.get(index, {}) | {"holds_up_to": limit} for index, _, limit in limits}
        tuned = [limit for _, status, limit in limits if status == "tuned"]
        least = min(tuned or [limit for _, _, limit in limits], default=None)
        holds_up_to = {} if least is None else {"cluster" if claim.clustered else "weight": least}
        return replace(found.thresholds, details=details, holds_up_to=holds_up_to)

    def _probabilities(self) -> tuple[Probabilities | None, list[Probabilities]]:
        """Calibrated probabilities, and for each fold those that do not know its rows."""
        if self.folds is None:
            return None, []
        fitted, without_folds = fit_cross_calibrators(self.folds.histograms)
        return _probabilities_of(fitted), [_probabilities_of(each) for each in without_folds]

    def _drawn_to_prior(
        self, tuned: Thresholds, prior: Tensor, prior_positives: dict[float, float], probabilities: Probabilities | None
    ) -> Thresholds:
        assert self.folds is not None
        folds = self.folds.histograms
        total = summed(folds)
        fresh = [
            best_thresholds(without_rows(total, fold), self.objective, prior_positives, probabilities).thresholds
            for fold in folds
        ]
        trust = choose_trust(folds, self.objective, fresh, prior)
        drawn = drawn_to(tuned.thresholds, prior, self.histogram.effective_class_rows()[:, 1], trust)
        return _redecided(tuned, drawn, self.histogram)


def _probabilities_of(calibrators: Calibrators) -> Probabilities:
    return lambda logits, labels: torch.sigmoid(calibrators.logits(logits, labels))


def _redecided(tuned: Thresholds, drawn: Tensor, histogram: LabelHistogram) -> Thresholds:
    """The thresholds moved to `drawn` [K] float32, with how they did on the rows of the histogram."""
    outcomes = [
        cuts_of(histogram, labels, bins=histogram.window(labels)).outcome(drawn[labels])
        for labels in histogram.label_slices(CUT_BYTES)
    ]
    found = Outcome(*(torch.cat(column) for column in zip(*outcomes, strict=True)))
    moved = (drawn != tuned.thresholds) & ~drawn.isnan()
    statuses = ["shrunk" if has_moved else status for has_moved, status in zip(moved, tuned.status, strict=True)]
    return replace(
        tuned,
        thresholds=found.threshold.where(moved, tuned.thresholds),
        status=statuses,
        precision=found.precision.where(moved, tuned.precision),
        recall=found.recall.where(moved, tuned.recall),
        f1=found.f1.where(moved, tuned.f1),
        intervals=found.interval.where(moved[:, None], tuned.intervals),
        method="shrinkage",
    )
