"""Per-label histograms of the logit: the state of ranking metrics, thresholds and calibration, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torchmetrics import Metric

from mlclf.errors import DataError, RunError

FORMAT_VERSION = 1
LIMIT = 30.0
SLICE_BYTES = 64 << 20
SLICE_CELLS = 1 << 20
_BYTES_PER_BIN = 24
METADATA_KEY = b"mlclf_histogram"
_SCHEMA = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("bin", pa.int32(), nullable=False),
        pa.field("positives", pa.float64(), nullable=False),
        pa.field("negatives", pa.float64(), nullable=False),
        pa.field("least", pa.float32(), nullable=False),
        pa.field("greatest", pa.float32(), nullable=False),
    ]
)


def bins_for(num_labels: int, budget_bytes: int = 64 << 20) -> int:
    """Return how many bins a label gets: 65,536, halved until all labels fit the budget, never below 256."""
    num_bins = 65_536
    while num_bins > 256 and num_labels * num_bins * _BYTES_PER_BIN > budget_bytes:
        num_bins //= 2
    return num_bins


def row_slices(num_rows: int, num_labels: int) -> Iterator[slice]:
    """Yield slices of rows of about a million cells, so that temporaries stay small whatever the batch."""
    step = max(1, SLICE_CELLS // max(1, num_labels))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


class LabelHistogram(Metric):
    """Weighted counts of positive and negative rows per label, over T bins of the logit.

    The bins are uniform on ±30 and the end bins take what lies beyond. They are bins of the logit because those of the
    probability put every rare label into the first one. ±30 is where nothing is left to tell apart in a float32 score:
    it is 1 above 17, and below -30 it is less than 1e-13.

    Each bin keeps the least and the greatest logit that fell into it. Bins where the two are equal are exact ties, so
    what is computed from them is exact; bins with a spread are what error bounds are made of.

    A cell counts where its label is observed (`mask`) and its weight is above 0; a row of weight 0 is padding.

    States, merged over ranks by sum, min or max (`sync`, `merge`):
        positives, negatives: [K, T] float64, sums of weights.
        least, greatest: [K, T] float32; +inf and -inf in an empty bin.
        positive_rows, rows: [K] int64, unweighted counts of the observed rows.
        least_weight: [] float64, the least weight of a row; +inf before the first.
    """

    full_state_update = False
    positives: Tensor
    negatives: Tensor
    least: Tensor
    greatest: Tensor
    positive_rows: Tensor
    rows: Tensor
    least_weight: Tensor

    def __init__(self, num_labels: int, num_bins: int | None = None) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.num_labels = num_labels
        self.num_bins = num_bins if num_bins is not None else bins_for(num_labels)
        # Placeholders: torchmetrics keeps a copy of every default, and the real states are as large as the budget.
        for name, reduction in (("positives", "sum"), ("negatives", "sum"), ("least", "min"), ("greatest", "max")):
            self.add_state(name, torch.empty(0), dist_reduce_fx=reduction)
        for name in ("positive_rows", "rows"):
            self.add_state(name, torch.zeros(num_labels, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("least_weight", torch.tensor(torch.inf, dtype=torch.float64), dist_reduce_fx="min")
        self._clear_bins()

    def _clear_bins(self) -> None:
        shape, device = (self.num_labels, self.num_bins), self.rows.device
        self.positives = torch.zeros(shape, dtype=torch.float64, device=device)
        self.negatives = torch.zeros(shape, dtype=torch.float64, device=device)
        self.least = torch.full(shape, torch.inf, dtype=torch.float32, device=device)
        self.greatest = torch.full(shape, -torch.inf, dtype=torch.float32, device=device)

    def reset(self) -> None:
        """Empty the histogram."""
        super().reset()
        self._clear_bins()

    def update(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: [B, K] floating, counted as float32; finite wherever the cell counts.
            labels: [B, K] bool or uint8 of 0 and 1.
            mask: [B, K] bool, True where the label is observed; None = everywhere.
            weights: [B] of rows or [B, K] of cells, floating, not negative; 0 does not count; None = 1 everywhere.

        Raises:
            DataError: A logit that counts or a weight is not finite, or a weight is negative. Nothing is counted then.
        """
        if weights is not None:
            weights = _checked_weights(weights)
            if weights.dim() == 2:
                mask = weights > 0 if mask is None else mask & (weights > 0)
            elif not bool((weights > 0).all()):
                kept = weights > 0
                logits, labels, weights = logits[kept], labels[kept], weights[kept]
                mask = mask[kept] if mask is not None else None
        logits = logits.float()
        _check_finite(logits, mask)
        if len(logits) == 0:
            return
        self._note_least(weights)
        for rows in row_slices(*logits.shape):
            self._count(
                logits[rows],
                labels[rows] != 0,
                mask[rows] if mask is not None else None,
                weights[rows] if weights is not None else None,
            )

    def _note_least(self, weights: Tensor | None) -> None:
        if weights is None:
            self.least_weight = self.least_weight.clamp_max(1.0)
            return
        counted = weights[weights > 0]
        if len(counted):
            self.least_weight = torch.minimum(self.least_weight, counted.min())

    def _count(self, logits: Tensor, labels: Tensor, mask: Tensor | None, weights: Tensor | None) -> None:
        z = logits.t().contiguous()  # [K, B]: each label's bins stay in the processor's cache while it is counted
        y = labels.t()
        bins = ((z + LIMIT) * (self.num_bins / (2 * LIMIT))).clamp_(0, self.num_bins - 1).long()
        mass = torch.ones((), dtype=torch.float64, device=z.device) if weights is None else weights.t()
        lowest, highest = z, z
        if mask is not None:
            seen = mask.t()
            bins = bins.masked_fill(~seen, 0)  # a hidden logit may be NaN, and its bin anything
            mass, y = mass * seen, y & seen
            lowest, highest = z.masked_fill(~seen, torch.inf), z.masked_fill(~seen, -torch.inf)
        self.positives.scatter_add_(1, bins, mass * y)
        self.negatives.scatter_add_(1, bins, mass * ~y)
        self.least.scatter_reduce_(1, bins, lowest, "amin")
        self.greatest.scatter_reduce_(1, bins, highest, "amax")
        self.positive_rows += y.sum(1)
        self.rows += len(logits) if mask is None else mask.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Return the states by name."""
        return {name: getattr(self, name) for name in self.metric_state}

    def merge(self, other: LabelHistogram) -> None:
        """Add what another histogram of the same labels and bins has counted.

        Raises:
            ValueError: The shapes differ.
        """
        mine, theirs = tuple(self.positives.shape), tuple(other.positives.shape)
        if mine != theirs:
            raise ValueError(f"histograms must have the same labels and bins to be merged, got {mine} and {theirs}")
        self.merge_state(other)

    def nonempty(self) -> Tensor:
        """Return [K, T] bool, True where a row was counted."""
        return self.greatest >= self.least

    def bin_scores(self, scores_of: Callable[[Tensor], Tensor], labels: slice) -> Tensor:
        """Return [k, T] float64, the middle of the least and the greatest score of each bin, for a slice of labels."""
        nonempty = self.greatest[labels] >= self.least[labels]
        ends = (self.least[labels], self.greatest[labels])
        least, greatest = (scores_of(end.where(nonempty, 0.0)).double() for end in ends)
        return (least + greatest) / 2

    def label_slices(self, bytes_per_bin: int) -> Iterator[slice]:
        """Yield slices of labels whose temporaries, at `bytes_per_bin` for each bin, stay within 64 MiB."""
        step = max(1, SLICE_BYTES // (self.num_bins * bytes_per_bin))
        for start in range(0, self.num_labels, step):
            yield slice(start, min(start + step, self.num_labels))

    def pooled(self) -> LabelHistogram:
        """Return a histogram of one label that holds the cells of all labels."""
        pool = LabelHistogram(1, self.num_bins).to(self.positives.device)
        pool.positives, pool.negatives = self.positives.sum(0, keepdim=True), self.negatives.sum(0, keepdim=True)
        pool.least, pool.greatest = self.least.amin(0, keepdim=True), self.greatest.amax(0, keepdim=True)
        pool.positive_rows = self.positive_rows.sum(0, keepdim=True)
        pool.rows = self.rows.sum(0, keepdim=True)
        pool.least_weight = self.least_weight.clone()
        return pool

    def coarsened(self, num_bins: int) -> LabelHistogram:
        """Return the same counts in fewer bins, each of which joins as many neighbours; itself if there are no more."""
        if self.num_bins <= num_bins:
            return self
        coarse = LabelHistogram(self.num_labels, num_bins).to(self.positives.device)
        shape = (self.num_labels, num_bins, -1)
        coarse.positives, coarse.negatives = self.positives.view(shape).sum(2), self.negatives.view(shape).sum(2)
        coarse.least, coarse.greatest = self.least.view(shape).amin(2), self.greatest.view(shape).amax(2)
        coarse.positive_rows, coarse.rows = self.positive_rows.clone(), self.rows.clone()
        coarse.least_weight = self.least_weight.clone()
        return coarse

    def to_table(self) -> pa.Table:
        """Return the non-empty bins, one a row, ordered by label and bin, with the counts of rows in the metadata."""
        nonempty = self.nonempty()
        label, bin_index = nonempty.nonzero(as_tuple=True)
        columns = [label.int(), bin_index.int()]
        columns += [state[nonempty] for state in (self.positives, self.negatives, self.least, self.greatest)]
        document = {
            "format_version": FORMAT_VERSION,
            "num_bins": self.num_bins,
            "rows": self.rows.tolist(),
            "positive_rows": self.positive_rows.tolist(),
            "least_weight": float(self.least_weight) if bool(self.least_weight.isfinite()) else None,
        }
        schema = _SCHEMA.with_metadata({METADATA_KEY: json.dumps(document).encode()})
        return pa.table([pa.array(column.cpu().numpy()) for column in columns], schema=schema)

    @classmethod
    def from_table(cls, table: pa.Table) -> LabelHistogram:
        """Read what `to_table` returned.

        Raises:
            RunError: The table is not a histogram, of another format version, or damaged.
        """
        document = _document_of(table)
        histogram = cls(len(document["rows"]), document["num_bins"])
        label, bin_index = _column(table, "label").long(), _column(table, "bin").long()
        _check_indices(label, bin_index, histogram)
        for name in ("positives", "negatives", "least", "greatest"):
            getattr(histogram, name)[label, bin_index] = _column(table, name)
        histogram.rows = torch.tensor(document["rows"], dtype=torch.int64)
        histogram.positive_rows = torch.tensor(document["positive_rows"], dtype=torch.int64)
        if document["least_weight"] is not None:
            histogram.least_weight = torch.tensor(document["least_weight"], dtype=torch.float64)
        return histogram


def _checked_weights(weights: Tensor) -> Tensor:
    weights = weights.double()
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        place = tuple(int(index) for index in bad.nonzero()[0])
        where = f"row {place[0]}" if len(place) == 1 else f"row {place[0]} for label {place[1]}"
        raise DataError(f"weights must be finite and not negative, got {float(weights[place])!r} in {where} of a batch")
    return weights


def _check_finite(logits: Tensor, mask: Tensor | None) -> None:
    bad = ~logits.isfinite()
    if mask is not None:
        bad &= mask
    if bool(bad.any()):
        row, label = (int(index) for index in bad.nonzero()[0])
        raise DataError(
            f"logits must be finite where a label is observed, got {float(logits[row, label])!r} for label {label} "
            f"in row {row} of a batch ({int(bad.sum())} such cells); look for infinite inputs or weights"
        )


def _document_of(table: pa.Table) -> dict[str, Any]:
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    missing = [name for name in _SCHEMA.names if name not in table.column_names]
    if raw is None or missing:
        raise RunError(
            f"a table of histograms must have the columns {', '.join(_SCHEMA.names)} and the metadata "
            f"{METADATA_KEY.decode()!r}, got the columns {', '.join(table.column_names) or 'none'} "
            f"{'without' if raw is None else 'with'} it; it is another file"
        )
    document: dict[str, Any] = json.loads(raw)
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise RunError(
            f"a table of histograms must have format_version {FORMAT_VERSION}, got {found!r}; "
            "read it with the version of mlclf that wrote it"
        )
    return document


def _column(table: pa.Table, name: str) -> Tensor:
    column = table.column(name).cast(_SCHEMA.field(name).type)
    return torch.from_numpy(column.combine_chunks().to_numpy(zero_copy_only=False).copy())


def _check_indices(label: Tensor, bin_index: Tensor, histogram: LabelHistogram) -> None:
    inside = (label >= 0) & (label < histogram.num_labels) & (bin_index >= 0) & (bin_index < histogram.num_bins)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise RunError(
            f"a table of histograms of {histogram.num_labels} labels and {histogram.num_bins} bins must not have "
            f"label {int(label[row])}, bin {int(bin_index[row])} (row {row}); the file is damaged"
        )
