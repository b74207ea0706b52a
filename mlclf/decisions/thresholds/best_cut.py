"""Thresholds chosen for an objective, from histograms of logits of rows that were not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.binned_metric import has_both_classes
from mlclf.decisions.thresholds.cutoffs import (
    CUT_BYTES,
    NEVER,
    Cuts,
    Joint,
    Outcome,
    Probabilities,
    best_cuts,
    cuts_of,
    f_measure,
    just_above,
)
from mlclf.decisions.thresholds.joint import solve_joint
from mlclf.decisions.thresholds.objectives import Objective
from mlclf.decisions.thresholds.thresholds import Thresholds, fallback_thresholds
from mlclf.errors import ConfigError
from mlclf.machine.workers import on_threads, one_thread

INFORMATIVE_DEVIATIONS = 1.645
INFORMATIVE_RATIO = 1.1
JOINT_BINS = 4096
MAX_THREADS = 4
"""Each takes the memory of a slice of labels."""

_EDGE = 1e-12


class _Choice(NamedTuple):
    """What shrinkage by some prior positives makes of k labels."""

    threshold: Tensor  # [k] float32, NaN = never positive
    useless: Tensor  # [k] bool, True where the best cut is hardly better than flagging every row


def tune_thresholds(
    histogram: LabelHistogram,
    objective: Objective,
    prior_positives: float | Mapping[float, float] = 10.0,
    probabilities: Probabilities | None = None,
) -> Thresholds:
    """Choose the cut-offs that serve `objective` best on the rows of the histogram.

    Cut-offs are the least scores of the non-empty bins; where float32 scores cannot tell two bins apart they count as
    one. Among equally good ones the highest is taken: it flags the fewest rows.

    - `f1`, `fbeta`, `macro_f1` (of each label on its own) and `micro_f1`, `micro_macro_f1` (of all together, see
      `joint`): the largest F. The cut that is best on few positives is best by luck (Lipton et al. 2014), so the true
      positives of a cut are shrunk toward what the probabilities promise: a · observed + (1 − a) · Σ probabilities
      flagged, with a = P / (P + `prior_positives`) and P the effective positive rows; all positives are shrunk alike.
      0 turns it off. Inside the gap between two scores the cut lies where calibrated probabilities say that it is best
      (F/2 for F1). Where several prior positives have weights, the mean of the thresholds is taken, of their logits;
      inside a bin it moves to the bin's upper end. Where scores say nothing, flagging every row is best, and noise
      decides how near to it one lands: so a label of its own gets `fallback` if its F is less than 1.1 times that of
      flagging every row, and its AUROC is not above ½ by 1.645 standard errors (a one-sided Mann-Whitney test at 5%).
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
        prior_positives: how many positive rows the promise of the probabilities counts for, at least 0; or several
            such numbers and their weights.
        probabilities: calibrated ones of the logits of a slice of labels; the scores themselves by default.

    Raises:
        ConfigError: `prior_positives` is negative or not a number, or a weight is not above 0.
    """
    weights = _checked_weights(prior_positives) if objective.is_f else {0.0: 1.0}
    shrinks = max(weights) > 0
    joints = _joints(histogram, objective, list(weights), probabilities)
    guarded = objective.is_f and not objective.is_joint
    says_nothing = ~_informative(histogram) if guarded else torch.zeros_like(histogram.rows, dtype=torch.bool)

    positives = histogram.effective_class_rows()[:, 1]

    def chosen_of(labels: slice) -> tuple[Outcome, Tensor, Tensor]:
        cuts = cuts_of(histogram, labels, probabilities, histogram.window(labels))
        choices = []
        for prior, joint in zip(weights, joints, strict=True):
            shrunk = cuts.blended(positives[labels], prior)
            found = _choice(shrunk, objective, joint, labels, probabilities, shrinks)
            choices.append(found._replace(useless=found.useless & says_nothing[labels]))
        outcome = cuts.outcome(_averaged(choices, list(weights.values())))
        return outcome, outcome.place != best_cuts(cuts, objective, joints[0]), choices[0].useless

    slices = on_threads(chosen_of, list(histogram.label_slices(2 * CUT_BYTES)), MAX_THREADS)
    outcomes, shrunk, useless = zip(*slices, strict=True)
    chosen = Outcome(*(torch.cat(column).cpu() for column in zip(*outcomes, strict=True)))
    tunable = has_both_classes(histogram).cpu() & ~torch.cat(useless).cpu()
    fallback = fallback_thresholds(histogram.num_labels, histogram.positive_rows)
    kept = torch.ones_like(tunable) if objective.is_joint else tunable
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


def _joints(
    histogram: LabelHistogram,
    objective: Objective,
    priors: list[float],
    probabilities: Probabilities | None,
) -> list[Joint | None]:
    """What all labels share by each of the prior positives, from bins coarse enough to hold the cuts of all at once."""
    if not objective.is_joint:
        return [None] * len(priors)
    coarse = histogram.coarsened(JOINT_BINS) if objective.name != "alert_budget" else histogram
    parts, positives = list(coarse.label_slices(CUT_BYTES)), coarse.effective_class_rows()[:, 1]
    slices = [cuts_of(coarse, labels, probabilities) for labels in parts]
    joints: list[Joint | None] = []
    for prior in priors:
        shrunk = [cuts.blended(positives[part], prior) for part, cuts in zip(parts, slices, strict=True)]
        with one_thread():
            joints.append(solve_joint(shrunk, objective))
    return joints


def _choice(
    cuts: Cuts,
    objective: Objective,
    joint: Joint | None,
    labels: slice,
    probabilities: Probabilities | None,
    shrinks: bool,
) -> _Choice:
    """The best cut of each label, placed in its gap where anything is shrunk."""
    index = best_cuts(cuts, objective, joint)
    lower, threshold = cuts.gap(index)
    total, rows = cuts.positives[:, -1], cuts.flagged[:, -1]
    best = f_measure(*cuts.at(index), total, objective.beta_squared)
    everything = f_measure(total, rows, total, objective.beta_squared)
    if shrinks:
        target = _ideal_cut(cuts, index, objective, joint)
        never, threshold = index == NEVER, placed(lower, threshold.nan_to_num(1.0), target, labels, probabilities)
        threshold = threshold.where(~never | (lower < 1), torch.nan)
    return _Choice(threshold, best < INFORMATIVE_RATIO * everything)


def _averaged(choices: list[_Choice], weights: list[float]) -> Tensor:
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
    unattainable = thresholds.isnan() & (objective.name in ("precision", "recall", "fpr", "per_million"))
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
