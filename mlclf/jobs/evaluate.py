"""What `evaluate` does with scored rows, whoever scored them: one pass, and more where a ranking asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mlclf.data.arrow.identities import COMPARABLE, is_comparable
from mlclf.data.parquet.plan import Plan
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.evaluation.by_column import SlicedEvaluation
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.evaluation.intervals import LEAST_REPLICATES, MOST_REPLICATES
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.average_precision import Ranking
from mlclf.decisions.metrics.bin_splits import TOLERANCE
from mlclf.decisions.metrics.exact_ranking import LabelRows, exact_rankings
from mlclf.decisions.metrics.refinement import MOST_PASSES, Refinement, labels_above
from mlclf.errors import ConfigError
from mlclf.progress import Progress

EXACT_BYTES = 256 << 20
"""Of the labels that `exact` holds at a time."""

MOST_EXACT_BYTES = 4 * EXACT_BYTES
"""Of one label whose scores are sorted where splitting bins does not tell them apart."""

_CELL_BYTES = 20


Counted = LabelHistogram | Refinement


class ScoredBatch(NamedTuple):
    """Some rows: their cells, their scores [n, K] float32, and their values of the column of `by`."""

    cells: Cells
    scores: Tensor
    values: pa.ChunkedArray | None


@dataclass(frozen=True)
class EvaluateOptions:
    """What is asked for beside the metrics of all rows.

    Attributes:
        by: column whose values get metrics of their own.
        bootstrap: replicates for intervals; 0 for none.
        exact: AUROC and average precision from sorted scores, label by label.
    """

    by: str | None = None
    bootstrap: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range.

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
    """What is judged: thresholds [K] float32 of probabilities, the decisions of scores, and the names of the labels.

    For `ends_dtype` and `recalibrated_within` see `Evaluation`.
    """

    thresholds: Tensor
    decide: Callable[[Tensor], Tensor]
    label_names: list[str]
    ends_dtype: torch.dtype = torch.float32
    recalibrated_within: float = math.inf

    def kept(self) -> dict[str, Any]:
        """What an evaluation is told of the scores."""
        return {
            "decide": self.decide,
            "ends_dtype": self.ends_dtype,
            "recalibrated_within": self.recalibrated_within,
        }


def check_column(plan: Plan, name: str | None) -> None:
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


def evaluation_steps(
    passes: Callable[[], Iterator[ScoredBatch]], judged: Judged, options: EvaluateOptions, total: int
) -> Generator[Progress, None, tuple[Evaluation, SlicedEvaluation | None]]:
    """Evaluate rows, yielding progress; returns the evaluation of all and, with `by`, of the values.

    The first pass counts everything. Where binning leaves an interval of AUROC or average precision wider than 1e-4,
    further passes refine the bins that matter; with `exact` those of labels collect the scores of some at a time
    instead, and only what pools all cells is refined.

    Args:
        passes: called for each pass; must return all rows again.
        judged, options: what is asked.
        total: rows, for the progress.
    """
    evaluation = Evaluation(judged.thresholds, replicates=options.bootstrap, **judged.kept())
    sliced = None
    if options.by is not None:
        sliced = SlicedEvaluation(options.by, judged.thresholds, **judged.kept())
    done = 0
    for batch in passes():
        evaluation.update_cells(batch.cells, batch.scores)
        if sliced is not None:
            assert batch.values is not None
            sliced.update(batch.values, batch.cells, batch.scores)
        done += len(batch.cells)
        yield Progress("evaluate", done, total)
    every = range(evaluation.histogram.num_labels)
    exact = (yield from _exactly(passes, every, done, _columns_of)) if options.exact else None
    yield from _refined(passes, evaluation, exact, total)
    return evaluation, sliced


def _refined(
    passes: Callable[[], Iterator[ScoredBatch]], evaluation: Evaluation, exact: Ranking | None, total: int
) -> Generator[Progress, None, None]:
    """Refine bins until every interval is narrow: those of the labels, unless exact, and of all cells pooled.

    Where logits lie closer together, or further apart, than passes can split, the scores are sorted as far as they fit
    into memory; an interval is wide only beyond that.
    """
    labels: Counted = evaluation.histogram
    cells: Counted = evaluation.histogram.pooled()
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
    """A ranking with the exact one of some labels in it."""
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
    passes: Callable[[], Iterator[ScoredBatch]],
    labels: Sequence[int],
    rows: int,
    columns_of: Callable[[Cells, Sequence[int]], tuple[Any, ...]],
) -> Generator[Progress, None, Ranking]:
    """Rank sorted scores of some labels, as many at a time as fit into EXACT_BYTES."""
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


def _label_rows(columns: list[Any], label: int) -> LabelRows:
    logits, labels, weights = (column[:, label] for column in columns)
    seen = weights > 0
    return torch.from_numpy(logits[seen]), torch.from_numpy(labels[seen]), torch.from_numpy(weights[seen])
