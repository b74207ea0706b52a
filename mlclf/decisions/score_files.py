"""Scores of any model in Parquet, with their labels beside them or joined by a key → logits and labels in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.features.numeric import numeric_values
from mlclf.data.labels import UNOBSERVED, LabelColumns
from mlclf.data.readers import decoded_pieces
from mlclf.data.rows import row_weights
from mlclf.data.schema import matches
from mlclf.data.shards import Plan
from mlclf.decisions.thresholds import Thresholds
from mlclf.errors import ConfigError, DataError

PROBABILITY, LOGIT = "probability", "logit"
KIND_KEY = b"mlclf_score_kind"
"""Metadata of a Parquet schema by which a file says what its scores are."""

CLIP = 1e-7
PIECE_CELLS = 1 << 22


@dataclass
class ScorePiece:
    """Some rows: logits [n, K] float32, labels [n, K] uint8, mask [n, K] bool, weights [n] float64."""

    logits: Tensor
    labels: Tensor
    mask: Tensor
    weights: Tensor


@dataclass
class ScoreFiles:
    """Which columns hold the scores and the labels of K labels.

    Attributes:
        label_names, score_columns: [K]; `score_X` belongs to label X.
        kind: probability or logit; said by the caller or the file, never guessed.
        joined: labels by key, where they are in other files.
        unmatched: rows of scores whose key has no labels.
    """

    plan: Plan
    kind: str
    label_names: tuple[str, ...]
    score_columns: tuple[str, ...]
    weight: str | None = None
    joined: JoinedLabels | None = None
    values: Mapping[str, int | None] = field(default_factory=dict)
    unmatched: int = 0

    def pieces(self) -> Iterator[ScorePiece]:
        """All rows, in bounded pieces.

        Raises:
            DataError: a score is missing, or a probability is outside [0, 1]; a label is not one.
        """
        labels = LabelColumns(self.label_names, self.values)
        columns = [*self.score_columns, *((self.joined.key,) if self.joined else self.label_names)]
        columns += [self.weight] if self.weight else []
        rows = max(64, min(65_536, PIECE_CELLS // len(self.label_names)))
        for _, table, place in decoded_pieces(
            self.plan,
            range(len(self.plan.units)),
            list(dict.fromkeys(columns)),
            rows,
            lambda first, table, place: (first, table, place),
            lanes=1,
        ):
            codes, table = self._codes(labels, table, place)
            logits = np.stack([self._logits(table, name, place) for name in self.score_columns], axis=1)
            yield ScorePiece(
                torch.from_numpy(logits),
                torch.from_numpy((codes == 1).astype(np.uint8)),
                torch.from_numpy(codes != UNOBSERVED),
                torch.from_numpy(row_weights(table, self.weight, place)),
            )

    def _codes(self, labels: LabelColumns, table: pa.Table, place: str) -> tuple[NDArray[np.uint8], pa.Table]:
        if self.joined is None:
            return labels.codes(table, place), table
        rows = self.joined.rows_of(table.column(self.joined.key))
        found = rows >= 0
        self.unmatched += int((~found).sum())
        return self.joined.codes[rows[found]], table.filter(pa.array(found))

    def _logits(self, table: pa.Table, name: str, place: str) -> NDArray[np.float32]:
        where = f"{place} column {name!r}"
        column = table.column(name)
        scores = numeric_values(column, where) if self.kind == PROBABILITY else _with_infinities(column)
        if np.isnan(scores).any():
            raise DataError(
                f"{where}: scores must be numbers, found {int(np.isnan(scores).sum())} null or NaN; "
                "drop these rows or score them again"
            )
        if self.kind == LOGIT:
            return np.clip(scores, -1e30, 1e30).astype(np.float32)
        outside = (scores < 0) | (scores > 1)
        if outside.any():
            raise DataError(
                f"{where}: probabilities must be in [0, 1], found {float(scores[outside][0])!r}; "
                "if these are logits, say --score-kind logit"
            )
        clipped = np.clip(scores.astype(np.float64), CLIP, 1 - CLIP)
        return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)


def _with_infinities(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)


@dataclass
class JoinedLabels:
    """Labels of other files, held in memory: keys [n] and codes [n, K] uint8."""

    key: str
    keys: pa.Array
    codes: NDArray[np.uint8]

    def rows_of(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Row of each key, −1 where there is none: [n] int64."""
        places = pc.index_in(pc.cast(column, self.keys.type), value_set=self.keys)
        return np.asarray(pc.fill_null(places, -1).to_numpy(), np.int64)


