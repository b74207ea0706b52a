"""Scores of any model in Parquet, with their labels beside them or joined by a key → cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_list
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.parquet.columns_for_polars import LEAST_BUDGET_BYTES, with_columns_for_polars
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import decoded_pieces
from mlclf.decisions.cells.cells import Cells, row_identities, value_identities, with_rows_alone
from mlclf.decisions.score_files.columns import (
    PROBABILITY,
    CellColumns,
    Place,
    checked_scores,
    file_logits,
    rank_logits,
    read_scores,
)
from mlclf.decisions.score_files.label_join import JoinedLabels, placed
from mlclf.decisions.score_files.label_rows import LabelReader, LabelRows, check_label_weights
from mlclf.machine.memory import Recycler

T = TypeVar("T")

PIECE_CELLS = 1 << 23
PIECE_ROWS = 65_536
_IN_FLOAT32 = {pa.float16(), pa.float32(), pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.bool_(), pa.null()}
LARGE_UNIT_BYTES = 64 << 20
"""Of units larger than this one is decoded at a time: decoded, read and encoded it is there three times."""


class ScoredRows(NamedTuple):
    """Rows that have scores and labels: cells, the scores as the file has them, [n, K] float32, a column carried."""

    cells: Cells
    scores: torch.Tensor
    carried: pa.ChunkedArray | None = None


@dataclass
class LabelScores:
    """Which columns of score files hold the scores of K labels.

    Attributes:
        label_names: [K].
        kind: probability or logit; said by the caller or the files, never guessed.
    """

    plan: Plan
    kind: str
    label_names: tuple[str, ...]
    scores: CellColumns
    memory: Recycler = field(default_factory=Recycler, repr=False, kw_only=True)
    _plans: dict[tuple[str, ...], Plan] = field(default_factory=dict, repr=False, kw_only=True)

    def of(self, label_names: Sequence[str]) -> LabelScores:
        """Some of the labels, where scores have a column each."""
        places = dict(zip(self.label_names, self.scores.names, strict=True))
        columns = CellColumns(tuple(places[name] for name in label_names), len(label_names))
        return LabelScores(self.plan, self.kind, tuple(label_names), columns)

    @property
    def piece_rows(self) -> int:
        """Rows that are decoded at a time."""
        return max(64, min(PIECE_ROWS, PIECE_CELLS // len(self.label_names)))

    def pieces(
        self, units: Sequence[int], others: Sequence[str] = ()
    ) -> Iterator[tuple[pa.Table, NDArray[np.float32]]]:
        """Yield the other columns and the scores [K, n] float32 of the rows of some units, in order.

        Raises:
            DataError: a score is missing, or a probability is outside [0, 1].
        """

        def work(table: pa.Table, place: Place, first_row: int) -> tuple[pa.Table, NDArray[np.float32]]:
            return table.select(list(others)), read_scores(table, self.scores, self.kind, place, self.memory)

        yield from self._decoded([*self.scores.names, *others], units, work, lanes=1)

    def _decoded(
        self,
        columns: Sequence[str],
        units: Sequence[int],
        work: Callable[[pa.Table, Place, int], T],
        lanes: int = 2,
    ) -> Iterator[T]:
        """Results of `work` on pieces of some units; with more than one lane those of large units come in turns."""
        names = list(dict.fromkeys(columns))
        plan = self._plans.get(tuple(names))
        if plan is None:  # footers are looked at once, however many units are read one by one
            plan = self._plans[tuple(names)] = with_columns_for_polars(self.plan, names, LEAST_BUDGET_BYTES)
        largest = max((plan.units[unit].rows * plan.units[unit].row_bytes for unit in units), default=0)
        lanes = 1 if largest > LARGE_UNIT_BYTES else lanes
        yield from decoded_pieces(plan, units, names, self.piece_rows, placed(plan, work), lanes=lanes)


@dataclass
class ScoreFiles(LabelScores):
    """Score files with all that is known of their rows.

    Attributes:
        beside: what the score files themselves know of a row.
        joined: labels by key, where they are in other files.
        label_weights: where the weights of the cells are, in whichever files.
        identity: the column of the score files that tells what a row is; None where its number does.
        carry: a column of the score files whose values are handed on.
        ranks: whether cells have their `ranks`.
        notes: what a person should know, in plain words.
    """

    beside: LabelReader
    joined: JoinedLabels | None = None
    label_weights: CellColumns | None = None
    identity: str | None = None
    notes: list[str] = field(default_factory=list)
    carry: str | None = None
    ranks: bool = False

    def tells_more(self) -> bool:
        """Whether scores, as the files have them, are told apart where their logits in float32 are not."""
        if self.kind == PROBABILITY:
            return True
        kinds = {shard.schema.field(name).type for shard in self.plan.shards for name in self.scores.names}
        return any((kind.value_type if is_list(kind) else kind) not in _IN_FLOAT32 for kind in kinds)

    def cells(self, limit: float | None = None) -> Iterator[ScoredRows]:
        """All rows that have labels, in bounded pieces.

        Args:
            limit: the largest logit; see `file_logits`.

        Raises:
            DataError: a score is missing, or a probability is outside [0, 1]; a label or a weight is not one; a key
                is there twice.
        """

        key = self.joined.key if self.joined else None
        others = [name for name in (key, self.identity, self.carry) if name]
        columns = [*self.scores.names, *self.beside.columns, *others]
        reader = partial(self.read, limit=limit)
        for found, rows in self._decoded(columns, range(len(self.plan.units)), reader):
            if self.joined is not None:
                self.joined.note(*found)
            if len(rows.cells):
                yield rows
        self._note_unmatched()

    def read(self, table: pa.Table, place: Place, first_row: int, limit: float | None = None) -> tuple[Any, ScoredRows]:
        """The rows of a table that have labels, after what was found by their keys; see `cells`."""
        kind = np.float64 if self.ranks else np.float32
        wide: NDArray[Any] = self.scores.floats(table, place, kind, self.memory)
        with np.errstate(over="ignore"):
            scores = checked_scores(wide.astype(np.float32, copy=False), self.scores, self.kind, place)
        known = self.beside.read(table, place)
        numbers, found = np.arange(first_row, first_row + table.num_rows), None
        if self.joined is not None:
            keys = table.column(self.joined.key)
            kept, rows = self.joined.find(keys)
            if len(kept) < len(numbers):
                scores, wide, numbers = scores[:, kept], wide[:, kept], numbers[kept]
            known = known.take(kept).joined_with(self.joined.rows(rows))
            found = keys, kept, rows, place
        if self.label_weights is not None:
            check_label_weights(known, self.label_weights, place)
        carried = None
        if self.carry is not None:
            carried = table.column(self.carry)
            carried = carried if len(carried) == len(numbers) else carried.take(pa.array(numbers - first_row))
        cells = self._cells(table, scores, known, numbers - first_row, first_row, limit)
        if self.ranks:
            cells = replace(cells, ranks=_t(rank_logits(wide, self.kind)))
        return found, ScoredRows(cells, _t(scores), carried)

    def _cells(
        self,
        table: pa.Table,
        scores: NDArray[np.float32],
        known: LabelRows,
        rows: NDArray[np.int64],
        first_row: int,
        limit: float | None,
    ) -> Cells:
        numbers = torch.from_numpy(rows + first_row)
        if known.groups is not None:
            identities = with_rows_alone(torch.from_numpy(known.groups), numbers)
        elif self.identity is not None:
            found = value_identities(table.column(self.identity))[torch.from_numpy(rows)]
            identities = with_rows_alone(found, numbers)
        else:
            identities = row_identities(numbers)
        codes = known.codes
        assert codes is not None
        complete = bool(codes.max(initial=0) < UNOBSERVED)
        return Cells(
            logits=_t(file_logits(scores, self.kind, limit, self.memory)),
            labels=_t(codes if complete else (codes == 1).view(np.uint8)),
            identities=identities,
            mask=None if complete else _t(codes != UNOBSERVED),
            weights=None if known.weights is None else torch.from_numpy(known.weights),
            label_weights=None if known.label_weights is None else _t(known.label_weights),
        )

    def _note_unmatched(self) -> None:
        if self.joined is None:
            return
        key = self.joined.key
        for what, other, alone in (
            ("scores", "labels", self.joined.scores_alone),
            ("labels", "scores", self.joined.labels_alone()),
        ):
            if alone.rows:
                self.notes.append(f"{alone.rows:,} rows of {what} have no {other} by {key!r}; left out: {alone.text()}")

    @property
    def unseen_tags(self) -> int:
        """Tags that are not labels."""
        return self.beside.unseen_tags + (self.joined.unseen_tags if self.joined is not None else 0)


def _t(columns: NDArray[Any]) -> torch.Tensor:
    """[K, n] as a tensor [n, K] of the same memory."""
    return torch.from_numpy(columns).t()
