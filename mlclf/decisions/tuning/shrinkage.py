"""How far thresholds are shrunk, judged by cross-validation over folds of the rows.

Two targets: what calibrated probabilities promise (for F measures), and last month's thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mlclf.decisions.histograms.counting import bin_of
from mlclf.decisions.histograms.derived import summed, without_rows
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.confusion import Tally
from mlclf.decisions.objectives.objective import Objective
from mlclf.decisions.thresholds.cutoffs import NEVER, Cuts, Probabilities, cuts_of

PRIOR_POSITIVES = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, math.inf)
"""Positive rows that the promise of the probabilities may count for; with infinity those of a label do not count."""

LEAST_SHARE = 0.05
"""Beside the best; what would count for less is left out."""

TRUSTS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, math.inf)
"""Positive rows that last month's thresholds may count for."""


def weigh_prior_positives(
    folds: Sequence[LabelHistogram],
    objective: Objective,
    probabilities: Sequence[Probabilities],
) -> dict[float, float]:
    """What thresholds by each of PRIOR_POSITIVES are to count for, by how those chosen without a fold do on it.

    The best over all folds counts 1, another e^(−d), when it is worse by d standard errors of the difference: those of
    the jackknife over folds (Efron and Tibshirani 1993, chapter 11). What is best by little is best by chance, and
    neighbours that differ by chance are better together (exponential weights, Vovk 1990).

    Args:
        folds: histograms of the folds.
        objective: one that `shrinks`.
        probabilities: for each fold calibrated ones that do not know its rows: else they seem to promise the truth.

    Returns:
        prior positives → weight, the best first.
    """
    sums = torch.zeros(len(PRIOR_POSITIVES), len(folds), 4, folds[0].num_labels, dtype=torch.float64)
    for fold, ((train, judge), promised) in enumerate(zip(_splits(folds), probabilities, strict=True)):
        trained, positives = _slices(train, promised), train.effective_class_rows()[:, 1]
        judged = _slices(judge, None)
        for which, prior in enumerate(PRIOR_POSITIVES):
            shrunk = [(part, cuts.blended(positives[part], prior)) for part, cuts in trained]
            choice = objective.choice([cuts for _, cuts in shrunk])
            for (part, cuts), (_, fresh) in zip(shrunk, judged, strict=True):
                sums[which, fold, :, part] = torch.stack(fresh.at(choice.best_cuts(cuts)))
    weights = dict(zip(PRIOR_POSITIVES, _weights(sums, objective).tolist(), strict=True))
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return {prior: weight for prior, weight in ordered if weight >= LEAST_SHARE}


def choose_trust(
    folds: Sequence[LabelHistogram],
    objective: Objective,
    tuned_without: Sequence[Tensor],
    prior: Tensor,
) -> float:
    """The one of TRUSTS by which thresholds drawn to prior ones serve the objective best on rows not tuned on.

    Args:
        folds: histograms of the folds.
        objective: one that `has_worth`.
        tuned_without: for each fold the thresholds tuned on the others: [K] float32, NaN = never positive.
        prior: [K] float32, the thresholds to draw to; NaN = none.
    """
    sums = torch.zeros(len(TRUSTS), len(folds), 4, folds[0].num_labels, dtype=torch.float64)
    for fold, ((train, judge), tuned) in enumerate(zip(_splits(folds), tuned_without, strict=True)):
        positives = train.effective_class_rows()[:, 1]
        for part, fresh in _slices(judge, None):
            for which, trust in enumerate(TRUSTS):
                drawn = drawn_to(tuned[part], prior[part], positives[part], trust)
                sums[which, fold, :, part] = torch.stack(fresh.at(_bins_of(drawn, judge.num_bins)))
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
        yield without_rows(total, fold), fold


def _slices(histogram: LabelHistogram, probabilities: Probabilities | None) -> list[tuple[slice, Cuts]]:
    return [(part, cuts_of(histogram, part, probabilities)) for part in histogram.label_slices(200)]


def _bins_of(thresholds: Tensor, num_bins: int) -> Tensor:
    """Where in cuts from the top a threshold [k] lies, NEVER for NaN."""
    logits = torch.logit(thresholds.double(), eps=1e-12)
    return torch.where(thresholds.isnan(), NEVER, num_bins - 1 - bin_of(logits, num_bins))


def _values(sums: Tensor, objective: Objective) -> Tensor:
    """[M] float64 of sums [M, 4, K]."""
    return torch.stack([worth_of(part, objective) for part in sums])


def _weights(sums: Tensor, objective: Objective) -> Tensor:
    """[M] float64, e^(−d) of choices by sums [M, V, 4, K] that are worse than the best by d standard errors.

    All are 1 where the errors are not known, because all positives are in one fold.
    """
    total, num_folds = sums.sum(1), sums.shape[1]
    values = _values(total, objective)
    best = int(values.argmax())
    left_out = torch.stack([_values(total - sums[:, fold], objective) for fold in range(num_folds)])
    differences = left_out - left_out[:, best, None]
    errors = ((num_folds - 1) / num_folds * (differences - differences.mean(0)).square().sum(0)).sqrt()
    deficits = values[best] - values
    return torch.exp(-deficits / errors.nan_to_num(nan=torch.inf)).where(deficits > 0, 1.0)


def worth_of(sums: Tensor, objective: Objective) -> Tensor:
    """[] float64, how well decisions serve an objective; labels without a positive row do not count.

    Args:
        sums: [4, K] float64, as `Tally`.
        objective: one that `has_worth`.
    """
    return objective.worth(Tally(*sums[:, sums[2] > 0].unbind()))
