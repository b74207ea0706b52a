"""Prepared data: plan, schema, split, statistics, and the streams of batches that every stage reads."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.config.settings import Arguments, Settings
from mlclf.data.batch import Batch
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.features.splines import LinearSplines
from mlclf.data.inspection.fit_memory import KNOTS, RESIDENT_SHARE
from mlclf.data.parquet.columns_for_polars import with_columns_for_polars
from mlclf.data.parquet.content import Contents
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.group_parts import FAR, even_folds, group_sizes, held_out
from mlclf.data.passes.partial_passes import count_rows, matching_units, time_cut, without_corrupt
from mlclf.data.passes.row_folds import row_folds
from mlclf.data.passes.statistics import fit_statistics
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import CHOICE, DECISION, TRAIN, GroupParts, RowFolds, Split, held_out_parts
from mlclf.data.schema.agreement import check_shards, drift
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.globs import names_and_globs
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.batch_stream import BatchStream, FileRows
from mlclf.data.streaming.epoch import Reading
from mlclf.data.streaming.memory_budget import ReaderBytes, lanes_for, pool_shape, reader_bytes
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab_cache import open_cache
from mlclf.data.where.condition import parse_where
from mlclf.data.where.row_groups import check_where
from mlclf.errors import ConfigError, CorruptDataError, DataError
from mlclf.fitting.hold_out_choice import resolve_split
from mlclf.fitting.model_size import check_buckets, check_model_size
from mlclf.progress import Progress
from mlclf.training.hold_out import HoldOut, LabelTotals
from mlclf.training.mini_batch.device_pool import HOST_ROW_BYTES, DevicePool, room_on

CHUNK_ROWS = 65_536
PASSING_ROWS = 16_384
"""Rows of a batch in a pass that keeps nothing: some such batches are on their way at a time."""


class PreparedData:
    """The rows of a fit and everything that one pass over them tells.

    Attributes:
        plan, valid_plan: training data, and validation data where it is given.
        schema, split, hold_out: roles of the columns, parts of the rows, and what each part is for.
        statistics, totals: what the pass of statistics found.
        pool: bound on the rows held while streaming.
        cache: folder for encoded rows, from the second pass on; None for none.
        resident: all rows, once `hold` has found that they fit.
    """

    def __init__(self, arguments: Arguments, settings: Settings) -> None:
        self.arguments, self.settings = arguments, settings
        self.threads = settings.runtime.threads or min(os.cpu_count() or 1, 16)
        self.budget = settings.runtime.memory_budget
        self.cache: Path | None = None
        self._in_order: dict[tuple[int, ...] | None, BatchStream] = {}

    def prepare(self) -> Iterator[Progress]:
        """Footers, schema, split, and the one pass of statistics."""
        arguments, settings = self.arguments, self.settings
        if not arguments.train or not arguments.labels:
            raise ConfigError("fit needs data and --labels; see 'mlclf fit --help'")
        self.skip_corrupt = settings.data.on_corrupt == "skip"
        self.where = None if settings.data.where is None else parse_where(settings.data.where)
        self.plan = make_plan(list(arguments.train), skip_corrupt=self.skip_corrupt)
        self.valid_plan = None
        if arguments.valid:
            self.valid_plan = make_plan(list(arguments.valid)).with_folder_types(self.plan.folder_types)
        for plan in filter(None, (self.plan, self.valid_plan)):
            for warning in plan.warnings:
                yield Progress.warning("data", warning)
            check_where(plan, self.where)
        self.split = resolve_split(arguments, settings, self.plan, self.valid_plan is not None)
        others = [name for name in (self.split.time, self.split.group) if name and name != arguments.group]
        self.schema = find_schema(
            self.plan,
            list(arguments.labels),
            features=list(arguments.columns or ()),
            exclude=list(arguments.exclude or ()),
            weight=arguments.weight,
            key=arguments.key,
            group=arguments.group,
            roles=settings.features.roles,
            other_columns=others,
            label_lists=settings.data.label_lists,
        )
        for note in self.schema.notes:
            yield Progress.warning("data", note)
        self.schema = self.schema.without({self.split.group})
        if self.valid_plan is not None:
            check_shards(self.valid_plan, self.schema, filter(None, [self.schema.group]))
        given = {"--labels": arguments.labels, "--features": arguments.columns, "--exclude": arguments.exclude}
        for option, patterns in (given | {"features.roles": settings.features.roles}).items():
            for note in names_and_globs(self.plan, option, patterns or ()):
                yield Progress.warning("data", note)
        for name, reason in self.schema.ignored:
            yield Progress.warning("data", f"column {name!r} is left out: {reason}")
        unused = tuple((name, "excluded, or not among the features") for name in drift(self.plan, self.schema))
        self.schema = replace(self.schema, ignored=self.schema.ignored + unused)
        if self.split.time is not None:
            cut = time_cut(self.plan, self.split.time, self.split.fraction, self.threads, self.where)
            self.split = replace(self.split, cut=cut)
        yield from self._give_parts_to_groups()
        self.hold_out = self._hold_out()
        self.valid_census = None
        if self.valid_plan is not None and self.where is not None:
            self.valid_census = count_rows(self.valid_plan, Split(kind="none"), self.where, self.threads)
        schema = self.schema
        columns = [*schema.feature_columns, *schema.labels, schema.weight]
        columns += [schema.group, self.split.group, self.split.time]
        self.plan = with_columns_for_polars(self.plan, list(filter(None, columns)), self.budget)
        self.split = replace(self.split, row_folds=self._row_folds())
        yield from self._statistics()

    def _row_folds(self) -> RowFolds | None:
        try:
            return row_folds(self.plan, self.schema, self.split, self.settings.data.label_values, self.where)
        except CorruptDataError:
            sound = without_corrupt(self.plan, self.schema, self.split, self.where, self.threads)
            if sound is None or not self.skip_corrupt:
                raise
            self.plan = sound
            return row_folds(self.plan, self.schema, self.split, self.settings.data.label_values, self.where)

    def _give_parts_to_groups(self) -> Iterator[Progress]:
        """Share groups out evenly by rows, and say where they are too few or too large for that."""
        split = self.split
        if split.group is None or split.kind == "none" or split.time is not None:
            return
        sizes = group_sizes(self.plan, split.group, split.seed, self.where)
        if sizes is None or not sizes.total:
            return
        if sizes.count < 2:
            raise DataError(
                f"--group: column {split.group!r} must have two groups or more to hold rows out by, and all "
                f"{sizes.total:,} rows are of one; name another column, or give --valid DATA or --valid-fraction 0"
            )
        if split.kind == "folds":
            folds = min(split.num_folds, sizes.count)
            parts: GroupParts | None = even_folds(sizes, folds)
            if folds < split.num_folds:
                yield Progress.warning(
                    "data", f"--group: column {split.group!r} has {folds} groups, so there are {folds} folds, "
                    f"not {split.num_folds}"
                )  # fmt: skip
            largest = int(sizes.rows.max(initial=0)) / sizes.total
            if largest > 2 / folds:
                yield Progress.warning(
                    "data", f"--group: one group of column {split.group!r} has {largest:.0%} of the rows, and groups "
                    "stay together: its rows are scored by a model of few rows"
                )  # fmt: skip
            self.split = replace(split, num_folds=folds, group_parts=parts)
            return
        by_hash = held_out_parts(sizes.hashes, split.fraction)
        parts = held_out(sizes, split.fraction, by_hash)
        self.split = replace(split, group_parts=parts)
        held = float(sizes.rows[(by_hash if parts is None else parts.parts) != TRAIN].sum())
        share = held / sizes.total + split.fraction * sizes.alone / sizes.total
        if abs(share - split.fraction) > FAR * split.fraction:
            yield Progress.warning(
                "data", f"--group: the held-out groups of column {split.group!r} have {share:.0%} of the rows, "
                f"{split.fraction:.0%} were asked for: groups stay together, and are few or large"
            )  # fmt: skip

    def _hold_out(self) -> HoldOut:
        if self.valid_plan is not None:
            return HoldOut.given()
        if self.split.kind == "folds":
            return HoldOut.folds(self.split.num_folds)
        return HoldOut.halves() if self.split.kind == "held_out" else HoldOut.nothing()

    def _statistics(self) -> Iterator[Progress]:
        check_buckets(self.schema, self.settings)
        statistics = self.statistics = yield from fit_statistics(
            self.plan,
            self.schema,
            self.split,
            label_values=self.settings.data.label_values,
            options=EncodingOptions.of(self.settings.features),
            threads=self.threads,
            lanes=lanes_for(self.budget, self._reader()),
            where=self.where,
            skip_corrupt=self.skip_corrupt,
            looks_for_copies=self.split.kind != "none" and self.split.group is None,
        )
        self.plan = statistics.plan
        for aside in self.plan.set_aside:
            lost = "unknown many" if aside.rows is None else f"{aside.rows:,}"
            yield Progress.warning("statistics", f"set aside, {lost} rows: {aside.reason}")
        for warning in statistics.warnings:
            yield Progress.warning("statistics", warning)
        counts = statistics.counts
        self.totals = LabelTotals(torch.from_numpy(counts.positives), torch.from_numpy(counts.totals))
        if self.hold_out.trained.shape[1] > counts.positives.shape[0]:
            nothing = torch.zeros_like(self.totals.positives)
            self.totals = LabelTotals(
                torch.cat([self.totals.positives, nothing]), torch.cat([self.totals.totals, nothing])
            )
        self.num_labels = len(statistics.label_names)
        yield from self._leave_empty_parts_alone()
        one_class = self.totals.of(self.hold_out.final()).constant()[0].nonzero()[:, 0].tolist()
        if one_class:
            names = ", ".join(repr(statistics.label_names[index]) for index in one_class[:5])
            yield Progress.warning("statistics", f"{len(one_class)} labels have one class only in training: {names}")
        check_model_size(statistics.features, self.num_labels, self.settings, self.hold_out.num_models)
        self.encoder = self._encoder(self.split)
        self.valid_encoder = self._encoder(Split(kind="none", part=CHOICE))
        statistics.features.counted()  # of the rows that the size of all was measured by
        decoded = max(self.plan.row_bytes, statistics.decoded_row_bytes)
        self.pool = pool_shape(self.budget, statistics.row_bytes, decoded, self._reader(), self.plan.largest_unit_rows)

    def _leave_empty_parts_alone(self) -> Iterator[Progress]:
        """Let a held-out part without rows choose or decide nothing, and say so."""
        if self.split.kind != "held_out":
            return
        positives, totals = self.totals.positives, self.totals.totals
        remedy = "hold out more rows (--valid-fraction), or use --folds"
        if not bool(((positives[CHOICE] > 0) & (positives[CHOICE] < totals[CHOICE])).any()):
            self.hold_out = replace(self.hold_out, judge=torch.full_like(self.hold_out.judge, -1))
            rows = self.statistics.rows[CHOICE]
            yield Progress.warning(
                "statistics",
                f"the {rows:,} held-out rows that would choose l2 and the stopping point have both classes of no "
                f"label, so they choose nothing: optimizer.l2 is as set, or 1 ÷ Σ weights; {remedy}",
            )
        if not bool(totals[DECISION].any()):
            self.hold_out = replace(self.hold_out, decide=torch.full_like(self.hold_out.decide, -1))
            yield Progress.warning(
                "statistics",
                "no row is held out for calibrator and thresholds, which are 0.5 with status 'fallback'; " + remedy,
            )

    def _reader(self) -> ReaderBytes:
        return reader_bytes(self.plan, len(self.schema.feature_columns) + len(self.schema.labels))

    def _encoder(self, split: Split) -> RowEncoder:
        return RowEncoder(
            self.schema,
            self.statistics.features,
            self.statistics.labels,
            self.num_labels,
            split,
            self.schema.weight,
            numbered=self.where is not None,
            group=self.schema.group or self.split.group,
        )

    def contents(self) -> list[list[str]]:
        """Digests of what was read of each file, of training and of validation data."""
        if self._valid_contents is None and self.valid_plan is not None:
            contents = Contents(self.valid_plan, self.encoder.columns)
            contents.add_all(matching_units(self.valid_plan, self.where), self.threads)
            self._valid_contents = contents.of_files()
        return [self.statistics.contents, self._valid_contents or []]

    _valid_contents: list[str] | None = None

    def stream(self, batch_rows: int, *, shuffle: bool = False, parts: Sequence[int] | None = None) -> BatchStream:
        """Batches of the rows of some parts, or of all."""
        chosen = None if parts is None else tuple(sorted(parts))
        selection = Selection(self.split, chosen, self.statistics.census, self.where)
        order = BatchOrder(self.plan, selection, self.pool, batch_rows, self.settings.training.seed, shuffle=shuffle)
        cache = None
        if self.cache is not None:
            cache = open_cache(self.cache, self.plan, self.statistics.contents, self.encoder, self.where)
        source = FileRows(Reading(self.encoder, cache, self.skip_corrupt, self.threads))
        rows = self.statistics.rows
        return BatchStream(
            order, source, sum(count for part, count in rows.items() if chosen is None or part in chosen)
        )

    @property
    def chunk_rows(self) -> int:
        """Rows of a batch where batches do not matter."""
        return min(CHUNK_ROWS, max(256, (1 << 25) // self.num_labels))

    def _streams(self, batch_rows: int, parts: Sequence[int] | None = None) -> Iterator[BatchStream]:
        """The rows of some parts, or all, in plan order, those of given validation data after them as part 1."""
        batch_rows = min(batch_rows, self.chunk_rows)
        mine = None if parts is None else tuple(part for part in parts if self.statistics.rows.get(part))
        if mine is None or mine:
            if mine not in self._in_order:  # its memory is used again by whoever asks for the same rows next
                self._in_order.clear()
                self._in_order[mine] = self.stream(batch_rows, parts=mine)
            yield self._in_order[mine]
        if self.valid_plan is not None and (parts is None or CHOICE in parts):
            selection = Selection(self.valid_encoder.split, None, self.valid_census, self.where)
            order = BatchOrder(self.valid_plan, selection, replace(self.pool, slabs=1), batch_rows, shuffle=False)
            yield BatchStream(order, FileRows(Reading(self.valid_encoder)))

    def _stream(self, batch_rows: int, parts: Sequence[int] | None = None) -> Iterator[Batch]:
        for stream in self._streams(batch_rows, parts):
            yield from stream

    def batches(self, parts: Sequence[int] | None = None) -> Iterable[Batch]:
        """Batches in plan order: those that have the rows of some parts, or of all; from memory where held there."""
        return self.resident if self.resident is not None else self._stream(PASSING_ROWS, parts)

    resident: list[Batch] | None = None

    @property
    def held_rows(self) -> int:
        """Rows that `hold` would hold: of training and of given validation data."""
        return self.plan.readable_rows + (self.valid_plan.rows if self.valid_plan else 0)

    def hold(self) -> None:
        """Hold all rows in memory from here on, where they take little of the budget."""
        if self._fits(self.held_rows, self.statistics.row_bytes):
            self.resident = list(self._stream(self.chunk_rows))
            self._in_order.clear()

    def _fits(self, rows: int, row_bytes: float) -> bool:
        """Whether so many rows may be held in memory."""
        return rows * row_bytes <= self.budget / RESIDENT_SHARE

    @property
    def may_have_splines(self) -> bool:
        """Whether linear splines can be tried: in numeric columns, in memory that has room, with rows to judge by."""
        features = self.statistics.features
        columns = sum(1 for _ in features.spline_inputs())
        rows = sum(len(batch) for batch in self.resident or ())
        allowed = self.settings.features.standardize and self.hold_out.chooses
        return bool(columns and rows and allowed) and self._fits(rows, self.statistics.row_bytes + 4 * KNOTS * columns)

    def add_splines(self) -> bool:
        """Add linear splines to the inputs of the rows in memory; False where no column has a value for a knot."""
        assert self.resident is not None
        features = self.statistics.features
        trained = self.hold_out.final()[0] > 0
        rows = [trained[batch.parts.long()] & (batch.weights > 0) for batch in self.resident]
        weights = torch.cat([batch.weights[row] for batch, row in zip(self.resident, rows, strict=True)]).double()

        def values(index: int) -> Tensor:
            parts = zip(self.resident or (), rows, strict=True)
            return torch.cat([batch.dense[row, index] for batch, row in parts])

        def columns() -> Iterator[tuple[int, NDArray[np.float32]]]:
            for _, index, missing in features.spline_inputs():
                column = values(index)
                if missing is not None:
                    column[values(missing) > 0] = torch.nan
                yield index, column.numpy()

        splines = LinearSplines.fitted(columns(), weights.numpy(), KNOTS)
        if not len(splines):
            return False
        for number, batch in enumerate(self.resident):
            dense = torch.cat([batch.dense, torch.empty(len(batch), len(splines))], dim=1)
            splines.fill(dense.numpy())
            self.resident[number] = replace(batch, dense=dense)
        features.splines = splines
        return True

    def drop_splines(self) -> None:
        """Take the inputs of `add_splines` away again."""
        assert self.resident is not None
        features = self.statistics.features
        features.splines = None
        for number, batch in enumerate(self.resident):
            self.resident[number] = replace(batch, dense=batch.dense[:, : features.num_dense].clone())

    def hold_on(self, device: torch.device) -> Generator[Progress, None, DevicePool | None]:
        """Copy all rows to the memory of a GPU, where they fit, and say whether they do."""
        room, host_room = room_on(device), self.budget // RESIDENT_SHARE
        if room is None:
            return None
        counts = [stream.num_rows for stream in self._streams(PASSING_ROWS)]
        rows = sum(counts)
        taken, host = int(rows * self.statistics.row_bytes), rows * HOST_ROW_BYTES
        if taken <= room and host <= host_room:
            pool = DevicePool(self.encoder.layout, rows, device, plan_rows=counts[0])
            for batch in self.batches():
                pool.add(batch)
                yield Progress(f"rows to {device}", pool.num_rows, rows)
                if pool.peak_bytes > room:
                    break
            else:
                pool.close()
                yield Progress("training", note=f"all rows are held on {device}, in {_mib(pool.num_bytes)}")
                return pool
            taken = pool.peak_bytes
        yield Progress(
            "training",
            note=f"rows are copied to {device} batch by batch: to hold them all takes {_mib(taken)} there, of "
            f"{_mib(room)} that may be used, and {_mib(host)} here, of {_mib(host_room)}",
        )
        return None

    def mean_total(self) -> float:
        """Mean over labels of the row weights that observe them, of the final model."""
        return float(self.totals.of(self.hold_out.final()).totals.mean())

    def summary(self, algorithm: str) -> str:
        """One line on the size of the problem and how it is solved."""
        features = self.statistics.features
        held = "in memory" if self.resident is not None else f"streamed, at most {self.pool.num_bytes >> 20} MiB"
        return (
            f"{self.plan.rows:,} rows, {features.num_dense:,} dense inputs, {features.vocabulary_size:,} ids, "
            f"{self.num_labels:,} labels; {algorithm}, {held}"
        )


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes >> 20):,} MiB"
