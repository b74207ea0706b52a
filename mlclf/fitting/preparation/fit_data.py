"""FitData: the rows of a fit and the statistics of them, found in one pass."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.inspection.fit_memory import RESIDENT_SHARE
from mlclf.data.parquet.content import Contents
from mlclf.data.passes.partial_passes import matching_units
from mlclf.data.passes.statistics import Statistics, fit_statistics
from mlclf.data.sampling.splits import CHOICE, DECISION, Split
from mlclf.data.streaming.memory_budget import PoolShape, lanes_for, pool_of_rows, reader_bytes
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.fitting.preparation.fit_plan import FitPlan
from mlclf.fitting.preparation.model_size import check_buckets, check_model_size
from mlclf.progress import Progress
from mlclf.training.hold_out import HoldOut, LabelTotals
from mlclf.training.losses import pos_weights

CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class FitData:
    """What is fitted, with the statistics of its rows and what follows from them.

    Attributes:
        asked: the plan of the fit; its files are without what the pass set aside.
        statistics: what the pass found.
        totals: row weights behind each label, by part; validation data is a part without any.
        hold_out: what each part of the rows is for.
        pos_weight: [K] float64, the factor of the positive term of each label.
        encoder, valid_encoder: of the rows of training and of validation data.
        pool: bound on the rows held while streaming.
    """

    asked: FitPlan
    statistics: Statistics
    totals: LabelTotals
    hold_out: HoldOut
    pos_weight: Tensor
    encoder: RowEncoder
    valid_encoder: RowEncoder
    pool: PoolShape

    @property
    def num_labels(self) -> int:
        return len(self.statistics.label_names)

    @property
    def final_totals(self) -> LabelTotals:
        """Row weights behind each label of the final model: [1, K]."""
        return self.totals.of(self.hold_out.final())

    @property
    def mean_total(self) -> float:
        """Mean over labels of the row weights that observe them, of the final model."""
        return float(self.final_totals.totals.mean())

    @property
    def prevalences(self) -> Tensor:
        """(P + ½) ÷ (N + 1) of each label in the rows of the final model: [K] float64."""
        return ((self.final_totals.positives + 0.5) / (self.final_totals.totals + 1))[0]

    @property
    def chunk_rows(self) -> int:
        """Rows of a batch where the batch size does not change results."""
        return min(CHUNK_ROWS, max(256, (1 << 25) // self.num_labels))

    @property
    def num_rows(self) -> int:
        """Rows of training and of given validation data."""
        return self.asked.plan.readable_rows + (self.asked.valid_plan.rows if self.asked.valid_plan else 0)

    @property
    def fits_in_memory(self) -> bool:
        """Whether all rows are held in memory, because they take little of the budget."""
        return self.may_hold(self.num_rows, self.statistics.row_bytes)

    def may_hold(self, rows: int, row_bytes: float) -> bool:
        """Whether so many rows may be held in memory."""
        return rows * row_bytes <= self.asked.budget / RESIDENT_SHARE

    def drawn_rows(self, parts: Sequence[int] | None) -> int:
        """Rows of training data in some parts of the split, or in all."""
        return sum(count for part, count in self.statistics.rows.items() if parts is None or part in parts)

    def contents(self) -> list[list[str]]:
        """Digests of the content of each training and validation file; reads the validation data for it."""
        found: list[str] = []
        if self.asked.valid_plan is not None:
            contents = Contents(self.asked.valid_plan, self.encoder.columns)
            contents.add_all(matching_units(self.asked.valid_plan, self.asked.where), self.asked.threads)
            found = contents.of_files()
        return [self.statistics.contents, found]

    def summary(self, algorithm: str) -> str:
        """One line on the size of the problem and how it is solved."""
        features = self.statistics.features
        held = "in memory" if self.fits_in_memory else f"streamed, at most {self.pool.num_bytes >> 20} MiB"
        return (
            f"{self.asked.plan.rows:,} rows, {features.num_dense:,} dense inputs, {features.vocabulary_size:,} ids, "
            f"{self.num_labels:,} labels; {algorithm}, {held}"
        )


def read_statistics(asked: FitPlan) -> Generator[Progress, None, FitData]:
    """Read every row once; warns of what was set aside, of empty held-out parts and of labels with one class."""
    split, schema = asked.split, asked.schema
    check_buckets(schema, asked.settings)
    num_columns = len(schema.feature_columns) + len(schema.labels)
    statistics = yield from fit_statistics(
        asked.plan,
        schema,
        split,
        label_values=asked.settings.data.label_values,
        options=EncodingOptions.of(asked.settings.features),
        threads=asked.threads,
        lanes=lanes_for(asked.budget, reader_bytes(asked.plan, num_columns)),
        where=asked.where,
        skip_corrupt=asked.skip_corrupt,
        looks_for_copies=split.kind != "none" and split.group is None,
    )
    asked = replace(asked, plan=statistics.plan)
    for aside in asked.plan.set_aside:
        lost = "unknown many" if aside.rows is None else f"{aside.rows:,}"
        yield Progress.warning("statistics", f"set aside, {lost} rows: {aside.reason}")
    for warning in statistics.warnings:
        yield Progress.warning("statistics", warning)
    hold_out = asked.hold_out()
    totals = _totals(statistics, hold_out)
    if split.kind == "held_out":
        hold_out = yield from _without_empty_parts(hold_out, totals, statistics)
    final, names = totals.of(hold_out.final()), statistics.label_names
    yield from _labels_of_one_class(final, names)
    pos_weight = pos_weights(asked.settings.loss.pos_weight, final.positives[0], final.totals[0], names)
    check_model_size(statistics.features, len(names), asked.settings, hold_out.num_models)
    statistics.features.counted()  # of the rows that the size of all was measured by
    shape = pool_of_rows(asked.plan, statistics.row_bytes, statistics.decoded_row_bytes, num_columns, asked.budget)
    encoder, valid_encoder = (_encoder(asked, statistics, part) for part in (split, Split(kind="none", part=CHOICE)))
    return FitData(asked, statistics, totals, hold_out, pos_weight, encoder, valid_encoder, shape)


def _encoder(asked: FitPlan, statistics: Statistics, split: Split) -> RowEncoder:
    return RowEncoder(
        asked.schema,
        statistics.features,
        statistics.labels,
        len(statistics.label_names),
        split,
        asked.schema.weight,
        numbered=asked.where is not None,
        group=asked.schema.group or asked.split.group,
    )


def _totals(statistics: Statistics, hold_out: HoldOut) -> LabelTotals:
    """Row weights by part of the split; 0 for validation data, which the pass does not read."""
    positives, totals = torch.from_numpy(statistics.counts.positives), torch.from_numpy(statistics.counts.totals)
    if hold_out.trained.shape[1] > len(positives):
        nothing = torch.zeros_like(positives)
        return LabelTotals(torch.cat([positives, nothing]), torch.cat([totals, nothing]))
    return LabelTotals(positives, totals)


def _without_empty_parts(
    hold_out: HoldOut, counted: LabelTotals, statistics: Statistics
) -> Generator[Progress, None, HoldOut]:
    """Let held-out parts that are empty choose or decide nothing, and warn of it."""
    positives, totals = counted.positives, counted.totals
    remedy = "hold out more rows (--valid-fraction), or use --folds"
    if not bool(((positives[CHOICE] > 0) & (positives[CHOICE] < totals[CHOICE])).any()):
        hold_out = replace(hold_out, judge=torch.full_like(hold_out.judge, -1))
        yield Progress.warning(
            "statistics",
            f"the {statistics.rows[CHOICE]:,} held-out rows that would choose l2 and the stopping point have both "
            f"classes of no label, so they choose nothing: optimizer.l2 is as set, or 1 ÷ Σ weights; {remedy}",
        )
    if not bool(totals[DECISION].any()):
        hold_out = replace(hold_out, decide=torch.full_like(hold_out.decide, -1))
        yield Progress.warning(
            "statistics",
            "no row is held out for calibrator and thresholds, which are 0.5 with status 'fallback'; " + remedy,
        )
    return hold_out


def _labels_of_one_class(final: LabelTotals, names: Sequence[str]) -> Iterator[Progress]:
    one_class = [names[index] for index in final.constant()[0].nonzero()[:, 0].tolist()]
    if one_class:
        shown = ", ".join(map(repr, one_class[:5]))
        yield Progress.warning("statistics", f"{len(one_class)} labels have one class only in training: {shown}")
