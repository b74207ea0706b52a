"""Apply thresholds to score files, and count the decisions that change between two files of thresholds."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_list
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.parquet.readers import decoded_pieces
from mlclf.data.schema.globs import matches
from mlclf.decisions.score_files.best_labels import DECIDED, TOP_LABELS, TOP_SCORES, decide_on_best, decided_lists
from mlclf.decisions.score_files.columns import KIND_KEY, Place
from mlclf.decisions.score_files.file_thresholds import FileThresholds, described, read_of_kind
from mlclf.decisions.score_files.label_join import placed
from mlclf.decisions.score_files.pairing import SCORE_PREFIX, open_scores, score_kind
from mlclf.decisions.score_files.reading import LabelScores
from mlclf.errors import ConfigError
from mlclf.files import sha256_of
from mlclf.jobs.parquet_parts import Parts, empty_keys
from mlclf.jobs.predict import WIDE_LABELS
from mlclf.messages import some_of
from mlclf.names import Names, names_of
from mlclf.outputs.output import claimed
from mlclf.progress import Progress, drain

DECISION_PREFIX = "decision_"
DIFF_VERSION = 1
BEST_ROWS = 8192


def apply_thresholds(
    data: Names,
    thresholds: str | Path,
    out: str | Path,
    *,
    scores: Names = "score_*",
    score_kind: str | None = None,
    key: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Apply thresholds to score files: write the decisions as Parquet files, one for each, and return their folder.

    A decision is ``score >= threshold``, both float32. Up to 1,000 labels there is a column `decision_<label>` for
    each, above, and where scores are lists, one list of the labels decided on, `decided_labels`, by falling score.
    Lists of the best labels, as `predict --top` writes them, are decided on where no label that is left out of them
    may reach its threshold.

    Args:
        data: Parquet files with scores.
        thresholds: file of `calibrate`, of the same labels.
        out: folder for the parts; the columns of keys are carried along.
        scores: columns or globs, or one column of lists.
        score_kind: probability or logit; None where the files or the thresholds say it.
        key: a column to carry along; None carries all that are no scores, decisions or labels.
        resume: keep the parts that are there and write the others.
        overwrite: replace the decisions that are there.

    Raises:
        ConfigError, DataError: a column is missing, a score is none, or the thresholds are of other labels.
    """
    return drain(apply_thresholds_steps(data, thresholds, out, scores, score_kind, key, resume, overwrite))


def apply_thresholds_steps(
    data: Names,
    thresholds: str | Path,
    out: str | Path,
    scores: Names,
    score_kind: str | None,
    key: str | None,
    resume: bool,
    overwrite: bool,
) -> Generator[Progress, None, Path]:
    """The job of `apply_thresholds`, yielding progress; returns the folder."""
    data = names_of(data)
    with claimed(out, "apply", arguments=data, resume=resume, overwrite=overwrite, resumable=True) as output:
        plan = make_plan(data)
        output.keep_apart([*plan.local_files(), thresholds])
        decided = _decisions(plan, Path(thresholds), names_of(scores, "scores"), score_kind, key)
        arguments = {"scores": names_of(scores, "scores"), "score_kind": score_kind, "key": key}
        bound = {"thresholds": sha256_of(Path(thresholds)), "arguments": arguments}
        parts = Parts(output, plan, resume=resume, bound=bound)
        for note in [*output.said(), *parts.notes]:
            yield Progress.warning("out", note)
        yield from parts.write("apply", decided.tables, decided.no_rows)
        for note in [*output.said(), *plan.warnings]:
            yield Progress.warning("rows", note)
    return Path(out)


class _Decisions(Protocol):
    """Makes the decisions on the rows of score files."""

    def tables(self, shard: int) -> Iterator[pa.Table]:
        """The columns carried along and the decisions of the rows of a file, in order."""

    def no_rows(self, shard: int) -> pa.Table:
        """The same columns without a row, of the types that a file has."""


