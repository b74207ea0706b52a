"""Metrics that are counted row by row in constant memory: losses, decisions, precision at k; and calibration error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.decisions.histograms import LabelHistogram, row_slices
from mlclf.errors import DataError

TOP_COUNTS = (1, 3, 5)
_ECE_BYTES_PER_BIN = 64


class LossSums(Metric):
    """Log-loss, Brier score and expected positives of each label, as weighted sums.

    States, all [K] float64, summed over ranks: `loss`, `squared_error`, `expected` (sum of scores), `positives`,
    `weights`.
    """

    full_state_update = False
    loss: Tensor
    squared_error: Tensor
    expected: Tensor
    positives: Tensor
    weights: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        for name in ("loss", "squared_error", "expected", "positives", "weights"):
            self.add_state(name, torch.zeros(num_labels, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        logits: Tensor,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Add a batch.

        The loss of a cell is softplus(z) − y z in float64, unclipped: log(1 + e^−z) for a positive one and
        log(1 + e^z) for a negative one.

        Args:
            logits: [B, K] floating.
            scores: [B, K] float32, the probabilities of these logits.
            labels: [B, K] bool or uint8 of 0 and 1.
            mask: [B, K] bool, True where the label is observed; None = everywhere.
            weights: [B] floating, not negative, 0 for padding; None = 1 for every row.

        Raises:
            DataError: A score that counts is not a probability.
        """
        for part in _parts(scores, labels, mask, weights):
            z = logits[part.rows].double()
            loss = torch.logaddexp(torch.where(part.labels, -z, z), z.new_zeros(()))
            probability = part.scores.double()
            self.loss += part.weights @ loss.where(part.seen, 0.0)
            self.squared_error += part.weights @ (probability - part.labels.double()).square().where(part.seen, 0.0)
            self.expected += part.weights @ probability.where(part.seen, 0.0)
            self.positives += part.weights @ part.labels.double()
            self.weights += part.weights @ part.seen.double()

    def compute(self) -> dict[str, Tensor]:
        """Return `log_loss` and `brier`, each [K] float64."""
        return {"log_loss": self.log_loss(), "brier": self.brier()}

    def log_loss(self) -> Tensor:
        """Return [K] float64, the mean log-loss of each label; NaN without an observed row."""
        return self.loss / self.weights

    def brier(self) -> Tensor:
        """Return [K] float64, the mean squared error of the scores of each label; NaN without an observed row."""
        return self.squared_error / self.weights

    def constant_log_loss(self, prevalences: Tensor) -> Tensor:
        """Return [K] float64, the mean log-loss of predicting `prevalences` ([K] float64) for every row."""
        negatives = self.weights - self.positives
        return -(torch.xlogy(self.positives, prevalences) + torch.xlogy(negatives, 1 - prevalences)) / self.weights


