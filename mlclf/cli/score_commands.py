"""The commands that work on scores: evaluate and calibrate (of a run too), apply, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlclf.cli.app import app
from mlclf.cli.arguments import (
    AsJson,
    Debug,
    Group,
    KeepParts,
    Key,
    LabelData,
    LabelNames,
    LabelWeights,
    Many,
    MemoryBudget,
    ScoreKind,
    ScoreLabels,
    Scores,
    Weight,
    confidence_of,
    is_run,
    refuse_with_run,
    score_columns,
)
from mlclf.cli.display import shown_job
from mlclf.cli.output import print_json, print_lines, print_text
from mlclf.cli.tables import diff_lines, metrics_lines, thresholds_lines


@app.command()
def evaluate(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="RUN DATA... | SCORES...", help="A run and data, or scores.")],
    out: Annotated[Path | None, typer.Option(help="File for the metrics as JSON.")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="With scores: file of calibrate (default: 0.5).")] = None,
    labels: ScoreLabels = None,
    scores: Scores = None,
    score_kind: ScoreKind = None,
    label_data: LabelData = None,
    key: Key = None,
    weight: Weight = None,
    label_weights: LabelWeights = None,
    label_names: LabelNames = None,
    memory_budget: MemoryBudget = None,
    by: Annotated[str | None, typer.Option(help="Column whose values get metrics of their own.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Replicates for intervals, such as 200; 0 for none.")] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="AUROC and average precision from sorted scores.")] = False,
    debug: Debug = False,
) -> None:
    """Measure a run, or the scores of any model, on labelled data."""
    from mlclf.jobs.evaluate import EvaluateOptions
    from mlclf.jobs.run import Run
    from mlclf.jobs.score_files import evaluate_scores_steps

    asked = EvaluateOptions(by, bootstrap, exact)
    if is_run(data[0]):
        refuse_with_run(context)
        steps = Run.open(data[0]).evaluate_steps(data[1:], out, asked)
    else:
        steps = evaluate_scores_steps(data, thresholds, out, asked, score_columns(context))
    report = shown_job(steps)
    print_lines(metrics_lines(report, "these rows"))
    if out is not None:
        print_text(f"metrics: {out}")


@app.command()
def calibrate(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="RUN DATA... | SCORES...", help="A run and data, or scores.")],
    objective: Annotated[str, typer.Option(help="What thresholds are tuned for, such as f1 or recall:0.9.")] = "f1",
    confidence: Annotated[str, typer.Option(help="Confidence of constraints, or none for no claim.")] = "0.95",
    across_labels: Annotated[str | None, typer.Option(help="fdr: constraints hold for a set of labels.")] = None,
    prior: Annotated[Path | None, typer.Option(help="Earlier thresholds, toward which these are shrunk.")] = None,
    unlabelled: Annotated[
        Many, typer.Option(help="Rows without labels that thresholds are for; prevalences are estimated from them.")
    ] = None,
    prevalence: Annotated[Path | None, typer.Option(help="JSON {label: share} that thresholds are for.")] = None,
    labels: ScoreLabels = None,
    scores: Scores = None,
    score_kind: ScoreKind = None,
    label_data: LabelData = None,
    key: Key = None,
    weight: Weight = None,
    label_weights: LabelWeights = None,
    group: Group = None,
    label_names: LabelNames = None,
    memory_budget: MemoryBudget = None,
    out: Annotated[Path | None, typer.Option(help="File for the thresholds (default: the run's own).")] = None,
    debug: Debug = False,
) -> None:
    """Tune the threshold of every label, of a run or of the scores of any model."""
    from mlclf.jobs.calibrate import CalibrateOptions
    from mlclf.jobs.run import Run
    from mlclf.jobs.score_files import calibrate_scores_steps

    level = confidence_of(confidence)
    asked = CalibrateOptions(objective, level, across_labels, prior, unlabelled or (), prevalence)
    if is_run(data[0]):
        refuse_with_run(context)
        steps = Run.open(data[0]).calibrate_steps(data[1:], out, asked)
    else:
        steps = calibrate_scores_steps(data, out, asked, score_columns(context))
    print_lines(thresholds_lines(shown_job(steps)))
    print_text(f"thresholds: {out if out is not None else Path(data[0]) / 'thresholds.json'}")


@app.command()
def apply(
    data: Annotated[
        list[str], typer.Argument(metavar="SCORES... THRESHOLDS", help="Scores, and the file of calibrate last.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the decisions.")],
    scores: Scores = None,
    score_kind: ScoreKind = None,
    key: Annotated[str | None, typer.Option(help="Column to carry along (default: all but scores and labels).")] = None,
    resume: KeepParts = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the decisions in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Decide every row by a file of thresholds; writes Parquet."""
    from mlclf.errors import ConfigError
    from mlclf.jobs.apply_thresholds import apply_thresholds_steps

    if len(data) < 2:
        raise ConfigError("apply needs scores and a file of thresholds: mlclf apply SCORES... THRESHOLDS --out DIR")
    steps = apply_thresholds_steps(data[:-1], data[-1], out, scores or "score_*", score_kind, key, resume, overwrite)
    print_text(f"decisions: {shown_job(steps)}")


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Thresholds of before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Thresholds of after.")],
    data: Annotated[list[str], typer.Argument(metavar="SCORES...", help="Parquet files with scores.")],
    scores: Scores = None,
    score_kind: ScoreKind = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Count the decisions that change from one file of thresholds to another."""
    from mlclf.jobs.apply_thresholds import diff_thresholds_steps

    document = shown_job(diff_thresholds_steps(a, b, data, scores or "score_*", score_kind))
    if as_json:
        print_json(document)
    else:
        print_lines(diff_lines(document))
