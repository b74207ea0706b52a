"""Metrics of scored rows, of a run or of score files: one pass, and more where AUROC needs finer bins."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mlclf.data.arrow.identities import COMPARABLE, is_comparable
from mlclf.data.parquet.plan import Plan
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.evaluation.by_column import SlicedEvaluation
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.evaluation.intervals import LEAST_REPLICATES, MOST_REPLICATES
from mlclf.decisions.histograms.derived import pooled_labels
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.average_precision import Ranking
from mlclf.decisions.metrics.bin_splits import TOLERANCE
from mlclf.decisions.metrics.exact_ranking import RankedRows, exact_rankings
from mlclf.decisions.metrics.refinement import MOST_PASSES, Refinement, labels_above
from mlclf.decisions.score_files.reading import ScoredRows
from mlclf.errors import ConfigError
from mlclf.outputs.documents import write_document
from mlclf.progress import Progress

EXACT_BYTES = 256 << 20
"""Memory of the labels whose scores are sorted at a time."""

MOST_EXACT_BYTES = 4 * EXACT_BYTES
"""Memory of one label whose scores are sorted where splitting bins does not tell them apart."""

DOCUMENT_FIELD = "log_loss"
"""Field that tells a document of metrics from other JSON."""

_CELL_BYTES = 20


Counted = LabelHistogram | Refinement
Passes = Callable[[], Iterator[ScoredRows]]
"""Called for each pass; must return all rows again."""


class EvaluatedRows(Protocol):
    """Where scored rows with labels come from: data that a run scores, or score files."""

    @property
    def plan(self) -> Plan:
        """The files whose columns `by` may name."""

    @property
    def num_rows(self) -> int:
        """Rows that are read, for the progress."""

    def scored_rows(self, by: str | None, identified: bool) -> Iterator[ScoredRows]:
        """All rows, in another pass, with their values of column `by`; identities matter only if `identified`."""

    def notes(self, num_rows: int) -> Iterator[Progress]:
        """Warnings and notes about the rows, of which `num_rows` were evaluated."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`: what is reported beside the metrics of all rows.

    Attributes:
        by: column whose values get metrics of their own.
        bootstrap: replicates for intervals; 0 for none.
        exact: AUROC and average precision from sorted scores, label by label.
    """

    by: str | None = None
    bootstrap: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        """Refuse a number of replicates that is out of range.

        Raises:
            ConfigError: the replicates are negative, or too few for an interval.
        """
        if self.bootstrap and not LEAST_REPLICATES <= self.bootstrap <= MOST_REPLICATES:
            raise ConfigError(
                f"--bootstrap must be 0, or {LEAST_REPLICATES} to {MOST_REPLICATES:,} replicates (200 is usual), "
                f"got {self.bootstrap}"
            )


@dataclass(frozen=True)
class Judged:
    """How scores become decisions, and the prevalences that `gain` compares with.

    Attributes:
        label_names: K names.
        thresholds: [K] float32 of probabilities.
        decide: scores [n, K] to decisions [n, K] bool.
        written: thresholds [K] as the document gives them, in the scale of the scores; NaN is never positive.
        train_prevalences: [K] float64; None compares with the prevalences of the rows themselves.
        probabilities: scores as they are read to those that are judged; None where they are probabilities.
        ends_dtype, recalibrated_within: see `Evaluation`.
    """

    label_names: list[str]
    thresholds: Tensor
    decide: Callable[[Tensor], Tensor]
    written: Tensor
    train_prevalences: Tensor | None = None
    probabilities: Callable[[Tensor], Tensor] | None = None
    ends_dtype: torch.dtype = torch.float32
    recalibrated_within: float = math.inf


def evaluate_steps(
    rows: EvaluatedRows, judged: Judged, asked: EvaluateOptions, out: str | Path | None
) -> Generator[Progress, None, dict[str, Any]]:
    """Evaluate rows, yielding progress; returns the document of `metrics.json`, which is written to `out`.

    The first pass counts everything. Where binning leaves an interval of AUROC or average precision wider than 1e-4,
    further passes refine the bins that matter; with `exact` those of labels collect the scores of some at a time
    instead, and only what pools all cells is refined.

    Raises:
        ConfigError: a file has no column `by`, or one whose values cannot be compared.
    """
    _check_column(rows.plan, asked.by)
    passes = partial(rows.scored_rows, asked.by, bool(asked.bootstrap))
    told: dict[str, Any] = {
        "decide": judged.decide,
        "ends_dtype": judged.ends_dtype,
        "recalibrated_within": judged.recalibrated_within,
    }
    evaluation = Evaluation(judged.thresholds, replicates=asked.bootstrap, **told)
    sliced = None if asked.by is None else SlicedEvaluation(asked.by, judged.thresholds, **told)
    done = 0
    for batch in passes():
        scores = batch.scores if judged.probabilities is None else judged.probabilities(batch.scores)
        evaluation.update(batch.cells, scores)
        if sliced is not None:
            assert batch.carried is not None
            sliced.update(batch.carried, batch.cells, scores)
        done += len(batch.cells)
        yield Progress("evaluate", done, rows.num_rows)
    every = range(evaluation.histogram.num_labels)
    exact = (yield from _exactly(passes, every, done, _columns_of)) if asked.exact else None
    yield from _refined(passes, evaluation, exact, rows.num_rows)
    yield from rows.notes(int(evaluation.rows.rows))
    report = _report(evaluation, sliced, judged)
    if out is not None:
        write_document(out, report, DOCUMENT_FIELD)
    return report


def _report(evaluation: Evaluation, sliced: SlicedEvaluation | None, judged: Judged) -> dict[str, Any]:
    prevalences, losses = judged.train_prevalences, evaluation.losses
    if prevalences is None:
        prevalences = (losses.positives + 0.5) / (losses.weights + 1)
    report = evaluation.report(judged.label_names, prevalences)
    if sliced is not None:
        report |= sliced.report(judged.label_names, prevalences)
    if judged.train_prevalences is None:
        report["gain_baseline"] = "prevalences of these rows"
    for entry, cut in zip(report["labels"].values(), judged.written.tolist(), strict=True):
        entry["threshold"] = None if math.isnan(cut) else cut
    return report


def _check_column(plan: Plan, name: str | None) -> None:
    """Refuse a column of `by` that a file lacks, or whose values cannot be compared.

    Raises:
        ConfigError: there is no such column in one of the files, or it holds lists or the like.
    """
    for shard in plan.shards:
        if name is not None and name not in shard.schema.names:
            raise ConfigError(f"--by: column {name!r} is not in {shard.source.name}; check its name")
        if name is not None and not is_comparable(shard.schema.field(name).type):
            raise ConfigError(
                f"--by: column {name!r} must hold {COMPARABLE}, found {shard.schema.field(name).type} in "
                f"{shard.source.name}; name another column"
            )


def _refined(
    passes: Passes, evaluation: Evaluation, exact: Ranking | None, total: int
) -> Generator[Progress, None, None]:
    """Refine bins until every interval is narrow: those of the labels, unless exact, and of all cells pooled.

    Where logits lie closer together, or further apart, than passes can split, the scores are sorted as far as they fit
    into memory; an interval is wide only beyond that.
    """
    labels: Counted = evaluation.histogram
    cells: Counted = pooled_labels(evaluation.histogram)
    for _ in range(MOST_PASSES):
        by_label = None if exact else Refinement.needed(labels, TOLERANCE)
        of_all = Refinement.needed(cells, TOLERANCE)
        if by_label is None and of_all is None:
            break
        done = 0
        for batch in passes():
            part, weights = batch.cells, batch.cells.cell_weights()
            if by_label is not None:
                by_label.update(part.ranked_by(), part.labels, part.mask, weights)
            if of_all is not None:
                of_all.update(*_pooled(part.ranked_by(), part.labels, part.mask, weights))
            done += len(part)
            yield Progress("refine", done, total)
        labels, cells = by_label or labels, of_all or cells
    rows = int(evaluation.rows.rows)
    ranked, pooled = exact or _ranking_of(labels), _ranking_of(cells)
    wide = [] if exact else labels_above(labels)
    if wide and rows * _CELL_BYTES <= MOST_EXACT_BYTES:
        ranked = _replaced(ranked, wide, (yield from _exactly(passes, wide, rows, _columns_of)))
    if labels_above(cells) and rows * evaluation.histogram.num_labels * _CELL_BYTES <= MOST_EXACT_BYTES:
        pooled = yield from _exactly(passes, [0], rows, _pooled_columns_of)
    evaluation.rank_by(ranked, pooled)


def _replaced(ranking: Ranking | None, labels: Sequence[int], exact: Ranking) -> Ranking:
    """The ranking with its values for some labels replaced by exact ones."""
    assert ranking is not None  # wide intervals have been refined
    for (values, bounds), (new_values, new_bounds) in zip(ranking, exact, strict=True):
        values[list(labels)], bounds[list(labels)] = new_values, new_bounds
    return ranking


def _ranking_of(counted: Counted) -> Ranking | None:
    return counted.ranking() if isinstance(counted, Refinement) else None


def _pooled(
    logits: Tensor, labels: Tensor, mask: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The cells of all labels, in any order, as those of one: [n · K, 1], weights [n · K]."""

    def flat(values: Tensor) -> Tensor:
        return values.t().reshape(-1, 1)  # no copy where they are stored label by label

    if weights is not None:
        weights = flat(weights.view(len(logits), -1).expand(logits.shape))[:, 0]
    return flat(logits), flat(labels), None if mask is None else flat(mask), weights


