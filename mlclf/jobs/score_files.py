"""Jobs on the scores of any model, in Parquet, with labels: calibrate and evaluate."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlclf.data.parquet.planning import make_plan
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import at_least, scores_of
from mlclf.decisions.cells.top_labels import is_top
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.score_files.columns import LOGIT, LOSS_CLIP, PROBABILITY, file_logits
from mlclf.decisions.score_files.file_thresholds import (
    KIND_FIELD,
    FileThresholds,
    in_file_scale,
    read_of_kind,
    read_prior,
)
from mlclf.decisions.score_files.label_blocks import in_label_blocks, label_blocks
from mlclf.decisions.score_files.pairing import open_score_files, open_scores
from mlclf.decisions.score_files.reading import Scored, ScoreFiles
from mlclf.decisions.thresholds.objectives import parse_objective
from mlclf.decisions.tuner import Tuner
from mlclf.errors import ConfigError, DataError
from mlclf.jobs.evaluate import EvaluateOptions, Judged, ScoredBatch, check_column, evaluation_steps
from mlclf.jobs.make_tuner import DEFAULT_CONFIDENCE, make_tuner
from mlclf.jobs.prevalence_shift import read_prevalences, shifted_thresholds
from mlclf.names import Names, names_of
from mlclf.outputs.documents import check_document, write_document
from mlclf.progress import Progress, drain

DEFAULT_BUDGET_BYTES = 512 << 20


# ── calibrate ───────────────────────────────────────────────────────────────────────────────────────────────────────


def calibrate_scores(data: Names, objective: str, out: str | Path, **options: Any) -> dict[str, Any]:
    """Tune thresholds on the scores of any model and write them to `out`; see `calibrate_scores_steps`."""
    return drain(calibrate_scores_steps(data, objective, out, **options))


def calibrate_scores_steps(
    data: Names,
    objective: str,
    out: str | Path | None,
    *,
    confidence: float | None = DEFAULT_CONFIDENCE,
    across_labels: str | None = None,
    prior: str | Path | None = None,
    unlabelled: Names = (),
    prevalence: str | Path | None = None,
    **columns: Any,
) -> Generator[Progress, None, dict[str, Any]]:
    """Tune thresholds on the scores of any model, yielding progress; returns the document of `thresholds.json`.

    The thresholds are in the scale of the files, which the document names as `score_kind`.

    Args:
        data: Parquet files with scores.
        objective: such as `f1` or `recall:0.9`.
        out: file for the document.
        confidence: what constraints are to hold with; None makes no claim.
        across_labels: `fdr` controls a set of labels, None each on its own.
        prior: thresholds of earlier, toward which these are shrunk.
        unlabelled: score files without labels, in which labels may occur more or less often: thresholds are for these.
        prevalence: JSON file `{label: share}` of prevalences that are known, for which thresholds are to be.
        columns: which columns are what; see `opened`.

    Raises:
        ConfigError, DataError: an argument or the data is not what it has to be; nothing is written.
    """
    if out is None:
        raise ConfigError("calibrating score files needs --out, the file for the thresholds")
    check_document(out, "objective")
    wanted = parse_objective(objective)
    make_tuner(wanted, 1, confidence=confidence, across_labels=across_labels)  # refuses before data is read
    files = opened(data, **columns)
    earlier = None if prior is None else read_prior(Path(prior), files.label_names, files.kind)
    num_labels = len(files.label_names)
    known = None if prevalence is None else read_prevalences(prevalence, files.label_names)
    fresh = None
    if names_of(unlabelled):
        fresh = yield from _counted(names_of(unlabelled), files, columns)
    claims = wanted.is_constraint and confidence is not None
    weighted = columns.get("weight") is not None or bool(columns.get("label_weights"))
    tuner = make_tuner(
        wanted,
        num_labels,
        confidence=confidence,
        across_labels=across_labels,
        prior=earlier,
        clustered=columns.get("group") is not None,
        greatest_weight=_greatest_weight(opened(data, **columns)) if claims and weighted else None,
    )
    done = 0
    for done in _tuned_on(tuner, files):
        yield Progress("calibrate", done, files.plan.rows)
    yield from _notes(files, done)
    shifted = known is not None or fresh is not None
    thresholds = shifted_thresholds(tuner, known, fresh) if shifted else tuner.thresholds()
    document = in_file_scale(thresholds, files.kind).to_json(list(files.label_names))
    document[KIND_FIELD] = files.kind
    write_document(out, document, "objective")
    return document


def _tuned_on(tuner: Tuner, files: ScoreFiles) -> Iterator[int]:
    """Let the tuner count all rows; yields how many it has."""
    if tuner.takes_labels and in_label_blocks(files):
        tuner.prepare()
        yield from label_blocks(files, tuner.update)
        return
    done = 0
    for rows in files.cells():
        tuner.update(rows.cells)
        done += len(rows.cells)
        yield done


def opened(
    data: Names,
    *,
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
) -> ScoreFiles:
    """Open score files with their labels.

    Args:
        data: Parquet files with scores.
        scores: columns or globs, `score_X` belonging to label X; or one column of lists of K.
        score_kind: probability or logit; None where the files say it.
        labels: columns or globs, or one column of lists of K values or of tags; None takes X for every `score_X`.
        label_data, key: where the labels are, if not beside the scores, and the column that joins them.
        weight: column of row weights.
        label_weights: columns of weights by which those of the rows are multiplied, `weight_X` for label X.
        group: column that names a cluster of rows.
        label_names: of the elements of lists.
        memory_budget: bytes that joined labels may take.
    """
    plan = make_plan(names_of(data))
    return open_score_files(
        plan,
        names_of(scores, "scores"),
        None if labels is None else names_of(labels, "labels"),
        score_kind,
        label_plan=make_plan(names_of(label_data)) if label_data else None,
        key=key,
        weight=weight,
        label_weights=names_of(label_weights, "label_weights"),
        group=group,
        label_names=label_names,
        budget_bytes=memory_budget,
    )


def _counted(
    data: Sequence[str], like: Scored, columns: Mapping[str, Any]
) -> Generator[Progress, None, LabelHistogram]:
    """The logits of score files without labels, of the labels of others."""
    plan = make_plan(data)
    files = open_scores(plan, names_of(columns.get("scores", "score_*"), "scores"), like.kind, like.label_names)
    if not files.scores.is_list:
        files = files.of(like.label_names)
    histogram, done = LabelHistogram(len(files.label_names)), 0
    for _, scores in files.pieces(range(len(plan.units))):
        logits = torch.from_numpy(file_logits(scores, files.kind)).t()
        histogram.update(logits, torch.zeros_like(logits, dtype=torch.uint8))
        done += len(logits)
        yield Progress("unlabelled", done, plan.rows)
    return histogram


def _greatest_weight(files: ScoreFiles) -> float:
    """The greatest weight of a cell; reads all rows."""
    greatest = 0.0
    for rows in files.cells():
        weights = rows.cells.cell_weights()
        if weights is not None and weights.numel():
            greatest = max(greatest, float(weights.max()))
    return greatest


def _notes(files: ScoreFiles, done: int) -> Generator[Progress, None, None]:
    """What a person should know of the rows that were read.

    Raises:
        DataError: no row has scores and labels.
    """
    notes = [*files.plan.warnings, *files.notes]
    if files.unseen_tags:
        notes.append(f"{files.unseen_tags:,} tags are not among the labels that have scores; they are ignored")
    for note in notes:
        yield Progress.warning("rows", note)
    if not done:
        raise DataError("no row has both scores and labels; check --key and the files")


# ── evaluate ────────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluate_scores(
    data: Names, thresholds: str | Path | None = None, out: str | Path | None = None, **columns: Any
) -> dict[str, Any]:
    """Metrics of the scores of any model, as the document of `metrics.json`; see `evaluate_scores_steps`."""
    return drain(evaluate_scores_steps(data, thresholds, out, **columns))


def evaluate_scores_steps(
    data: Names,
    thresholds: str | Path | None = None,
    out: str | Path | None = None,
    *,
    by: str | None = None,
    bootstrap: int = 0,
    exact: bool = False,
    **columns: Any,
) -> Generator[Progress, None, dict[str, Any]]:
    """Metrics of the scores of any model, yielding progress; returns the document of `metrics.json`.

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
        columns: which columns are what; see `opened`.

    Raises:
        ConfigError, DataError: an argument or the data is not what it has to be; nothing is written.
    """
    options = EvaluateOptions(by, bootstrap, exact)
    check_document(out, "log_loss")
    files = opened(data, **columns)
    check_column(files.plan, by)
    decided = _thresholds(files, thresholds)
    cuts = torch.from_numpy(decided.cuts)
    half = scores_of(cuts) if files.kind == LOGIT else cuts

    def decide(scores: Tensor) -> Tensor:
        decisions = at_least(scores, half)
        if decided.per_row is None:
            return decisions
        return decisions & is_top(scores, torch.ones_like(decisions), decided.per_row)

    is_probability, ranks = files.kind == PROBABILITY, files.tells_more()
    limit = float(np.log((1 - LOSS_CLIP) / LOSS_CLIP)) if is_probability else float(np.finfo(np.float32).max)
    latest = [files]

    def passes() -> Iterator[ScoredBatch]:
        latest[0] = opened(data, **columns)
        latest[0].carry, latest[0].ranks = options.by, ranks
        for rows in latest[0].cells(limit):
            scores = rows.scores if is_probability else _on_sides(rows.scores, cuts, half)
            yield ScoredBatch(_row_major(rows.cells), scores.contiguous(), rows.carried)

    ends, within = torch.float64 if ranks else torch.float32, limit if is_probability else np.inf
    judged = Judged(half, decide, list(files.label_names), ends, within)
    evaluation, sliced = yield from evaluation_steps(passes, judged, options, files.plan.rows)
    yield from _notes(latest[0], int(evaluation.rows.rows))
    losses = evaluation.losses
    prevalences = (losses.positives + 0.5) / (losses.weights + 1)
    report = evaluation.report(judged.label_names, prevalences)
    if sliced is not None:
        report |= sliced.report(judged.label_names, prevalences)
    report["gain_baseline"] = "prevalences of these rows"
    for entry, cut in zip(report["labels"].values(), cuts.tolist(), strict=True):
        entry["threshold"] = None if np.isnan(cut) else cut
    if out is not None:
        write_document(out, report, "log_loss")
    return report


def _thresholds(files: Scored, path: str | Path | None) -> FileThresholds:
    """Those of a file, or the probability 0.5."""
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