@dataclass(frozen=True)
class _OfScores:
    """Decisions on files that have a score of every label."""

    scored: LabelScores
    thresholds: FileThresholds
    carried: list[str]

    def tables(self, shard: int) -> Iterator[pa.Table]:
        for table, values in self.scored.pieces(_units_of(self.scored.plan, shard), self.carried):
            yield _with_decisions(table, values, self.thresholds.decide(values), self.scored)

    def no_rows(self, shard: int) -> pa.Table:
        empty = {name: empty_keys(self.scored.plan.shards[shard], name)[name] for name in self.carried}
        values = np.zeros((len(self.scored.label_names), 0), np.float32)
        return _with_decisions(pa.table(empty), values, values > 0, self.scored)


@dataclass(frozen=True)
class _OfBestLabels:
    """Decisions on files that list the best labels of each row."""

    plan: Plan
    label_names: tuple[str, ...]
    thresholds: FileThresholds
    carried: list[str]

    def tables(self, shard: int) -> Iterator[pa.Table]:
        cuts, per_row = self.thresholds.cuts, self.thresholds.per_row

        def work(table: pa.Table, place: Place, first_row: int) -> pa.Table:
            decided = decide_on_best(table, cuts, self.label_names, per_row, place)
            return table.select(self.carried).append_column(DECIDED, decided)

        names = [TOP_LABELS, TOP_SCORES, *self.carried]
        yield from decoded_pieces(
            self.plan, _units_of(self.plan, shard), names, BEST_ROWS, placed(self.plan, work), lanes=1
        )

    def no_rows(self, shard: int) -> pa.Table:
        empty = {name: empty_keys(self.plan.shards[shard], name)[name] for name in self.carried}
        return pa.table(empty | {DECIDED: pa.array([], pa.list_(pa.string()))})


def _units_of(plan: Plan, shard: int) -> list[int]:
    return [number for number, unit in enumerate(plan.units) if unit.shard == shard]


def _decisions(plan: Plan, thresholds: Path, scores: Sequence[str], kind: str | None, key: str | None) -> _Decisions:
    """How these files are decided on: by the scores of all labels, or by lists of the best ones."""
    names = plan.shards[0].schema.names
    if {TOP_LABELS, TOP_SCORES} <= set(names) and not any(matches(name, each) for name in names for each in scores):
        _, label_names = described(thresholds)
        found = read_of_kind(thresholds, label_names, score_kind(plan, kind))
        return _OfBestLabels(plan, label_names, found, _carried(plan, (), key))
    scored = _scored(plan, thresholds, scores, kind)
    found = read_of_kind(thresholds, scored.label_names, scored.kind)
    return _OfScores(scored, found, _carried(plan, (*scored.scores.names, *scored.label_names), key))


def _scored(plan: Plan, thresholds: Path, scores: Names, score_kind: str | None) -> LabelScores:
    """The scores of a plan, in the scale that the files name, or else the thresholds."""
    kind, names = described(thresholds)
    silent = all(KIND_KEY not in (shard.schema.metadata or {}) for shard in plan.shards)
    return open_scores(plan, names_of(scores, "scores"), kind if score_kind is None and silent else score_kind, names)


def _carried(plan: Plan, own: Sequence[str], key: str | None) -> list[str]:
    """The columns copied to the decisions: the key, or all except scores, decisions and labels (`own`).

    Raises:
        ConfigError: a file lacks the key.
    """
    if key is not None:
        for shard in plan.shards:
            if key not in shard.schema.names:
                raise ConfigError(f"--key: column {key!r} is not in {shard.source.name}")
        return [key]
    everywhere = set.intersection(*(set(shard.schema.names) for shard in plan.shards))
    return [
        column.name
        for column in plan.shards[0].schema
        if column.name in everywhere - set(own)
        and not column.name.startswith((SCORE_PREFIX, DECISION_PREFIX))
        and not is_list(column.type)
    ]