def _exactly(
    passes: Passes,
    labels: Sequence[int],
    rows: int,
    columns_of: Callable[[Cells, Sequence[int]], tuple[Any, ...]],
) -> Generator[Progress, None, Ranking]:
    """AUROC and average precision of some labels by sorting, as many at a time as fit into EXACT_BYTES."""
    step = max(1, EXACT_BYTES // max(1, _CELL_BYTES * rows))
    values: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(labels), step):
        part = labels[first : first + step]
        kept = [columns_of(batch.cells, part) for batch in passes()]
        columns = [np.concatenate(column) for column in zip(*kept, strict=True)]
        values.append(exact_rankings(len(part), partial(_label_rows, columns)))
        yield Progress("exact", first + len(part), len(labels), unit="labels")
    areas, precisions = (torch.cat(column) for column in zip(*values, strict=True))
    return (areas, areas * 0), (precisions, precisions * 0)  # no error, or NaN


def _pooled_columns_of(cells: Cells, labels: Sequence[int]) -> tuple[Any, ...]:
    """The same of all cells pooled: [n · K, 1] each."""
    every = range(cells.logits.shape[1])
    return tuple(column.reshape(-1, 1) for column in _columns_of(cells, every))


def _columns_of(cells: Cells, labels: Sequence[int]) -> tuple[Any, ...]:
    """Logits, labels and weights (0 where a cell does not count) of some labels: [n, k] each."""
    part = slice(labels[0], labels[-1] + 1) if len(labels) == labels[-1] + 1 - labels[0] else list(labels)
    logits, truth = cells.ranked_by()[:, part], cells.labels[:, part]
    weights = cells.cell_weights()
    if weights is None:
        mass = torch.ones(logits.shape)
    else:
        mass = weights[:, None].expand(logits.shape) if weights.dim() == 1 else weights[:, part]
    if cells.mask is not None:
        mass = mass * cells.mask[:, part]
    return logits.numpy().copy(), truth.numpy().copy(), mass.double().numpy().copy()


def _label_rows(columns: list[Any], label: int) -> RankedRows:
    logits, labels, weights = (column[:, label] for column in columns)
    seen = weights > 0
    return torch.from_numpy(logits[seen]), torch.from_numpy(labels[seen]), torch.from_numpy(weights[seen])
