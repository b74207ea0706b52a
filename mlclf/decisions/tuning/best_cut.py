"""Thresholds chosen for an objective, from histograms of logits of rows that were not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms.derived import joined_bins
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.binned_metric import has_both_classes
from mlclf.decisions.objectives.objective import CutChoice, Objective
from mlclf.decisions.thresholds.cutoffs import CUT_BYTES, NEVER, Cuts, Outcome, Probabilities, cuts_of, just_above
from mlclf.decisions.thresholds.thresholds import Thresholds, fallback_thresholds
from mlclf.errors import ConfigError
from mlclf.machine.workers import on_threads, one_thread

INFORMATIVE_DEVIATIONS = 1.645
MAX_THREADS = 4
"""Each takes the memory of a slice of labels."""

_EDGE = 1e-12


class _Placed(NamedTuple):
    """Thresholds of k labels, chosen with true positives shrunk by some prior positives."""

    threshold: Tensor  # [k] float32, NaN = never positive
    useless: Tensor  # [k] bool, True where the best cut is hardly better than flagging every row


def best_thresholds(
    histogram: LabelHistogram,
    objective: Objective,
    prior_positives: float | Mapping[float, float] = 10.0,
    probabilities: Probabilities | None = None,
) -> Thresholds:
    """Choose the cut-offs that serve `objective` best on the rows of the histogram.

    Cut-offs are the least scores of the non-empty bins; where float32 scores cannot tell two bins apart they count as
    one. Among equally good ones the highest is taken: it flags the fewest rows. What no cut meets is `unattainable`. A
    label without both classes gets 0.5 and `fallback`; with an objective of all labels together, their common cut.

    The cut that is best on few positives is best by luck (Lipton et al. 2014). So for objectives that are shrunk, the
    true positives of a cut are shrunk toward what the probabilities promise: a · observed + (1 − a) · Σ probabilities
    flagged, with a = P / (P + `prior_positives`) and P the effective positive rows; all positives are shrunk alike.
    0 turns it off. Inside the gap between two scores the cut lies where calibrated probabilities say that it is best
    (F/2 for F1). Where several prior positives have weights, the mean of the thresholds is taken, of their logits;
    inside a bin it moves to the bin's upper end.

    Where scores say nothing, flagging every row is best for an F measure, and noise decides how near to it one lands:
    so a label gets `fallback` if its F is less than 1.1 times that of flagging every row, and its AUROC is not above ½
    by 1.645 standard errors (a one-sided Mann-Whitney test at 5%).

    Args:
        histogram: of K labels.
        objective: from `parse_objective`, one that does not look across the labels of a row.
        prior_positives: how many positive rows the promise of the probabilities counts for, at least 0; or several
            such numbers and their weights.
        probabilities: calibrated ones of the logits of a slice of labels; the scores themselves by default.

    Raises:
        ConfigError: `prior_positives` is negative or not a number, or a weight is not above 0.
    """
    weights = _checked_weights(prior_positives) if objective.shrinks else {0.0: 1.0}
    shrinks = max(weights) > 0
    choices = _choices(histogram, objective, list(weights), probabilities)
    says_nothing = torch.zeros_like(histogram.rows, dtype=torch.bool)
    if objective.falls_back:
        says_nothing = ~_informative(histogram)
    positives = histogram.effective_class_rows()[:, 1]

    def chosen_of(labels: slice) -> tuple[Outcome, Tensor, Tensor]:
        cuts = cuts_of(histogram, labels, probabilities, histogram.window(labels))
        found = []
        for prior, choice in zip(weights, choices, strict=True):
            shrunk = cuts.blended(positives[labels], prior)
            index = choice.best_cuts(shrunk)
            useless = says_nothing[labels] & objective.hardly_beats_all(shrunk.at(index))
            threshold = _in_gap(shrunk, index, choice, labels, probabilities) if shrinks else shrunk.gap(index)[1]
            found.append(_Placed(threshold, useless))
        outcome = cuts.outcome(_averaged(found, list(weights.values())))
        return outcome, outcome.place != choices[0].best_cuts(cuts), found[0].useless

    slices = on_threads(chosen_of, list(histogram.label_slices(2 * CUT_BYTES)), MAX_THREADS)
    outcomes, shrunk, useless = zip(*slices, strict=True)
    chosen = Outcome(*(torch.cat(column).cpu() for column in zip(*outcomes, strict=True)))
    tunable = has_both_classes(histogram).cpu() & ~torch.cat(useless).cpu()
    fallback = fallback_thresholds(histogram.num_labels, histogram.positive_rows)
    kept = torch.ones_like(tunable) if objective.couples_labels else tunable
    return Thresholds(
        thresholds=chosen.threshold.where(kept, 0.5),
        status=_statuses(chosen.threshold, tunable, torch.cat(shrunk).cpu(), objective),
        support=fallback.support,
        precision=chosen.precision.where(tunable, torch.nan),
        recall=chosen.recall.where(tunable, torch.nan),
        f1=chosen.f1.where(tunable, torch.nan),
        intervals=chosen.interval.where(tunable[:, None], torch.nan),
        objective=str(objective),
        method="shrinkage" if shrinks else "empirical",
    )


def _checked_weights(prior_positives: float | Mapping[float, float]) -> dict[float, float]:
    """Prior positives and their weights, that with the largest first."""
    given = prior_positives if isinstance(prior_positives, Mapping) else {prior_positives: 1.0}
    for prior, weight in given.items():
        if not prior >= 0:
            raise ConfigError(f"prior_positives must be at least 0, got {prior!r}")
        if not 0 < weight < math.inf:
            raise ConfigError(f"weights of prior_positives must be finite and above 0, got {weight!r} for {prior!r}")
    if not given:
        raise ConfigError("prior_positives must be a number, or some with their weights, got none")
    return dict(sorted(given.items(), key=lambda item: -item[1]))


def _choices(
    histogram: LabelHistogram, objective: Objective, priors: list[float], probabilities: Probabilities | None
) -> list[CutChoice]:
    """What chooses cuts by each of the prior positives, from bins coarse enough to hold the cuts of all at once."""
    if not objective.couples_labels:
        return [objective.choice([])] * len(priors)
    coarse = joined_bins(histogram, objective.joint_bins or histogram.num_bins)
    parts, positives = list(coarse.label_slices(CUT_BYTES)), coarse.effective_class_rows()[:, 1]
    slices = [cuts_of(coarse, labels, probabilities) for labels in parts]
    choices = []
    for prior in priors:
        shrunk = [cuts.blended(positives[part], prior) for part, cuts in zip(parts, slices, strict=True)]
        with one_thread():
            choices.append(objective.choice(shrunk))
    return choices


def _in_gap(cuts: Cuts, index: Tensor, choice: CutChoice, labels: slice, probabilities: Probabilities | None) -> Tensor:
    """[k] float32 thresholds of the cuts at `index`, each where in its gap calibrated probabilities want it."""
    lower, upper = cuts.gap(index)
    target = choice.flags_from(cuts.at(index))
    threshold = placed(lower, upper.nan_to_num(1.0), target, labels, probabilities)
    return threshold.where((index != NEVER) | (lower < 1), torch.nan)


def _averaged(choices: list[_Placed], weights: list[float]) -> Tensor:
    """[k] float32, the mean of thresholds that say something, of their logits; the first where that says nothing."""
    first = choices[0].threshold
    if len(choices) == 1:
        return first
    thresholds = torch.stack([choice.threshold for choice in choices])
    counted = torch.stack([~choice.useless for choice in choices]) & ~thresholds.isnan()
    shares = counted * torch.tensor(weights, dtype=torch.float64, device=first.device)[:, None]
    logits = torch.logit(thresholds.double().nan_to_num(0.5), eps=_EDGE)
    mean = torch.sigmoid((shares * logits).sum(0) / shares.sum(0)).float()
    least = thresholds.where(counted, torch.inf).amin(0)  # beyond it where logits are cut off
    greatest = thresholds.where(counted, -torch.inf).amax(0)
    return mean.clamp(least, greatest).where(counted[0], first)


def placed(lower: Tensor, upper: Tensor, target: Tensor, labels: slice, probabilities: Probabilities | None) -> Tensor:
    """[k] float32 thresholds in (lower, upper], as near as can be to where the calibrated probability is `target`."""
    above = torch.minimum(just_above(lower), upper)
    if probabilities is None:
        return torch.minimum(torch.maximum(target.float(), above), upper)
    ends = torch.logit(torch.stack([lower, upper], 1).double(), eps=_EDGE)
    promised = torch.logit(probabilities(ends.float(), labels).double(), eps=_EDGE)
    wanted = torch.logit(target.clamp(_EDGE, 1 - _EDGE))
    share = ((wanted - promised[:, 0]) / (promised[:, 1] - promised[:, 0]).clamp_min(_EDGE)).clamp(0, 1)
    between = torch.sigmoid(ends[:, 0] + share * (ends[:, 1] - ends[:, 0])).float()
    return torch.where(share >= 1, upper, torch.minimum(torch.maximum(between, above), upper))


def _statuses(thresholds: Tensor, tunable: Tensor, shrunk: Tensor, objective: Objective) -> list[str]:
    unattainable = thresholds.isnan() & objective.needs_cuts_to_meet_it
    columns = zip(tunable.tolist(), unattainable.tolist(), shrunk.tolist(), strict=True)
    return [
        "fallback" if not can_tune else "unattainable" if cannot_meet else "shrunk" if moved else "tuned"
        for can_tune, cannot_meet, moved in columns
    ]


def _informative(histogram: LabelHistogram) -> Tensor:
    """Return [K] bool, True where the AUROC is above ½ by 1.645 of the errors that it has for scores without meaning.

    That standard error is √((P + N + 1) / (12 P N)) (Mann and Whitney 1947), P and N effective rows.
    """
    negatives, positives = histogram.effective_class_rows().unbind(1)
    error = ((positives + negatives + 1) / (12 * positives * negatives)).sqrt()
    return auroc(histogram)[0] > 0.5 + INFORMATIVE_DEVIATIONS * error
