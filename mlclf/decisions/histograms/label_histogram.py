"""Per-label histograms of the logit: the state of ranking metrics, thresholds and calibration, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from mlclf.decisions.cells.checks import check_finite, checked_weights
from mlclf.decisions.histograms.bins import SLICE_BYTES, Counts, bins_for, row_slices, take_bins
from mlclf.decisions.histograms.counting import MOST_ROWS, Bins, CellsByLabel, by_label, count_cells
from mlclf.decisions.histograms.lazy_bins import Filled, is_lazy, lazy_zeros
from mlclf.machine.memory import keep_freed_memory

_EXACTLY = 1e6


class LabelHistogram(Metric):
    """Weighted counts of positive and negative rows per label, over T bins of the logit.

    The bins are uniform on ±30 and the end bins take what lies beyond. They are bins of the logit because those of the
    probability put every rare label into the first one. ±30 is where nothing is left to tell apart in a float32 score:
    it is 1 above 17, and below -30 it is less than 1e-13.

    Each bin keeps the least and the greatest logit that fell into it, in float32 or, with `ends_dtype` float64, as they
    are: then logits that float32 does not tell apart are no ties. Bins where the two are equal are exact ties, so
    what is computed from them is exact; bins with a spread are what error bounds are made of.

    A cell counts where its label is observed (`mask`) and its weight is above 0; a row of weight 0 is padding.

    `positives` and `negatives` [K, T] are read as float64 a slice of labels at a time (`Counts`), and so are
    `positive_squares` and `negative_squares`, the sums of squared weights.

    States, merged over ranks by sum, min or max (`sync`, `merge`):
        counts: [K, 2, T], negatives and positives: int32 while every weight is 1, else float64.
        squares: the same of squared weights, float64; only of a weighted histogram that has seen weights other than 1.
        least, greatest: [K, T] of `ends_dtype`; +inf and -inf in an empty bin.
        positive_rows, rows: [K] int64, unweighted counts of the observed rows.
        weighted_squares, weighted_rows: [K, 2] float64, sums of squared weights and counts of the negative and positive
            rows of batches in which some weight was not 1.
        least_weight, greatest_weight: [] float64, of the cells that count; +inf and 0 before the first.
    """

    full_state_update = False
    counts: Tensor
    squares: Tensor
    positive_rows: Tensor
    rows: Tensor
    weighted_squares: Tensor
    weighted_rows: Tensor
    least_weight: Tensor
    greatest_weight: Tensor

    def __init__(
        self,
        num_labels: int,
        num_bins: int | None = None,
        weighted: bool = False,
        ends_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Start empty.

        Args:
            num_labels: K.
            num_bins: T; None = `bins_for(num_labels)`.
            weighted: keep squared weights too, from the first weight other than 1.
            ends_dtype: float32 or float64, as which logits are told apart.
        """
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        keep_freed_memory()
        self.num_labels = num_labels
        self.num_bins = num_bins if num_bins is not None else bins_for(num_labels, ends=ends_dtype)
        self.ends_dtype = ends_dtype
        self.weighted = weighted
        self._filled: Filled | None = None
        # Placeholders: torchmetrics keeps a copy of every default, and the real states are as large as the budget.
        for name, reduction in (("counts", "sum"), ("least", "min"), ("greatest", "max")):
            self.add_state(name, torch.empty(0), dist_reduce_fx=reduction)
        for name in ("positive_rows", "rows"):
            self.add_state(name, torch.zeros(num_labels, dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("weighted_squares", "weighted_rows"):
            self.add_state(name, torch.zeros(num_labels, 2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("least_weight", torch.tensor(torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self.add_state("greatest_weight", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="max")
        self._clear_bins()

    def _clear_bins(self) -> None:
        shape, device = (self.num_labels, self.num_bins), self.rows.device
        both = (self.num_labels, 2, self.num_bins)
        self._filled = None
        if is_lazy(shape, device):
            self.counts = lazy_zeros(both, torch.int32)
            self._least, self._greatest = (lazy_zeros(shape, self.ends_dtype) for _ in range(2))
            self._filled = Filled(np.zeros((self.num_labels, 2), np.int64))
        else:
            self.counts = torch.zeros(both, dtype=torch.int32, device=device)
            self.least = torch.full(shape, torch.inf, dtype=self.ends_dtype, device=device)
            self.greatest = torch.full(shape, -torch.inf, dtype=self.ends_dtype, device=device)
        if self.keeps_squares:
            self.squares = torch.zeros(self.counts.shape, dtype=torch.float64, device=device)

    @property
    def keeps_squares(self) -> bool:
        return "squares" in self._defaults

    @property
    def least(self) -> Tensor:
        """[K, T], the least logit of each bin; takes its memory whole, unlike `ends`."""
        self._fill()
        return self._least

    @least.setter
    def least(self, values: Tensor) -> None:
        self._fill()
        self._least = values

    @property
    def greatest(self) -> Tensor:
        """[K, T], the greatest logit of each bin; takes its memory whole, unlike `ends`."""
        self._fill()
        return self._greatest

    @greatest.setter
    def greatest(self, values: Tensor) -> None:
        self._fill()
        self._greatest = values

    @property
    def lazy_ends(self) -> tuple[Tensor, Tensor, Filled | None]:
        """The ends of the bins as they are kept, and which of them have been filled; None = all."""
        return self._least, self._greatest, self._filled

    def set_ends(self, least: Tensor, greatest: Tensor, filled: Filled | None = None) -> None:
        """Take on the ends of all bins at once, of which those have been filled that `filled` says, or all."""
        self._least, self._greatest, self._filled = least, greatest, filled

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> LabelHistogram:
        """What `Metric` does to move the states; a move to where they are leaves empty bins without memory."""
        if self._filled is None or fn(self.rows).device != self.rows.device:
            super()._apply(fn, exclude_state)
        return self

    def _fill(self) -> None:
        if self._filled is not None:
            for labels in self.label_slices(32):
                whole = slice(0, self.num_bins)
                self._least[labels], self._greatest[labels] = self.ends(labels, whole)
            self._filled = None

    def window(self, labels: slice) -> slice:
        """Return bins beyond which a slice of labels has none, with an empty one above them if there is any."""
        return slice(0, self.num_bins) if self._filled is None else self._filled.window(labels, self.num_bins)

    def ends(self, labels: slice, bins: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest logit of each of some bins, [k, t], for a slice of labels.

        The bins are a slice, or [t] int64 that rise.
        """
        least, greatest = (
            ends[labels, bins] if isinstance(bins, slice) else take_bins(ends[labels], bins)
            for ends in (self._least, self._greatest)
        )
        if self._filled is None or self._filled.has(labels, bins):
            return least, greatest
        known = self._filled.known(labels, bins)
        return least.where(known, torch.inf), greatest.where(known, -torch.inf)

    @property
    def positives(self) -> Counts:
        """[K, T], sums of the weights of positive rows."""
        return Counts(self.counts[:, 1])

    @property
    def negatives(self) -> Counts:
        """[K, T], sums of the weights of negative rows."""
        return Counts(self.counts[:, 0])

    @property
    def positive_squares(self) -> Counts:
        """[K, T], sums of the squared weights of positive rows; ValueError where they were not kept."""
        return Counts(self.squared()[:, 1])

    @property
    def negative_squares(self) -> Counts:
        """[K, T], sums of the squared weights of negative rows; ValueError where they were not kept."""
        return Counts(self.squared()[:, 0])

    def squared(self) -> Tensor:
        if self.keeps_squares:
            return self.squares
        if self.counts.is_floating_point() and float(self.greatest_weight) > 0 and not self.all_ones():
            raise ValueError("a histogram must be made with weighted=True to have squared weights, got weighted=False")
        return self.counts

    def all_ones(self) -> bool:
        return float(self.least_weight) == float(self.greatest_weight) == 1

    def reset(self) -> None:
        """Empty the histogram."""
        super().reset()
        self._clear_bins()

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        part: slice | None = None,
    ) -> None:
        """Count a batch; fastest where logits and labels are stored label by label (the transpose of [K, B]).

        Without weights, several threads may count at once, each labels of its own (`part`), up to 2³¹ rows.

        Args:
            logits: [B, K] floating, counted as `ends_dtype`; finite wherever the cell counts.
            labels: [B, K] bool or uint8 of 0 and 1.
            mask: [B, K] bool, True where the label is observed; None = everywhere.
            weights: [B] of rows or [B, K] of cells, floating, not negative; 0 does not count; None = 1 everywhere.
            part: the labels that the columns are; None = all.

        Raises:
            DataError: A logit that counts or a weight is not finite, or a weight is negative. Nothing is counted then.
        """
        if weights is not None:
            weights = checked_weights(weights)
            if weights.dim() == 2:
                mask = weights > 0 if mask is None else mask & (weights > 0)
            elif not bool((weights > 0).all()):
                kept = weights > 0
                logits, labels, weights = logits[kept], labels[kept], weights[kept]
                mask = mask[kept] if mask is not None else None
        logits = logits.to(self.ends_dtype)
        check_finite(logits, mask)
        if logits.numel() == 0:
            return
        if self._note_range(weights):
            weights = None
        if weights is not None or int(self.rows.max()) + len(logits) > MOST_ROWS:
            self.widen()
        if weights is not None:
            self._note_squares(labels, mask, weights, part or slice(0, self.num_labels))
        whole = [slice(0, len(logits))] if logits.t().is_contiguous() else row_slices(*logits.shape)
        for rows in whole:
            self._count(
                logits[rows],
                labels[rows],
                mask[rows] if mask is not None else None,
                weights[rows] if weights is not None else None,
                part or slice(0, self.num_labels),
            )

    def _note_range(self, weights: Tensor | None) -> bool:
        """Note the least and greatest weight of a batch; True where all that count are 1."""
        least = greatest = torch.ones_like(self.least_weight)
        if weights is not None:
            counted = weights[weights > 0]
            if len(counted) == 0:
                return True
            least, greatest = counted.aminmax()
        self.least_weight = torch.minimum(self.least_weight, least)
        self.greatest_weight = torch.maximum(self.greatest_weight, greatest)
        return bool(least == 1) and bool(greatest == 1)

    def _note_squares(self, labels: Tensor, mask: Tensor | None, weights: Tensor, part: slice) -> None:
        for rows in row_slices(*labels.shape):
            positive = labels[rows] != 0
            seen = torch.ones_like(positive) if mask is None else mask[rows] != 0
            squares = weights[rows].reshape(len(positive), -1).square()
            for half, cells in enumerate((seen & ~positive, seen & positive)):
                self.weighted_squares[part, half] += (squares * cells).sum(0)
                self.weighted_rows[part, half] += cells.sum(0)

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """Return sums of the weights of the negative and positive rows, and of their squares, each [K, 2] float64."""
        rows = torch.stack([self.rows - self.positive_rows, self.positive_rows], 1).double()
        if not self.counts.is_floating_point() or self.all_ones():
            return rows, rows
        return self.counts.sum(2), self.weighted_squares + (rows - self.weighted_rows)

    def effective_rows(self) -> Tensor:
        """Return [K] float64, (Σw)² / Σw²: how many rows of equal weight say as much (Kish 1965)."""
        sums, squares = self.class_weights()
        return effective(sums.sum(1), squares.sum(1))

    def effective_class_rows(self) -> Tensor:
        """Return [K, 2] float64, the same of the negative rows and of the positive ones."""
        return effective(*self.class_weights())

    def widen(self) -> None:
        """Count in float64 from now on, and keep the squares of weights if they are asked for."""
        if not self.counts.is_floating_point():
            self.counts = self.counts.double()
        if self.weighted and not self.keeps_squares:
            self.add_state("squares", torch.empty(0, dtype=torch.float64), dist_reduce_fx="sum")
            self.squares = self.counts.clone()  # every weight so far was 1

    def _count(self, logits: Tensor, labels: Tensor, mask: Tensor | None, weights: Tensor | None, part: slice) -> None:
        if weights is not None and weights.dim() == 2:
            weights = by_label(weights)
        scored = CellsByLabel(by_label(logits), by_label(labels), None if mask is None else by_label(mask), weights)
        squares = self.squares if self.keeps_squares else None
        bins = Bins(self.counts, squares, self._least, self._greatest, filled=self._filled).of(part)
        positive_rows, rows = count_cells(bins, scored)
        self.positive_rows[part] += positive_rows
        self.rows[part] += rows

    def compute(self) -> dict[str, Tensor]:
        """Return the states by name."""
        return {name: getattr(self, name) for name in self.metric_state}

    def merge(self, other: LabelHistogram) -> None:
        """Add what another histogram of the same labels and bins has counted.

        Raises:
            ValueError: The shapes differ, or squared weights are to be kept and the other has none.
        """
        mine, theirs = (self.num_labels, self.num_bins), (other.num_labels, other.num_bins)
        if mine != theirs:
            raise ValueError(f"histograms must have the same labels and bins to be merged, got {mine} and {theirs}")
        if other.counts.is_floating_point() or int((self.rows + other.rows).amax()) > MOST_ROWS:
            self.widen()
        if self.keeps_squares:
            self.squares += other.squared()
        self.counts += other.counts
        torch.minimum(self.least, other.least, out=self.least)
        torch.maximum(self.greatest, other.greatest, out=self.greatest)
        self.positive_rows += other.positive_rows
        self.rows += other.rows
        self.weighted_squares += other.weighted_squares
        self.weighted_rows += other.weighted_rows
        self.least_weight = torch.minimum(self.least_weight, other.least_weight)
        self.greatest_weight = torch.maximum(self.greatest_weight, other.greatest_weight)
        self._update_count += other._update_count

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[..., bool] | None = None,
    ) -> None:
        """Replace the states by those of all ranks together; see `torchmetrics.Metric.sync`.

        Ranks first agree on how wide they count: one may have seen weights where another has not.
        """
        available = distributed_available or self.distributed_available_fn
        if should_sync and available is not None and available():
            group = process_group or self.process_group
            state = torch.tensor([int(self.rows.max()), int(self.counts.is_floating_point())], device=self.rows.device)
            found = torch.stack((dist_sync_fn or gather_all_tensors)(state, group))
            if bool(found[:, 1].any()) or int(found[:, 0].sum()) > MOST_ROWS:
                self.widen()
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def nonempty(self) -> Tensor:
        """Return [K, T] bool, True where a row was counted."""
        return self.greatest >= self.least

    def label_slices(self, bytes_per_bin: int) -> Iterator[slice]:
        """Yield slices of labels whose temporaries, at `bytes_per_bin` for each bin, stay within 64 MiB."""
        step = max(1, SLICE_BYTES // (self.num_bins * bytes_per_bin))
        for start in range(0, self.num_labels, step):
            yield slice(start, min(start + step, self.num_labels))


def effective(sums: Tensor, squares: Tensor) -> Tensor:
    """(Σw)² / Σw² of sums of weights and of squared weights, 0 without any; whole where weights are all the same."""
    return ((sums.square() / squares).nan_to_num(0.0, 0.0) * _EXACTLY).round() / _EXACTLY
