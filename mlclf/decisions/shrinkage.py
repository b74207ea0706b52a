"""How far thresholds are shrunk, chosen by cross-validation over folds of the rows.

Two targets: what calibrated probabilities promise (for F measures), and last month's thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mlclf.decisions.counting import bin_of
from mlclf.decisions.cutoffs import NEVER, Cuts, Probabilities, best_cuts, cuts_of, f_measure
from mlclf.decisions.folds import summed
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.joint import solve_joint
from mlclf.decisions.objectives import Objective

PRIOR_POSITIVES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, math.inf)
"""Positive rows that the promise of the probabilities may count for. The cut that is best on a handful of positives is
best by luck, so never fewer than ten; with infinity the labels' own positives do not count at all."""

USUAL_PRIOR_POSITIVES = 300.0
"""What is used unless another number is clearly better. Over five public sets of 6 to 159 labels it was near the best
for macro- and micro-F1 alike; what cross-validation finds best by less than a standard error is chance."""

TRUSTS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, math.inf)
"""Positive rows that last month's thresholds may count for."""

JUDGED = ("f1", "fbeta", "macro_f1", "micro_f1", "micro_macro_f1", "mcc", "balanced_accuracy", "youden", "cost")
"""Objectives with a value that is larger where decisions are better."""


def choose_prior_positives(
    folds: Sequence[LabelHistogram],
    objective: Objective,
    scores_of: Callable[[Tensor], Tensor],
    probabilities: Sequence[Probabilities],
) -> float:
    """The one of PRIOR_POSITIVES whose cuts, chosen without a fold, serve the objective best on it, over all folds.

    It is the usual one unless the best is better by a standard error: that of the difference, by the jackknife over
    folds (Efron and Tibshirani 1993, chapter 11).

    Args:
        folds: histograms of the folds.
        objective: an F measure.
        scores_of: float32 logits to float32 probabilities.
        probabilities: for each fold calibrated ones that do not know its rows: else they seem to promise the truth.
    """
    sums = torch.zeros(len(PRIOR_POSITIVES), len(folds), 4, folds[0].num_labels, dtype=torch.float64)
    for fold, ((train, judge), promised) in enumerate(zip(_splits(folds), probabilities, strict=True)):
        trained = _slices(train, scores_of, promised)
        judged = _slices(judge, scores_of, None)
        for which, prior in enumerate(PRIOR_POSITIVES):
            shrunk = [(part, cuts.blended(train.positive_rows[part], prior)) for part, cuts in trained]
            joint = solve_joint([cuts for _, cuts in shrunk], objective) if objective.is_joint else None
            for (part, cuts), (_, fresh) in zip(shrunk, judged, strict=True):
                sums[which, fold, :, part] = _outcome(fresh, best_cuts(cuts, objective, joint))
    return PRIOR_POSITIVES[_clearly_best(sums, objective, PRIOR_POSITIVES.index(USUAL_PRIOR_POSITIVES))]


def choose_trust(
    folds: Sequence[LabelHistogram],
    objective: Objective,
    scores_of: Callable[[Tensor], Tensor],
    tuned_without: Sequence[Tensor],
    prior: Tensor,
) -> float:
    """The one of TRUSTS by which thresholds drawn to prior ones serve the objective best on rows not tuned on.

    Args:
        folds: histograms of the folds.
        objective: one of JUDGED.
        scores_of: float32 logits to float32 probabilities.
        tuned_without: for each fold the thresholds tuned on the others: [K] float32, NaN = never positive.
        prior: [K] float32, the thresholds to draw to; NaN = none.
    """
    sums = torch.zeros(len(TRUSTS), len(folds), 4, folds[0].num_labels, dtype=torch.float64)
    for fold, ((train, judge), tuned) in enumerate(zip(_splits(folds), tuned_without, strict=True)):
        for part, fresh in _slices(judge, scores_of, None):
            for which, trust in enumerate(TRUSTS):
                drawn = drawn_to(tuned[part], prior[part], train.positive_rows[part], trust)
                sums[which, fold, :, part] = _outcome(fresh, _bins_of(drawn, judge.num_bins))
    return TRUSTS[int(_values(sums.sum(1), objective).argmax())]


