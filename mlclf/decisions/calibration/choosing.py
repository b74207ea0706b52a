"""Calibrators: the curve from each label's logits to calibrated ones, of the family that held-out rows ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mlclf.decisions.calibration.calibrators import Calibrators
from mlclf.decisions.calibration.families import FAMILIES, Family, LabelCounts
from mlclf.decisions.calibration.logistic import SlopePrior, platt_targets, pooled_slope
from mlclf.decisions.calibration.logit_groups import LogitGroups
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.machine.workers import one_thread

RARE_ROWS = 100
"""Labels with fewer rows of the rarer class than this decide together which family to begin with."""

CLEAR_ERRORS = 1.0
CLEAR_NATS = 1.0
"""A family replaces a simpler one when it gains this many standard errors, and nats, of held-out log-likelihood.

The usual rule of one standard error. In simulations it left up to 2.7 nats a label to be gained, half of each left 1.8
and lost 0.2 where nothing was wrong, none of each lost up to 0.4.
"""

SHARED_ERRORS = 2.0
"""The same for the choice that rare labels make together; labels are not independent, as they share their rows."""


def fit_calibrators(folds: Sequence[LabelHistogram], richest: str | None = None) -> Calibrators:
    """Fit each label's calibrator on held-out rows, of the family that does best on rows it was not fitted on.

    Each family is fitted on all folds but one and judged by its log-loss on that one, for each fold in turn. A family
    takes part from its `least_rows` rows of the rarer class up. It replaces a simpler one where it gains at least
    CLEAR_NATS and CLEAR_ERRORS standard errors (of the sum over rows, from the bins). With few positives little is ever
    clear, so the labels with fewer than RARE_ROWS first choose a family together, by the sum of their gains, and depart
    from it one by one. A label of one class keeps its logits. The chosen family is then fitted on all folds.

    Args:
        folds: two or more histograms of disjoint rows, of the same labels and bins. Rows that belong together (of one
            group) have to be in one fold.
        richest: name of the last of FAMILIES that may be chosen; None = all may.

    Raises:
        ValueError: There are fewer than two folds, or their shapes differ.
    """
    return fit_cross_calibrators(folds, richest)[0]


def fit_cross_calibrators(
    folds: Sequence[LabelHistogram], richest: str | None = None
) -> tuple[Calibrators, list[Calibrators]]:
    """Return what `fit_calibrators` returns, and for each fold the same families fitted to the other folds alone."""
    _check_folds(folds)
    groups, names = LogitGroups.of(folds), [family.name for family in FAMILIES]
    with one_thread():
        return _best_of_all(groups, names.index(richest) if richest else len(names) - 1)


def _best_of_all(groups: LogitGroups, richest: int) -> tuple[Calibrators, list[Calibrators]]:
    """Fit every family to every label, with and without each fold, and keep the chosen ones."""
    num_folds = len(groups.positives)
    priors = _Priors.of(groups, None, None)
    training_priors = [_Priors.of(groups, fold, priors) for fold in range(num_folds)]
    curves, crossed, moments = [], [], []
    for part in groups.slices():
        curves.append(_fitted(groups, None, part, priors, None))
        crossed.append([_fitted(groups, fold, part, training_priors[fold], curves[-1]) for fold in range(num_folds)])
        moments.append(_held_out_moments(groups, part, crossed[-1]))
    sums, squares = (torch.cat(list(column), -1) for column in zip(*moments, strict=True))
    chosen = _chosen(sums, squares, groups, richest)
    parts = list(groups.slices())
    others = [_put_together(chosen, [each[fold] for each in crossed], parts) for fold in range(num_folds)]
    return _put_together(chosen, curves, parts), others


class _Priors(NamedTuple):
    """The priors of a slope without an intercept beside it and of one with."""

    alone: SlopePrior
    beside: SlopePrior

    @classmethod
    def of(cls, groups: LogitGroups, fold: int | None, start: _Priors | None) -> _Priors:
        starts = (1.0, 1.0) if start is None else (start.alone.centre, start.beside.centre)
        return cls(pooled_slope(groups, fold, False, starts[0]), pooled_slope(groups, fold, True, starts[1]))


class _Curves(NamedTuple):
    """All families fitted to k labels, by name.

    Attributes:
        parameters: [i, P] float64 of each.
        labels: [i] int64, the places within the slice of the labels that have rows enough.
    """

    parameters: dict[str, Tensor]
    labels: dict[str, Tensor]

    def logits(self, z: Tensor) -> Tensor:
        """[F, k, C]: what each family makes of logits [k, C]; the identity where it is not fitted."""
        return torch.stack([self._of(family, z) for family in FAMILIES])

    def _of(self, family: Family, z: Tensor) -> Tensor:
        labels, parameters = self.labels[family.name], self.parameters[family.name]
        if len(labels) == len(z):
            return family.logits(parameters, z)
        return z.index_copy(0, labels, family.logits(parameters, z[labels]))


def _fitted(groups: LogitGroups, fold: int | None, part: slice, priors: _Priors, start: _Curves | None) -> _Curves:
    """Every family fitted to a slice of labels on all folds but one."""
    positives, negatives = groups.training_counts(fold, part)
    counts = LabelCounts(
        groups.centres[part], positives, negatives, platt_targets(positives, negatives), priors.alone, priors.beside
    )
    rarer, fitted = groups.rows_of_rarer_class()[part], _Curves({}, {})
    for family in FAMILIES:
        labels = fitted.labels[family.name] = (rarer >= family.least_rows).nonzero()[:, 0]
        own = counts if len(labels) == len(rarer) else counts.of(labels)
        first = None if start is None else start.parameters[family.name]
        fitted.parameters[family.name] = family.fit(own, fitted.parameters, first)
    return fitted


def _held_out_moments(groups: LogitGroups, part: slice, crossed: Sequence[_Curves]) -> tuple[Tensor, Tensor]:
    """Sums [F, k] of what each family gains on the identity, row by row of held-out rows, and of products [F, F, k].

    `crossed` are for each fold the curves fitted to the others.
    """
    z = groups.centres[part]
    sums = torch.zeros(len(FAMILIES), len(z), dtype=torch.float64)
    products = torch.zeros(len(FAMILIES), len(FAMILIES), len(z), dtype=torch.float64)
    for fold, curves in enumerate(crossed):
        logits = curves.logits(z)
        for counts, sign in ((groups.positives[fold, part], 1), (groups.negatives[fold, part], -1)):
            gain = functional.logsigmoid(sign * logits)
            gain = gain - gain[:1]
            sums += (gain * counts).sum(2)
            products += torch.einsum("akc,bkc->abk", gain * counts, gain)
    return sums, products


def _chosen(sums: Tensor, products: Tensor, groups: LogitGroups, richest: int) -> Tensor:
    """[K] int64: the family of each label."""
    rarer = groups.rows_of_rarer_class()
    rare, both = (rarer > 0) & (rarer < RARE_ROWS), rarer > 0
    allowed = torch.stack([rarer >= family.least_rows for family in FAMILIES])
    allowed[richest + 1 :] = False
    together = choose_families(
        sums[:, rare].sum(1, keepdim=True),
        products[:, :, rare].sum(2, keepdim=True),
        torch.tensor([[family.for_rare_labels and place <= richest] for place, family in enumerate(FAMILIES)]),
        torch.zeros(1, dtype=torch.int64),
        SHARED_ERRORS,
    )
    start = torch.where(rare, together, 0)
    return choose_families(sums, products, allowed, start).where(both, 0)


def choose_families(
    gains: Tensor, products: Tensor, allowed: Tensor, start: Tensor, clear_errors: float = CLEAR_ERRORS
) -> Tensor:
    """Return [K] int64, the family of each label: `start`, or one that is clearly better, tried from simple to rich.

    Args:
        gains: [F, K] float64, held-out nats by which each family is better than the identity.
        products: [F, F, K] float64, sums over rows of the product of two families' gains.
        allowed: [F, K] bool.
        start: [K] int64.
        clear_errors: how many standard errors a gain has to be; it has to be CLEAR_NATS too.
    """
    current = start
    each = torch.arange(len(start))
    for family in range(len(FAMILIES)):
        gain = gains[family] - gains[current, each]
        variance = products[family, family] + products[current, current, each] - 2 * products[family, current, each]
        clear = gain > (clear_errors * variance.clamp_min(0).sqrt()).clamp_min(CLEAR_NATS)
        current = torch.where(clear & allowed[family], family, current)
    return current


def _put_together(chosen: Tensor, curves: Sequence[_Curves], parts: Sequence[slice]) -> Calibrators:
    """The curves of the chosen families."""
    parameters = []
    for place, family in enumerate(FAMILIES):
        rows = [
            fitted.parameters[family.name][chosen[part][fitted.labels[family.name]] == place]
            for part, fitted in zip(parts, curves, strict=True)
        ]
        width = max((row.shape[1] for row in rows), default=0)
        padded = [functional.pad(row, (0, width - row.shape[1]), value=torch.inf) for row in rows]
        parameters.append(torch.cat([*padded, torch.zeros(0, width, dtype=torch.float64)]))
    return Calibrators(chosen, tuple(parameters))


def _check_folds(folds: Sequence[LabelHistogram]) -> None:
    if len(folds) < 2:
        raise ValueError(f"calibrators need two or more folds to choose a family by, got {len(folds)}")
    shapes = [(fold.num_labels, fold.num_bins) for fold in folds]
    if len(set(shapes)) > 1:
        raise ValueError(f"folds must have the same labels and bins, got {shapes}")
