"""Jobs on the scores of any model, in Parquet."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from mlclf.data.shards import make_plan
from mlclf.decisions.histograms import LabelHistogram
from mlclf.decisions.score_files import between, open_score_files
from mlclf.decisions.scores import scores_of
from mlclf.decisions.thresholds import parse_objective, tune_thresholds
from mlclf.errors import ConfigError, DataError
from mlclf.files import write_json
from mlclf.fitting import Progress
from mlclf.jobs.steps import Names, names_of


def calibrate_scores_steps(
    data: Names,
    objective: str,
    out: str | Path | None,
    *,
    scores: Names = "score_*",
    score_kind: str | None = None,
    labels: Names = "label_*",
    label_data: Names = (),
    key: str | None = None,
    weight: str | None = None,
) -> Generator[Progress, None, dict[str, Any]]:
    """Tune thresholds on the scores of any model, yielding progress; returns the document of `thresholds.json`.

    Args:
        data: Parquet files with score columns.
        out: file for the document.
        scores, labels: columns or globs; `score_X` belongs to label X.
        score_kind: probability or logit; None where the files say it.
        label_data, key: where the labels are, if not beside the scores, and the column that joins them.
    """
    if out is None:
        raise ConfigError("calibrating score files needs --out, the file for the thresholds")
    wanted = parse_objective(objective)
    plan = make_plan(names_of(data))
    label_plan = make_plan(names_of(label_data)) if label_data else None
    files = open_score_files(
        plan, names_of(scores), names_of(labels), score_kind, label_plan=label_plan, key=key, weight=weight
    )
    histogram, done = LabelHistogram(len(files.label_names)), 0
    for piece in files.pieces():
        histogram.update(piece.logits, piece.labels, piece.mask, piece.weights)
        done += len(piece.logits)
        yield Progress("calibrate", done, plan.rows)
    if files.unmatched:
        yield Progress("calibrate", note=f"{files.unmatched:,} rows of scores have no labels by {key!r}; left out")
    if not done:
        raise DataError("no row has both scores and labels; check --key and the files")
    thresholds = between(tune_thresholds(histogram, wanted, scores_of), files.kind)
    document = thresholds.to_json(list(files.label_names))
    write_json(Path(out), document)
    return document