class DecisionCounts(Metric):
    """Right and wrong decisions of each label at given thresholds and at 0.5, counted row by row.

    A decision is ``score >= threshold``, both float32, so ties are positive; a NaN threshold is never positive.

    States, float64, weighted, summed over ranks:
        counts: [2, 4, K]; at the thresholds and at 0.5, the true positives, false positives, false negatives and true
            negatives.
        right_rows: [], rows where the decisions at the thresholds are right for every observed label.
        labelled_rows: [], rows with an observed label.
    """

    full_state_update = False
    thresholds: Tensor
    counts: Tensor
    right_rows: Tensor
    labelled_rows: Tensor

    def __init__(self, thresholds: Tensor) -> None:
        """Start at zero, with `thresholds` [K] float32."""
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.register_buffer("thresholds", thresholds.to(torch.float32), persistent=False)
        self.add_state("counts", torch.zeros(2, 4, len(thresholds), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("right_rows", "labelled_rows"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Add a batch; see `LossSums.update` for the arguments and errors."""
        for part in _parts(scores, labels, mask, weights):
            decisions = (part.scores >= self.thresholds) & part.seen
            self.counts[0] += _confusion(decisions, part)
            self.counts[1] += _confusion((part.scores >= 0.5) & part.seen, part)
            labelled = part.seen.any(1)
            self.right_rows += part.weights @ ((decisions == part.labels).all(1) & labelled).double()
            self.labelled_rows += part.weights @ labelled.double()

    def compute(self) -> dict[str, Tensor]:
        """Return `subset_accuracy` and `hamming_loss`, each [] float64."""
        return {"subset_accuracy": self.subset_accuracy(), "hamming_loss": self.hamming_loss()}

    def subset_accuracy(self) -> Tensor:
        """Return [] float64, the share of rows with an observed label that are right in all those; NaN without one."""
        return self.right_rows / self.labelled_rows

    def hamming_loss(self) -> Tensor:
        """Return [] float64, the share of observed cells decided wrongly at the thresholds; NaN without one."""
        wrong = self.counts[0, 1:3].sum()
        return wrong / self.counts[0].sum()


class PrecisionAtTop(Metric):
    """Precision among the 1, 3 and 5 labels with the largest scores of each row.

    Rows count that have an observed label, and in them the observed labels only. Ties are broken in label order. The
    hits are divided by k even where a row has fewer observed labels.

    States, float64, weighted, summed over ranks: `hits` [3], `labelled_rows` [].
    """

    full_state_update = False
    hits: Tensor
    labelled_rows: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.add_state("hits", torch.zeros(len(TOP_COUNTS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("labelled_rows", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Add a batch; see `LossSums.update` for the arguments and errors."""
        for part in _parts(scores, labels, mask, weights):
            hits = part.labels.gather(1, _top_labels(part.scores, part.seen, max(TOP_COUNTS)))
            for index, count in enumerate(TOP_COUNTS):
                self.hits[index] += part.weights @ hits[:, :count].sum(1).double() / count
            self.labelled_rows += part.weights @ part.seen.any(1).double()

    def compute(self) -> Tensor:
        """Return [3] float64, the precision at 1, 3 and 5; NaN without a row that has an observed label."""
        return self.precision()

    def precision(self) -> Tensor:
        """Return [3] float64, the precision at 1, 3 and 5; NaN without a row that has an observed label."""
        return self.hits / self.labelled_rows


def precision(counts: Tensor) -> Tensor:
    """Return TP / (TP + FP) of `counts` [4, …] (TP, FP, FN, TN); NaN where nothing is flagged."""
    return counts[0] / (counts[0] + counts[1])


def recall(counts: Tensor) -> Tensor:
    """Return TP / (TP + FN) of `counts` [4, …] (TP, FP, FN, TN); NaN without positives."""
    return counts[0] / (counts[0] + counts[2])


def f1(counts: Tensor) -> Tensor:
    """Return 2 TP / (2 TP + FP + FN) of `counts` [4, …] (TP, FP, FN, TN); NaN only where that sum is 0."""
    return 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])


def calibration_error(histogram: LabelHistogram, scores_of: Callable[[Tensor], Tensor], num_groups: int = 15) -> Tensor:
    """Return the expected calibration error of each label over groups of equal mass (Nixon et al. 2019).

    It is the mean over rows of |share of positives − mean score| of the row's group. Bins of the histogram are never
    cut: each belongs to the group in which the middle of its mass lies, and its scores count as the middle of its
    least and greatest. So equal scores stay together, and groups are as equal as ties allow.

    Args:
        histogram: of K labels.
        scores_of: float32 logits to float32 probabilities, element by element.
        num_groups: groups a label.

    Returns:
        [K] float64; NaN without an observed row.
    """
    errors = torch.empty_like(histogram.positives[:, 0])
    for labels in histogram.label_slices(_ECE_BYTES_PER_BIN):
        positives = histogram.positives[labels]
        mass = positives + histogram.negatives[labels]
        total = mass.sum(1, keepdim=True)
        middle = (mass.cumsum(1) - mass / 2) / total
        group = (middle.nan_to_num() * num_groups).long().clamp_(0, num_groups - 1)
        surplus = positives - mass * histogram.bin_scores(scores_of, labels)
        by_group = surplus.new_zeros(len(surplus), num_groups).scatter_add_(1, group, surplus)
        errors[labels] = by_group.abs().sum(1) / total[:, 0]
    return errors


class _Part(NamedTuple):
    """A slice of a batch's rows, in which hidden cells and padding rows are not `seen`, and positives are seen ones."""

    rows: slice
    scores: Tensor  # [b, K] float32
    labels: Tensor  # [b, K] bool
    seen: Tensor  # [b, K] bool
    weights: Tensor  # [b] float64


def _parts(scores: Tensor, labels: Tensor, mask: Tensor | None, weights: Tensor | None) -> Iterator[_Part]:
    for rows in row_slices(*labels.shape):
        y, s = labels[rows] != 0, scores[rows]
        w = s.new_ones(len(s), dtype=torch.float64) if weights is None else weights[rows].double()
        seen = (w > 0)[:, None].expand_as(y)
        if mask is not None:
            seen = seen & mask[rows]
        _check_scores(s, seen)
        yield _Part(rows, s, y & seen, seen, w)


def _check_scores(scores: Tensor, seen: Tensor) -> None:
    if scores.dtype != torch.float32:
        raise TypeError(f"scores must be float32, got {scores.dtype}")
    bad = seen & ~((scores >= 0) & (scores <= 1))
    if bool(bad.any()):
        row, label = (int(index) for index in bad.nonzero()[0])
        raise DataError(
            f"scores must be probabilities from 0 to 1, got {float(scores[row, label])!r} for label {label} "
            f"({int(bad.sum())} such cells in a batch); logits are refused, not converted"
        )


def _confusion(decisions: Tensor, part: _Part) -> Tensor:
    positive, negative = part.labels, part.seen & ~part.labels
    cells = (decisions & positive, decisions & negative, ~decisions & positive, ~decisions & negative)
    return torch.stack([part.weights @ cell.double() for cell in cells])


def _top_labels(scores: Tensor, seen: Tensor, count: int) -> Tensor:
    """Return [B, min(count, K)] int64, the seen labels of largest scores, ties in label order, then unseen ones.

    `topk` promises no order among ties, so it gets distinct integers: the bits of a float that is not negative grow
    with it, and take the upper half; the lower half falls with the label.
    """
    num_labels = scores.shape[1]
    falling = torch.arange(num_labels - 1, -1, -1, device=scores.device)
    keys = ((scores + 0.0).view(torch.int32).long() << 32) | falling  # + 0.0 turns -0.0 into 0.0
    keys = torch.where(seen, keys, falling - num_labels)
    return keys.topk(min(count, num_labels), dim=1).indices