def _with_decisions(
    table: pa.Table, scores: NDArray[np.float32], decisions: NDArray[np.bool_], scored: LabelScores
) -> pa.Table:
    """The columns carried along, then the decisions [K, n] on scores [K, n]."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    if not scored.scores.is_list and len(scored.label_names) <= WIDE_LABELS:
        for name, decided in zip(scored.label_names, decisions, strict=True):
            columns[DECISION_PREFIX + name] = pa.array(decided)
    else:
        columns[DECIDED] = decided_lists(scores.T, decisions.T, scored.label_names)
    return pa.table(columns)


# ── diff ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def diff_thresholds(
    a: str | Path, b: str | Path, data: Names, *, scores: Names = "score_*", score_kind: str | None = None
) -> dict[str, Any]:
    """Count the decisions that change from thresholds `a` to thresholds `b`.

    Args:
        a, b: files of `calibrate`; labels that only one of them has are named, the others compared.
        data: Parquet files with scores of the labels that both have.
        scores: columns or globs, or one column of lists.
        score_kind: probability or logit; None where the files or the thresholds say it.

    Returns:
        `rows`, `changed` (decisions), `changed_rows` (rows with one), `share` (of all decisions), `only_in_a`,
        `only_in_b`, and for each of the `labels` `thresholds`, `on_to_off`, `off_to_on` and `share` (of the rows).

    Raises:
        ConfigError, DataError: a column is missing, a score is none, or the thresholds have no label in common.
    """
    return drain(diff_thresholds_steps(a, b, data, scores, score_kind))


def diff_thresholds_steps(
    a: str | Path, b: str | Path, data: Names, scores: Names, score_kind: str | None
) -> Generator[Progress, None, dict[str, Any]]:
    """The job of `diff_thresholds`, yielding progress; returns the document."""
    first, second = Path(a), Path(b)
    theirs = [described(path)[1] for path in (first, second)]
    plan = make_plan(names_of(data))
    scored = _scored(plan, first, scores, score_kind)
    common = [name for name in theirs[0] if name in set(theirs[1])]
    if not common:
        raise ConfigError(f"{str(first)!r} and {str(second)!r} have no label in common; compare thresholds of one task")
    scored = _of_labels(scored, common)
    names = scored.label_names
    old, new = (read_of_kind(path, names, scored.kind, only=True) for path in (first, second))
    off, on = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    rows = changed_rows = 0
    for _, values in scored.pieces(range(len(plan.units))):
        before, after = old.decide(values), new.decide(values)
        off += (before & ~after).sum(1)
        on += (after & ~before).sum(1)
        changed_rows += int((before != after).any(0).sum())
        rows += values.shape[1]
        yield Progress("diff", rows, plan.rows)
    changed = int((off + on).sum())
    pairs = zip(_cut_numbers(old.cuts), _cut_numbers(new.cuts), strict=True)
    return {
        "format_version": DIFF_VERSION,
        "rows": rows,
        "changed": changed,
        "changed_rows": changed_rows,
        "share": changed / (rows * len(names)),
        "only_in_a": [name for name in theirs[0] if name not in set(common)],
        "only_in_b": [name for name in theirs[1] if name not in set(common)],
        "labels": {
            name: {
                "thresholds": list(pair),
                "on_to_off": int(off[index]),
                "off_to_on": int(on[index]),
                "share": int(off[index] + on[index]) / rows,
            }
            for index, (name, pair) in enumerate(zip(names, pairs, strict=True))
        },
    }


def _of_labels(scored: LabelScores, wanted: Sequence[str]) -> LabelScores:
    """The same scores, of some labels only.

    Raises:
        ConfigError: a label has no score.
    """
    if scored.scores.is_list:
        return scored
    missing = [name for name in wanted if name not in set(scored.label_names)]
    if missing:
        raise ConfigError(
            f"the scores must be of all labels that both thresholds have, found no score of {some_of(missing, 5)}"
        )
    return scored.of(wanted)


def _cut_numbers(cuts: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(cut) else cut for cut in cuts.tolist()]