def open_score_files(
    plan: Plan,
    scores: Sequence[str],
    labels: Sequence[str],
    kind: str | None,
    *,
    label_plan: Plan | None = None,
    key: str | None = None,
    weight: str | None = None,
) -> ScoreFiles:
    """Pair the score columns with their labels.

    Args:
        plan: the score files.
        scores, labels: column names or globs.
        kind: `probability` or `logit`; None takes what the files say.
        label_plan, key: where the labels are, when not beside the scores, and the column that joins them.

    Raises:
        ConfigError: a column, the kind or the key is missing.
    """
    columns = plan.shards[0].schema.names
    score_columns = [name for name in columns if any(matches(name, pattern) for pattern in scores)]
    label_source = (label_plan or plan).shards[0].schema.names
    names = [name for name in label_source if any(matches(name, pattern) for pattern in labels)]
    paired = [(name, f"score_{name}") for name in names if f"score_{name}" in score_columns]
    if not paired:
        raise ConfigError(
            f"no score column belongs to a label: scores are {score_columns[:5]}, labels {names[:5]}; "
            "'score_X' belongs to label 'X' (see --scores, --labels, --label-data)"
        )
    if label_plan is not None and key is None:
        raise ConfigError("--label-data needs --key, the column that joins scores and labels")
    for where, wanted in ((plan, [key, weight] if label_plan else [weight]), (label_plan, [key])):
        for name in filter(None, wanted):
            if where is not None and name not in where.shards[0].schema.names:
                raise ConfigError(f"column {name!r} is not in {where.shards[0].source.name}; check --key and --weight")
    label_names = tuple(name for name, _ in paired)
    joined = None
    if label_plan is not None and key is not None:
        joined = _read_labels(label_plan, key, label_names)
    return ScoreFiles(plan, _kind(plan, kind), label_names, tuple(score for _, score in paired), weight, joined)


def _kind(plan: Plan, kind: str | None) -> str:
    said = (plan.shards[0].schema.metadata or {}).get(KIND_KEY)
    kind = kind or (said.decode() if said is not None else None)
    if kind not in (PROBABILITY, LOGIT):
        found = "the files do not say it" if kind is None else f"got {kind!r}"
        raise ConfigError(f"--score-kind must be 'probability' or 'logit': {found}")
    return kind


def _read_labels(plan: Plan, key: str, label_names: tuple[str, ...]) -> JoinedLabels:
    labels = LabelColumns(label_names)
    keys, codes = [], []
    for _, table, place in decoded_pieces(
        plan,
        range(len(plan.units)),
        [key, *label_names],
        65_536,
        lambda first, table, place: (first, table, place),
        lanes=1,
    ):
        keys.append(table.column(key).combine_chunks())
        codes.append(labels.codes(table, place))
    joined = pa.concat_arrays(keys)
    if len(joined.unique()) != len(joined):
        counts = joined.value_counts()
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise DataError(f"--label-data: key {key!r} must be distinct, found {repeated!r} more than once")
    return JoinedLabels(key, joined, np.concatenate(codes))


def between(thresholds: Thresholds, kind: str) -> Thresholds:
    """The same decisions with each cut-off in the middle of the gap below it, in the files' own scale.

    Scores of files go through a logit and back, which may move the last bit; a cut-off between two scores does not
    mind. NaN (never positive) stays.
    """
    low, high = thresholds.intervals.double().unbind(1)
    if kind == LOGIT:
        low, high = torch.logit(low, eps=CLIP), torch.logit(high, eps=CLIP)
        fallback = torch.logit(thresholds.thresholds.double(), eps=CLIP)
    else:
        fallback = thresholds.thresholds.double()
    middle = torch.where(high > low, (low + high) / 2, fallback)
    kept = torch.where(thresholds.thresholds.isnan(), torch.nan, middle).float()
    return replace(thresholds, thresholds=kept, intervals=torch.stack([low, high], 1).float())
