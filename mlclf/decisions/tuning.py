"""Thresholds chosen for an objective, from histograms of logits of rows that were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.calibrators import fit_calibrators
from mlclf.decisions.cells import Cells
from mlclf.decisions.cutoffs import CUT_BYTES, NEVER, Cuts, Joint, Probabilities, best_cuts, cuts_of, f_measure
from mlclf.decisions.folds import FoldHistograms, summed
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.joint import solve_joint
from mlclf.decisions.objectives import Objective
from mlclf.decisions.ranking import auroc, has_both_classes
from mlclf.decisions.scores import scores_of
from mlclf.decisions.shrinkage import JUDGED, choose_prior_positives, choose_trust, drawn_to
from mlclf.decisions.thresholds import Thresholds, fallback_thresholds
from mlclf.decisions.top_k import TopCounts
from mlclf.errors import ConfigError

INFORMATIVE_DEVIATIONS = 1.645
INFORMATIVE_RATIO = 1.2
JOINT_BINS = 4096
_EDGE = 1e-12


class ChosenCuts(NamedTuple):
    """The cut-offs chosen for k labels; see `Thresholds` for what the numbers mean."""

    threshold: Tensor  # [k] float32, NaN = never positive
    shrunk: Tensor  # [k] bool, True where shrinkage changed the choice
    useless: Tensor  # [k] bool, True where the best cut is hardly better than flagging every row
    precision: Tensor  # [k] float64
    recall: Tensor  # [k] float64
    f1: Tensor  # [k] float64
    interval: Tensor  # [k, 2] float32


def tune_thresholds(
    histogram: LabelHistogram,
    objective: Objective,
    scores_of: Callable[[Tensor], Tensor],
    prior_positives: float = 10.0,
    probabilities: Probabilities | None = None,
) -> Thresholds:
    """Choose the cut-offs that serve `objective` best on the rows of the histogram.

    Cut-offs are the least scores of the non-empty bins; where float32 scores cannot tell two bins apart they count as
    one. Among equally good ones the highest is taken: it flags the fewest rows.

    - `f1`, `fbeta`, `macro_f1` (of each label on its own) and `micro_f1`, `micro_macro_f1` (of all together, see
      `joint`): the largest F. The cut that is best on few positives is best by luck (Lipton et al. 2014), so the true
      positives of a cut are shrunk toward what the probabilities promise: a · observed + (1 − a) · Σ probabilities
      flagged, with a = P / (P + `prior_positives`) and P the number of positive rows; all positives are shrunk alike.
      0 turns it off. Inside the gap between two scores the cut lies where calibrated probabilities say that it is best
      (F/2 for F1). Where scores say nothing, flagging every row is best, and noise decides how near to it one lands: so
      a label of its own gets `fallback` if its F is less than 1.2 times that of flagging every row, and its AUROC is
      not above ½ by 1.645 standard errors (a one-sided Mann-Whitney test at 5%).
    - `mcc`, `balanced_accuracy`, `youden` (the same as balanced accuracy): the largest.
    - `precision:p`: the largest recall among the cuts of at least that precision; `recall:r`: the highest cut that
      reaches it; `fpr:a`, `per_million:n`: the lowest cut that flags no more than this share of the negatives, or this
      many in a million rows; `prevalence`: the cut that flags as many rows as are positive. What no cut meets is
      `unattainable`.
    - `cost:FP,FN`: the least cost; flagging nothing and flagging everything are choices too.
    - `alert_budget:n`: one cut on calibrated probabilities for all labels, which flags at most n cells of these rows.

    A label without both classes gets 0.5 and `fallback`; with an objective of all labels together, their common cut.

    Args:
        histogram: of K labels.
        objective: from `parse_objective`, not `top_k`.
        scores_of: float32 logits to float32 probabilities, element by element, not falling.
        prior_positives: how many positive rows the promise of the probabilities counts for, at least 0.
        probabilities: calibrated ones of the logits of a slice of labels; the scores themselves by default.

    Raises:
        ConfigError: `prior_positives` is negative or not a number.
    """
    if not prior_positives >= 0:
        raise ConfigError(f"prior_positives must be at least 0, got {prior_positives!r}")
    prior = prior_positives if objective.is_f else 0.0
    joint = _joint(histogram, objective, scores_of, prior, probabilities) if objective.is_joint else None
    slices = []
    for labels in histogram.label_slices(CUT_BYTES):
        cuts = cuts_of(histogram, labels, scores_of, probabilities)
        slices.append(_chosen(cuts, objective, joint, histogram.positive_rows[labels], prior, labels, probabilities))
    chosen = ChosenCuts(*(torch.cat(column).cpu() for column in zip(*slices, strict=True)))
    tunable = has_both_classes(histogram).cpu()
    if objective.is_f and joint is None:
        tunable &= ~chosen.useless | _informative(histogram).cpu()
    fallback = fallback_thresholds(histogram.num_labels, histogram.positive_rows)
    kept = tunable if joint is None else torch.ones_like(tunable)
    return Thresholds(
        thresholds=chosen.threshold.where(kept, 0.5),
        status=_statuses(chosen, tunable, objective),
        support=fallback.support,
        precision=chosen.precision.where(tunable, torch.nan),
        recall=chosen.recall.where(tunable, torch.nan),
        f1=chosen.f1.where(tunable, torch.nan),
        intervals=chosen.interval.where(tunable[:, None], torch.nan),
        objective=str(objective),
        method="shrinkage" if prior > 0 else "empirical",
    )


def _joint(
    histogram: LabelHistogram,
    objective: Objective,
    scores_of: Callable[[Tensor], Tensor],
    prior: float,
    probabilities: Probabilities | None,
) -> Joint:
    """What all labels share, from bins coarse enough to hold the cuts of all labels at once."""
    coarse = histogram.coarsened(JOINT_BINS) if objective.name != "alert_budget" else histogram
    slices = []
    for labels in coarse.label_slices(CUT_BYTES):
        cuts = cuts_of(coarse, labels, scores_of, probabilities)
        slices.append(cuts.blended(coarse.positive_rows[labels], prior) if prior > 0 else cuts)
    return solve_joint(slices, objective)


def _chosen(
    cuts: Cuts,
    objective: Objective,
    joint: Joint | None,
    positive_rows: Tensor,
    prior: float,
    labels: slice,
    probabilities: Probabilities | None,
) -> ChosenCuts:
    plain = index = best_cuts(cuts, objective, joint)
    seen = cuts
    if prior > 0:
        seen = cuts.blended(positive_rows, prior)
        index = best_cuts(seen, objective, joint)
    never = index == NEVER
    at = index.clamp(min=0)[:, None]
    threshold = cuts.score.gather(1, at)[:, 0].where(~never, torch.nan)
    lower = cuts.lower.gather(1, at)[:, 0].where(~never, cuts.greatest)
    true, flagged = cuts.at(index)
    total, rows = cuts.positives[:, -1], cuts.flagged[:, -1]
    interval = torch.stack([lower, threshold], 1)
    best = f_measure(*seen.at(index), seen.positives[:, -1], objective.beta_squared)
    everything = f_measure(seen.positives[:, -1], rows, seen.positives[:, -1], objective.beta_squared)
    if prior > 0:
        target = _ideal_cut(seen, index, objective, joint)
        threshold = placed(lower, threshold.nan_to_num(1.0), target, labels, probabilities)
        threshold = threshold.where(~never | (lower < 1), torch.nan)
    return ChosenCuts(
        threshold=threshold,
        shrunk=index != plain,
        useless=best < INFORMATIVE_RATIO * everything,
        precision=true / flagged,
        recall=true / total,
        f1=f_measure(true, flagged, total),
        interval=interval,
    )


def _ideal_cut(cuts: Cuts, index: Tensor, objective: Objective, joint: Joint | None) -> Tensor:
    """[k] float64, the calibrated probability from which on flagging a row raises the objective.

    A row of probability p adds p to TP and 1 to the flagged: F_β = (1 + β²) TP / (β² P + flagged) rises if
    p > F/(1 + β²) (Lipton et al. 2014). With micro-F1 beside macro-F1 the two derivatives are added.
    """
    total = cuts.positives[:, -1]
    true, flagged = cuts.at(index)
    own = f_measure(true, flagged, total, objective.beta_squared).nan_to_num()
    if joint is None:
        return own / (1 + objective.beta_squared)
    if objective.name == "micro_f1":
        return torch.full_like(total, joint.level / 2)
    weight = 1 / (joint.labels * (total + flagged).clamp_min(_EDGE))
    return (own * weight + joint.level / joint.size) / (2 * (weight + 1 / joint.size))


def placed(lower: Tensor, upper: Tensor, target: Tensor, labels: slice, probabilities: Probabilities | None) -> Tensor:
    """[k] float32 thresholds in (lower, upper], as near as can be to where the calibrated probability is `target`."""
    above = torch.minimum(torch.nextafter(lower, torch.ones_like(lower)), upper)
    if probabilities is None:
        return torch.minimum(torch.maximum(target.float(), above), upper)
    ends = torch.logit(torch.stack([lower, upper], 1).double(), eps=_EDGE)
    promised = torch.logit(probabilities(ends.float(), labels).double(), eps=_EDGE)
    wanted = torch.logit(target.clamp(_EDGE, 1 - _EDGE))
    share = ((wanted - promised[:, 0]) / (promised[:, 1] - promised[:, 0]).clamp_min(_EDGE)).clamp(0, 1)
    between = torch.sigmoid(ends[:, 0] + share * (ends[:, 1] - ends[:, 0])).float()
    return torch.where(share >= 1, upper, torch.minimum(torch.maximum(between, above), upper))


def _statuses(chosen: ChosenCuts, tunable: Tensor, objective: Objective) -> list[str]:
    unattainable = chosen.threshold.isnan() & (objective.name in ("precision", "recall", "fpr", "per_million"))
    columns = zip(tunable.tolist(), unattainable.tolist(), chosen.shrunk.tolist(), strict=True)
    return [
        "fallback" if not can_tune else "unattainable" if cannot_meet else "shrunk" if shrunk else "tuned"
        for can_tune, cannot_meet, shrunk in columns
    ]


def _informative(histogram: LabelHistogram) -> Tensor:
    """Return [K] bool, True where the AUROC is above ½ by 1.645 of the errors that it has for scores without meaning.

    That standard error is √((P + N + 1) / (12 P N)) (Mann and Whitney 1947), P and N in rows.
    """
    positives = histogram.positive_rows.double()
    negatives = histogram.rows - positives
    error = ((positives + negatives + 1) / (12 * positives * negatives)).sqrt()
    return auroc(histogram)[0] > 0.5 + INFORMATIVE_DEVIATIONS * error


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
    ) -> None:
        """Start empty.

        Args:
            objective: from `parse_objective`.
            num_labels: K.
            method: `auto` shrinks F measures as cross-validation finds best; `plain` takes the best on these rows.
            prior: [K] float32, earlier thresholds (NaN: none) to draw to, as far as cross-validation finds best.
            num_bins: of the histogram; None = as many as fit its budget.
            keeps_folds: count folds in any case, so that thresholds for other objectives can be tuned later.

        Raises:
            ConfigError: `prior` is given for an objective that has no value to cross-validate.
        """
        if prior is not None and objective.name not in JUDGED:
            raise ConfigError(
                f"--prior needs an objective that can be cross-validated ({', '.join(JUDGED)}), got {objective}; "
                "leave it out"
            )
        self.objective, self.prior = objective, prior
        self.shrinks = objective.is_f and method == "auto"
        self.histogram = LabelHistogram(num_labels, num_bins)
        folded = keeps_folds or self.shrinks or objective.name == "alert_budget" or prior is not None
        self.folds = FoldHistograms(num_labels) if folded else None
        self.top = TopCounts(num_labels, int(objective.parameters[0])) if objective.name == "top_k" else None

    def count_again(self, histogram: LabelHistogram, folds: FoldHistograms) -> None:
        """Take in what was counted before, of the same labels, in place of rows.

        Raises:
            ConfigError: the objective needs the rows themselves.
        """
        if self.top is not None:
            raise ConfigError(f"the objective {self.objective} looks across the labels of a row; give the rows")
        self.histogram, self.folds = histogram, folds

    def update(self, cells: Cells) -> None:
        """Count rows.

        Raises:
            DataError: a logit that counts or a weight is not finite, or a weight is negative.
        """
        self.histogram.update(cells.logits, cells.labels, cells.mask, cells.cell_weights())
        if self.folds is not None:
            self.folds.update(cells)
        if self.top is not None:
            self.top.update(cells, scores_of(cells.logits))

    def thresholds(self) -> Thresholds:
        """Thresholds that serve the objective best on rows like these."""
        if self.top is not None:
            return _top_thresholds(self.top, self.objective)
        probabilities = self._probabilities()
        positives = 0.0
        if self.shrinks:
            assert self.folds is not None
            folds = self.folds.histograms
            positives = choose_prior_positives(folds, self.objective, scores_of, probabilities)
        tuned = tune_thresholds(self.histogram, self.objective, scores_of, positives, probabilities)
        return tuned if self.prior is None else self._drawn_to_prior(tuned, self.prior, positives, probabilities)

    def _probabilities(self) -> Probabilities | None:
        if self.folds is None:
            return None
        calibrators = fit_calibrators(self.folds.histograms)
        return lambda logits, labels: torch.sigmoid(calibrators.logits(logits, labels))

    def _drawn_to_prior(
        self, tuned: Thresholds, prior: Tensor, positives: float, probabilities: Probabilities | None
    ) -> Thresholds:
        assert self.folds is not None
        folds = self.folds.histograms
        total = summed(folds)
        fresh = [
            tune_thresholds(total.without(fold), self.objective, scores_of, positives, probabilities).thresholds
            for fold in folds
        ]
        trust = choose_trust(folds, self.objective, scores_of, fresh, prior)
        drawn = drawn_to(tuned.thresholds, prior, self.histogram.positive_rows, trust)
        return _redecided(tuned, drawn, self.histogram)


def _top_thresholds(top: TopCounts, objective: Objective) -> Thresholds:
    never = top.flagged == 0
    threshold = top.least.where(~never, torch.nan)
    return Thresholds(
        thresholds=threshold,
        status=["unattainable" if nothing else "tuned" for nothing in never.tolist()],
        support=top.positive_rows,
        precision=top.positives / top.flagged,
        recall=top.positives / top.total,
        f1=f_measure(top.positives, top.flagged, top.total),
        intervals=torch.stack([torch.zeros_like(threshold), threshold], 1),
        objective=str(objective),
        method="empirical",
        per_row=top.count,
    )


def _redecided(tuned: Thresholds, drawn: Tensor, histogram: LabelHistogram) -> Thresholds:
    """The thresholds moved to `drawn` [K] float32, with how they did on the rows of the histogram."""
    moved = (drawn != tuned.thresholds) & ~drawn.isnan()
    true, flagged, total = (torch.zeros(histogram.num_labels, dtype=torch.float64) for _ in range(3))
    lower, upper = tuned.intervals.clone().unbind(1)
    for labels in histogram.label_slices(CUT_BYTES):
        cuts = cuts_of(histogram, labels, scores_of)
        above = cuts.usable & (cuts.score >= drawn[labels, None])
        index = torch.where(above.any(1), above.shape[1] - 1 - above.flip(1).byte().argmax(1), NEVER)
        true[labels], flagged[labels] = cuts.at(index)
        total[labels] = cuts.positives[:, -1]
        at, none = index.clamp(min=0)[:, None], index == NEVER
        lower[labels] = torch.where(none, cuts.greatest, cuts.lower.gather(1, at)[:, 0])
        upper[labels] = torch.where(none, torch.nan, cuts.score.gather(1, at)[:, 0])
    statuses = ["shrunk" if has_moved else status for has_moved, status in zip(moved, tuned.status, strict=True)]
    return replace(
        tuned,
        thresholds=drawn,
        status=statuses,
        precision=(true / flagged).where(moved, tuned.precision),
        recall=(true / total).where(moved, tuned.recall),
        f1=f_measure(true, flagged, total).where(moved, tuned.f1),
        intervals=torch.stack([lower, upper], 1).where(moved[:, None], tuned.intervals),
        method="shrinkage",
    )
