"""Rows of a run: data that it reads and scores, and the histograms of its held-out rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.partial_passes import count_rows
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.agreement import check_shards, drift
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.batch_stream import BatchStream, FileRows
from mlclf.data.streaming.epoch import Reading
from mlclf.data.streaming.memory_budget import pool_shape
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.where.condition import parse_where
from mlclf.data.where.row_groups import check_where
from mlclf.decisions.cells.cells import Cells, row_identities, value_identities, with_rows_alone
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.score_files.reading import ScoredRows
from mlclf.decisions.scorer import Scorer
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import ConfigError, DataError
from mlclf.progress import Progress
from mlclf.run_folder import RunFolder

ID_BYTES = 12
"""Encoded ids take at most so many bytes for each byte of a decoded row: an id of 4 bytes, its value, an end of 4."""

IN_ORDER = 4
"""Rows that are read in order need few slabs of a pool; where their bytes are known, larger ones are no faster."""

BATCH_ROWS, BATCH_CELLS = 32_768, 1 << 22


class FittedRun(Protocol):
    """What scoring needs of a run; see `Run`."""

    settings: Settings
    schema: Schema
    features: FeatureEncoder
    label_names: tuple[str, ...]
    scorer: Scorer
    training: Mapping[str, Any]
    folder: RunFolder


class RunData:
    """Data read with the schema, features and condition of a run, and scored by its model.

    Attributes:
        plan: the columns of its folders have the types of training.
        schema: of the run, without inputs that the fit left out, and without weight and key where the data lacks them.
        identity: the column that tells what a row is, where the data has it: the run's group, or its key.
    """

    score_kind = None
    """Scores of a run are probabilities, and need no scale of files."""

    def __init__(self, run: FittedRun, data: Sequence[str], *, every_row: bool = False) -> None:
        """Make the plan of the data; `every_row` reads also what `data.where` of the fit leaves out."""
        self._run, self._every_row = run, every_row
        self.plan = make_plan(data).with_folder_types(run.features.folder_types)
        self.label_names = run.label_names
        names, schema = set(self.plan.shards[0].schema.names), run.schema
        self.schema = replace(
            schema.without(run.features.unused),
            weight=schema.weight if schema.weight in names else None,
            key=schema.key if schema.key in names else None,
            group=None,
        )
        self.identity = next((name for name in (schema.group, schema.key) if name in names), None)
        self.clustered = self.identity is not None and self.identity == schema.group
        self.weighted = self.schema.weight is not None
        self._unseen_tags = 0

    @cached_property
    def _kept(self) -> Selection | None:
        """The rows that `data.where` of the fit keeps, counted by the columns that decide; None where all are read.

        Raises:
            ConfigError: the data lacks a column of the condition, or has it of another type.
            DataError: no row is kept.
        """
        condition, threads = self._run.settings.data.where, self._run.settings.runtime.threads
        if condition is None or self._every_row:
            return None
        where, split = parse_where(condition), Split()
        check_where(self.plan, where)
        census = count_rows(self.plan, split, where, threads or min(os.cpu_count() or 1, 16))
        if not census.total:
            raise DataError(
                f"data.where of the fit must keep some rows, and keeps none of {self.plan.rows:,} here: {condition}; "
                "give data of the kind that the run was fitted for"
            )
        return Selection(split, None, census, where)

    @property
    def num_rows(self) -> int:
        """Rows that are read."""
        return self.plan.rows if self._kept is None or self._kept.census is None else self._kept.census.total

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def scored_rows(self, by: str | None, identified: bool) -> Iterator[ScoredRows]:
        """All labelled rows with their scores; see `evaluate.EvaluatedRows`."""
        for cells, batch in self._cells(self.identity if identified else None, by):
            values = None if by is None or batch.keys is None else batch.keys.column(by)
            yield ScoredRows(cells, scores_of(cells.logits), values)

    def count(self, tuner: Tuner) -> Iterator[int]:
        """Feed all labelled rows to a tuner; yields how many it has."""
        done = 0
        for cells, _ in self._cells(self.identity, None):
            tuner.update(cells)
            done += len(cells)
            yield done

    def weights(self) -> Iterator[Tensor]:
        """Weights [n] of all labelled rows."""
        return (batch.weights for batch in self.batches(labelled=True))

    def unlabelled(self, data: Sequence[str], take: Callable[[Tensor], None]) -> Iterator[Progress]:
        """Pass the logits [n, K] of other data, which needs no labels, to `take`; yields progress."""
        return score_unlabelled(self._run, data, take)

    def _cells(self, identity: str | None, by: str | None) -> Iterator[tuple[Cells, Batch]]:
        self._run.features.counted()  # what an earlier pass has repaired is not counted twice
        carried, done = [name for name in (identity, by) if name is not None], 0
        for batch in self.batches(labelled=True, carried=tuple(dict.fromkeys(carried))):
            numbers = torch.arange(done, done + len(batch))
            identities = row_identities(numbers)
            if identity is not None and batch.keys is not None:
                identities = with_rows_alone(value_identities(batch.keys.column(identity)), numbers)
            yield (
                Cells(self._run.scorer.logits(batch), batch.labels, identities, batch.label_mask, batch.weights),
                batch,
            )
            done += len(batch)

    def batches(self, *, labelled: bool, carried: tuple[str, ...] = (), plan: Plan | None = None) -> Iterator[Batch]:
        """Encoded rows, in order.

        Args:
            labelled: whether labels and weights are read; without them the key is carried.
            carried: columns that labelled rows have as `keys`.
            plan: some files of the data; None for all.
        """
        plan = plan or self.plan
        if labelled:
            check_shards(plan, self.schema)
        run, kept = self._run, self._kept
        labels = make_labels(run.schema, run.settings.data.label_values, self.label_names) if labelled else None
        keys = carried if labelled else tuple(name for name in (self.schema.key,) if name)
        encoder = RowEncoder(
            self.schema,
            run.features,
            labels,
            len(self.label_names),
            weight=self.schema.weight if labelled else None,
            key_columns=keys,
            numbered=kept is not None,
        )
        row_bytes, budget = encoder.layout.row_bytes, run.settings.runtime.memory_budget
        if encoder.layout.num_tokens is None:
            row_bytes += ID_BYTES * plan.row_bytes
        else:
            budget //= IN_ORDER
        if keys:
            row_bytes += plan.row_bytes
        budget = max(budget, int(row_bytes + plan.row_bytes) << 12)
        pool = pool_shape(budget, row_bytes, plan.row_bytes, unit_rows=plan.largest_unit_rows)
        batch_rows = max(1, min(pool.slab_rows, BATCH_ROWS, BATCH_CELLS // len(self.label_names)))
        order = BatchOrder(plan, kept or Selection(Split()), pool, batch_rows, shuffle=False)
        yield from BatchStream(order, FileRows(Reading(encoder)))
        if isinstance(labels, TagList):
            self._unseen_tags = labels.unseen_tags

    # ── what to say of the rows ─────────────────────────────────────────────────────────────────────────────────────

    def caution(self, claims: bool) -> Progress | None:
        """A warning where the fit has used these rows, of which no confidence can be claimed then."""
        if self._is_listed("files"):
            note = "these rows were trained on: thresholds tuned on them promise too much; use rows held out"
            return Progress.warning("calibrate", note + "; no confidence is claimed" * claims)
        if claims and self._is_listed("valid_files"):
            note = "these rows chose model and thresholds in the fit, as --valid: no confidence is claimed; for a claim"
            return Progress.warning("calibrate", note + " give rows used for nothing")
        return None

    def _is_listed(self, key: str) -> bool:
        """Whether a file is among those that the fit lists under `key`, by its size and its name or footer."""
        listed = self._run.training.get(key, [])
        known = {(sign, size) for name, size, *footer in listed for sign in (Path(name).name, *footer)}
        sizes = [(shard, shard.source.size_bytes) for shard in self.plan.shards]
        signs = [(sign, size) for shard, size in sizes for sign in (Path(shard.source.name).name, shard.fingerprint)]
        return not known.isdisjoint(signs)

    def notes(self, num_rows: int = 0) -> Iterator[Progress]:
        """Warnings of the plan, counts of what encoding repaired, and whether the condition of the fit was applied."""
        condition = self._run.settings.data.where
        if condition is not None and self._every_row:
            yield Progress("rows", note=f"every row is scored: data.where of the fit is not applied ({condition})")
        elif condition is not None:
            kept = f"{self.num_rows:,} of {self.plan.rows:,} rows"
            yield Progress("rows", note=f"data.where of the fit keeps {kept}: {condition}")
        lines = [*self.plan.warnings, *self._run.features.counted()]
        if self._unseen_tags:
            lines.append(f"{self._unseen_tags:,} tags were not in training; they are ignored (unseen_tags)")
        unknown = drift(self.plan, self._run.schema)
        if unknown:
            lines.append(f"{len(unknown)} columns were not there in training and are not used: {unknown[:5]}")
        for line in lines:
            yield Progress.warning("rows", line)


@dataclass(frozen=True)
class HeldOutRows:
    """The held-out rows of the fit, from the histograms that the run keeps; nothing is scored again."""

    run: FittedRun
    score_kind = None
    clustered = weighted = False
    num_rows = 0

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels [K]."""
        return self.run.label_names

    def count(self, tuner: Tuner) -> Iterator[int]:
        """Give a tuner the histograms.

        Raises:
            ConfigError: no rows were held out.
        """
        folder = self.run.folder
        tuner.count_again(folder.read_histogram(), folder.read_folds())
        if not bool((tuner.histogram.rows > 0).any()):
            raise ConfigError(f"{folder.path}: no rows were held out in this fit; give labelled data to calibrate on")
        return iter(())

    def weights(self) -> Iterator[Tensor]:
        """None: nothing is claimed of these rows."""
        return iter(())

    def unlabelled(self, data: Sequence[str], take: Callable[[Tensor], None]) -> Iterator[Progress]:
        """As `RunData.unlabelled`."""
        return score_unlabelled(self.run, data, take)

    def caution(self, claims: bool) -> Progress:
        """A note that the rows are those of the fit, of which no confidence can be claimed."""
        note = "tuned on the held-out rows of the fit"
        if claims:
            note += ", which also chose other things: no confidence is claimed; for a claim give rows used for nothing"
        return Progress("calibrate", note=note)

    def notes(self, num_rows: int = 0) -> Iterator[Progress]:
        """None: the fit has said what there is to know."""
        return iter(())


def score_unlabelled(run: FittedRun, data: Sequence[str], take: Callable[[Tensor], None]) -> Iterator[Progress]:
    """Pass the logits [n, K] of data, which needs no labels, to `take`; yields progress."""
    rows, done = RunData(run, data), 0
    for batch in rows.batches(labelled=False):
        take(run.scorer.logits(batch))
        done += len(batch)
        yield Progress("unlabelled", done, rows.num_rows)
    yield from rows.notes()