def drawn_to(tuned: Tensor, prior: Tensor, positive_rows: Tensor, trust: float) -> Tensor:
    """Thresholds [k] float32 between tuned and prior ones in the logit, the tuned one weighing P / (P + trust).

    A label whose prior or tuned threshold is NaN keeps the tuned one.
    """
    share = torch.nan_to_num(positive_rows / (positive_rows + trust), nan=0.0).double()
    logits = [torch.logit(side.double(), eps=1e-12) for side in (tuned, prior)]
    moved = torch.sigmoid(share * logits[0] + (1 - share) * logits[1]).float()
    kept = tuned.isnan() | prior.isnan() | (share == 1)
    return torch.where(kept, tuned, torch.where(share == 0, prior, moved))


def _splits(folds: Sequence[LabelHistogram]) -> Iterator[tuple[LabelHistogram, LabelHistogram]]:
    """(the rows of the other folds, the rows of the fold), for each fold."""
    total = summed(folds)
    for fold in folds:
        yield total.without(fold), fold


def _slices(
    histogram: LabelHistogram, scores_of: Callable[[Tensor], Tensor], probabilities: Probabilities | None
) -> list[tuple[slice, Cuts]]:
    return [(part, cuts_of(histogram, part, scores_of, probabilities)) for part in histogram.label_slices(200)]


def _outcome(cuts: Cuts, index: Tensor) -> Tensor:
    """[4, k] float64: true positives, flagged, positives, rows."""
    true, flagged = cuts.at(index)
    return torch.stack([true, flagged, cuts.positives[:, -1], cuts.flagged[:, -1]])


def _bins_of(thresholds: Tensor, num_bins: int) -> Tensor:
    """Where in cuts from the top a threshold [k] lies, NEVER for NaN."""
    logits = torch.logit(thresholds.double(), eps=1e-12)
    return torch.where(thresholds.isnan(), NEVER, num_bins - 1 - bin_of(logits, num_bins))


def _values(sums: Tensor, objective: Objective) -> Tensor:
    """[M] float64 of sums [M, 4, K]."""
    return torch.stack([value_of(part, objective) for part in sums])


def _clearly_best(sums: Tensor, objective: Objective, usual: int) -> int:
    """Which of M choices is best by sums [M, V, 4, K], the usual one unless another is so by a standard error."""
    total, num_folds = sums.sum(1), sums.shape[1]
    values = _values(total, objective)
    best = int(values.argmax())
    pair = torch.tensor([best, usual])
    left_out = [_values(total[pair] - sums[pair, fold], objective) for fold in range(num_folds)]
    differences = torch.stack([first - second for first, second in left_out])
    variance = (num_folds - 1) / num_folds * (differences - differences.mean()).square().sum()
    return best if float(values[best] - values[usual]) > float(variance.sqrt()) else usual


def value_of(sums: Tensor, objective: Objective) -> Tensor:
    """[] float64, how well decisions serve an objective; labels without a positive row do not count.

    Args:
        sums: [4, K] float64, true positives, flagged rows, positives and rows.
        objective: one of JUDGED.
    """
    true, flagged, total, rows = sums[:, sums[2] > 0].unbind()
    false, negatives = flagged - true, rows - total
    micro = f_measure(true.sum(), flagged.sum(), total.sum()).nan_to_num()
    match objective.name, objective.parameters:
        case "micro_f1", _:
            return micro
        case "micro_macro_f1", _:
            return micro + f_measure(true, flagged, total).mean().nan_to_num()
        case "mcc", _:
            spread = (flagged * (rows - flagged) * total * negatives).sqrt()
            return ((true * rows - total * flagged) / spread).nan_to_num().mean()
        case (("balanced_accuracy" | "youden"), _):
            return (true / total - (false / negatives).nan_to_num()).mean()
        case "cost", (false_positive, false_negative):
            return -(false_positive * false + false_negative * (total - true)).sum()
        case _:
            return f_measure(true, flagged, total, objective.beta_squared).mean()
