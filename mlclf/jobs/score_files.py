"""Evaluation and calibration of score files: the scores of any model in Parquet, labels beside them or joined."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlclf.data.parquet.planning import make_plan
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import at_least, scores_of
from mlclf.decisions.cells.top_labels import is_top
from mlclf.decisions.score_files.columns import LOGIT, LOSS_CLIP, PROBABILITY, file_logits
from mlclf.decisions.score_files.file_thresholds import KIND_FIELD, FileThresholds, in_file_scale, read_of_kind
from mlclf.decisions.score_files.label_blocks import in_label_blocks, label_blocks
from mlclf.decisions.score_files.pairing import open_score_files, open_scores
from mlclf.decisions.score_files.reading import LabelScores, ScoredRows, ScoreFiles
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import ConfigError, DataError
from mlclf.jobs import calibrate, evaluate
from mlclf.jobs.calibrate import DEFAULT_CONFIDENCE, CalibrateOptions, calibrate_steps
from mlclf.jobs.evaluate import EvaluateOptions, Judged, evaluate_steps
from mlclf.names import Names, names_of
from mlclf.outputs.documents import check_document, write_document
from mlclf.progress import Progress, drain

DEFAULT_BUDGET_BYTES = 512 << 20


@dataclass(frozen=True)
class ScoreColumns:
    """Columns of score files by their meaning, and where the labels are; see `evaluate_scores`."""

    scores: Names = "score_*"
    score_kind: str | None = None
    labels: Names | None = None
    label_data: Names = ()
    key: str | None = None
    weight: str | None = None
    label_weights: Names = ()
    group: str | None = None
    label_names: Sequence[str] | None = None
    memory_budget: int = DEFAULT_BUDGET_BYTES

    def opened(self, data: Names) -> ScoreFiles:
        """Open score files with their labels; labels in other files are read into memory."""
        return open_score_files(
            make_plan(names_of(data)),
            names_of(self.scores, "scores"),
            None if self.labels is None else names_of(self.labels, "labels"),
            self.score_kind,
            label_plan=make_plan(names_of(self.label_data)) if self.label_data else None,
            key=self.key,
            weight=self.weight,
            label_weights=names_of(self.label_weights, "label_weights"),
            group=self.group,
            label_names=self.label_names,
            budget_bytes=self.memory_budget,
        )


def evaluate_scores(
    data: Names,
    thresholds: str | Path | None = None,
    out: str | Path | None = None,
    *,
    by: str | None = None,
    bootstrap: int = 0,
    exact: bool = False,
    scores: Names = "score_*",
    score_kind: str | None = None,
    labels: Names | None = None,
    label_data: Names = (),
    key: str | None = None,
    weight: str | None = None,
    label_weights: Names = (),
    group: str | None = None,
    label_names: Sequence[str] | None = None,
    memory_budget: int = DEFAULT_BUDGET_BYTES,
) -> dict[str, Any]:
    """Metrics of the scores of any model, as the document of `metrics.json`.

    AUROC and average precision rank the scores as the files have them; for the log-loss probabilities are clipped at
    1e-7. The prevalences of training are not known, so `gain` compares with those of these rows, (P + ½)/(N + 1); the
    document says so under `gain_baseline`.

    Args:
        data: Parquet files with scores.
        thresholds: file of `calibrate`; without one 0.5 decides.
        out: file for the document.
        by: column of the score files whose values get metrics of their own.
        bootstrap: replicates for intervals; 0 for none.
        exact: AUROC and average precision from sorted scores, label by label.
        scores: columns or globs, `score_X` belonging to label X; or one column of lists of K.
        score_kind: probability or logit; None where the files say it.
        labels: columns or globs, or one column of lists of K values or of tags; None takes X for every `score_X`.
        label_data, key: where the labels are, if not beside the scores, and the column that joins them.
        weight: column of row weights.
        label_weights: columns of weights by which those of the rows are multiplied, `weight_X` for label X.
        group: column that names a cluster of rows.
        label_names: of the elements of lists.
        memory_budget: bytes that joined labels may take.

    Raises:
        ConfigError, DataError: an argument is out of range, a column is missing or a score is none; nothing is written.
    """
    columns = ScoreColumns(
        scores, score_kind, labels, label_data, key, weight, label_weights, group, label_names, memory_budget
    )
    return drain(evaluate_scores_steps(data, thresholds, out, EvaluateOptions(by, bootstrap, exact), columns))


def calibrate_scores(
    data: Names,
    objective: str,
    out: str | Path,
    *,
    confidence: float | None = DEFAULT_CONFIDENCE,
    across_labels: str | None = None,
    prior: str | Path | None = None,
    unlabelled: Names = (),
    prevalence: str | Path | None = None,
    scores: Names = "score_*",
    score_kind: str | None = None,
    labels: Names | None = None,
    label_data: Names = (),
    key: str | None = None,
    weight: str | None = None,
    label_weights: Names = (),
    group: str | None = None,
    label_names: Sequence[str] | None = None,
    memory_budget: int = DEFAULT_BUDGET_BYTES,
) -> dict[str, Any]:
    """Tune thresholds on the scores of any model, write them to `out` and return the document of `thresholds.json`.

    The thresholds are in the scale of the files, which the document names as `score_kind`.

    Args:
        data: Parquet files with scores.
        objective: such as `f1` or `recall:0.9`.
        out: file for the document.
        confidence: what constraints are to hold with; None makes no claim.
        across_labels: `fdr` controls a set of labels, None each on its own.
        prior: file of earlier thresholds, toward which these are shrunk.
        unlabelled: score files without labels, in which labels may occur more or less often: thresholds are for these.
        prevalence: JSON file `{label: share}` of known prevalences that the thresholds are for.
        scores, score_kind, labels, label_data, key, weight, label_weights, group, label_names, memory_budget: which
            columns are what; see `evaluate_scores`.

    Raises:
        ConfigError, DataError: an option does not exist, a column is missing or a score is none; nothing is written.
    """
    asked = CalibrateOptions(objective, confidence, across_labels, prior, unlabelled, prevalence)
    columns = ScoreColumns(
        scores, score_kind, labels, label_data, key, weight, label_weights, group, label_names, memory_budget
    )
    return drain(calibrate_scores_steps(data, out, asked, columns))


def evaluate_scores_steps(
    data: Names,
    thresholds: str | Path | None,
    out: str | Path | None,
    asked: EvaluateOptions,
    columns: ScoreColumns,
) -> Generator[Progress, None, dict[str, Any]]:
    """The job of `evaluate_scores`, yielding progress; returns the document."""
    check_document(out, evaluate.DOCUMENT_FIELD)
    rows = _ScoredFiles(data, columns)
    judged = _judged(rows.files, _thresholds(rows.files, thresholds))
    return (yield from evaluate_steps(rows, judged, asked, out))


def calibrate_scores_steps(
    data: Names, out: str | Path | None, asked: CalibrateOptions, columns: ScoreColumns
) -> Generator[Progress, None, dict[str, Any]]:
    """The job of `calibrate_scores`, yielding progress; returns the document."""
    if out is None:
        raise ConfigError("calibrating score files needs --out, the file for the thresholds")
    check_document(out, calibrate.DOCUMENT_FIELD)
    rows = _ScoredFiles(data, columns)
    thresholds = yield from calibrate_steps(rows, asked)
    document = in_file_scale(thresholds, rows.score_kind).to_json(list(rows.label_names))
    document[KIND_FIELD] = rows.score_kind
    write_document(out, document, calibrate.DOCUMENT_FIELD)
    return document


class _ScoredFiles:
    """Score files with their labels, opened anew for each pass."""

    def __init__(self, data: Names, columns: ScoreColumns) -> None:
        self.data, self.columns = data, columns
        self.files, self._is_fresh = columns.opened(data), True
        self.plan, self.label_names, self.score_kind = self.files.plan, self.files.label_names, self.files.kind
        self.num_rows = self.plan.rows
        self.clustered = columns.group is not None
        self.weighted = columns.weight is not None or bool(columns.label_weights)

    def _opened(self) -> ScoreFiles:
        """The files, opened for another pass."""
        if not self._is_fresh:
            self.files = self.columns.opened(self.data)
        self._is_fresh = False
        return self.files

    def scored_rows(self, by: str | None, identified: bool) -> Iterator[ScoredRows]:
        """All rows with their scores as the files have them; see `evaluate.EvaluatedRows`."""
        files = self._opened()
        files.carry, files.ranks = by, files.tells_more()
        for rows in files.cells(_largest_logit(files.kind)):
            yield ScoredRows(_row_major(rows.cells), rows.scores.contiguous(), rows.carried)

    def count(self, tuner: Tuner) -> Iterator[int]:
        """Feed all rows to a tuner; yields how many it has."""
        files, done = self._opened(), 0
        if tuner.takes_labels and in_label_blocks(files):
            tuner.prepare()
            yield from label_blocks(files, tuner.update)
            return
        for rows in files.cells():
            tuner.update(rows.cells)
            done += len(rows.cells)
            yield done

    def weights(self) -> Iterator[Tensor | None]:
        """Weights of the cells of all rows."""
        return (rows.cells.cell_weights() for rows in self._opened().cells())

    def unlabelled(self, data: Sequence[str], take: Callable[[Tensor], None]) -> Iterator[Progress]:
        """Pass the logits [n, K] of score files without labels to `take`; yields progress."""
        plan, done = make_plan(data), 0
        files = open_scores(plan, names_of(self.columns.scores, "scores"), self.score_kind, self.label_names)
        if not files.scores.is_list:
            files = files.of(self.label_names)
        for _, scores in files.pieces(range(len(plan.units))):
            logits = torch.from_numpy(file_logits(scores, files.kind)).t()
            take(logits)
            done += len(logits)
            yield Progress("unlabelled", done, plan.rows)

    def caution(self, claims: bool) -> None:
        """None: nothing is known of the rows that a model was trained on."""

    def notes(self, num_rows: int) -> Iterator[Progress]:
        """Warnings and notes about the rows that were read.

        Raises:
            DataError: no row has scores and labels.
        """
        notes = [*self.files.plan.warnings, *self.files.notes]
        if self.files.unseen_tags:
            notes.append(f"{self.files.unseen_tags:,} tags are not among the labels that have scores; they are ignored")
        for note in notes:
            yield Progress.warning("rows", note)
        if not num_rows:
            raise DataError("no row has both scores and labels; check --key and the files")


def _largest_logit(kind: str) -> float:
    """The largest logit that the log-loss takes, where probabilities are clipped."""
    return float(np.log((1 - LOSS_CLIP) / LOSS_CLIP)) if kind == PROBABILITY else float(np.finfo(np.float32).max)


def _judged(files: ScoreFiles, decided: FileThresholds) -> Judged:
    """How scores of files become decisions: as probabilities, by thresholds in the scale of the files."""
    cuts, per_row = torch.from_numpy(decided.cuts), decided.per_row
    half = scores_of(cuts) if files.kind == LOGIT else cuts

    def decide(scores: Tensor) -> Tensor:
        decisions = at_least(scores, half)
        return decisions if per_row is None else decisions & is_top(scores, torch.ones_like(decisions), per_row)

    return Judged(
        list(files.label_names),
        half,
        decide,
        cuts,
        probabilities=None if files.kind == PROBABILITY else partial(_on_sides, cuts=cuts, half=half),
        ends_dtype=torch.float64 if files.tells_more() else torch.float32,
        recalibrated_within=_largest_logit(PROBABILITY) if files.kind == PROBABILITY else np.inf,
    )


def _thresholds(files: LabelScores, path: str | Path | None) -> FileThresholds:
    """Thresholds from a file, or the probability 0.5."""
    if path is not None:
        return read_of_kind(Path(path), files.label_names, files.kind)
    half = np.full(len(files.label_names), 0.5 if files.kind == PROBABILITY else 0.0, np.float32)
    return FileThresholds(files.kind, half)


def _row_major(cells: Cells) -> Cells:
    """The same cells with those of a row beside each other, as metrics across labels read them."""
    mask = None if cells.mask is None else cells.mask.contiguous()
    ranks = None if cells.ranks is None else cells.ranks.contiguous()
    return replace(cells, logits=cells.logits.contiguous(), labels=cells.labels.contiguous(), mask=mask, ranks=ranks)


def _on_sides(logits: Tensor, cuts: Tensor, half: Tensor) -> Tensor:
    """Probabilities of logits that are on the same side of the probability `half` [K] as they are of the cuts [K].

    Far out neighbouring logits have one probability in float32; those below the cut then get the one just below.
    """
    scores = scores_of(logits)
    below = torch.nextafter(half, torch.zeros_like(half))
    return torch.where(logits >= cuts, torch.maximum(scores, half), torch.minimum(scores, below)).where(
        ~cuts.isnan(), scores
    )
