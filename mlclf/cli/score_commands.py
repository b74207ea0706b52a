"""The commands that work on scores: evaluate and calibrate (of a run too), apply, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlclf.cli.app import app
from mlclf.cli.arguments import (
    Debug,
    Group,
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
    budget_bytes,
    confidence_of,
    is_run,
    names_in,
    refuse_with_run,
)
from mlclf.cli.output import print_diff, print_json, print_metrics, print_text, print_thresholds, shown_job


@app.command()
def evaluate(
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
    """Metrics of labelled data, of a run or of the scores of any model."""
    from mlclf.jobs.run import Run
    from mlclf.jobs.score_files import evaluate_scores_steps

    if is_run(data[0]):
        refuse_with_run(
            thresholds=thresholds, labels=labels, scores=scores, score_kind=score_kind, label_data=label_data,
            key=key, weight=weight, label_weights=label_weights, label_names=label_names, memory_budget=memory_budget,
        )  # fmt: skip
        steps = Run.open(data[0]).evaluate_steps(data[1:], out, by=by, bootstrap=bootstrap, exact=exact)
    else:
        steps = evaluate_scores_steps(
            data,
            thresholds,
            out,
            by=by,
            bootstrap=bootstrap,
            exact=exact,
            scores=scores or "score_*",
            score_kind=score_kind,
            labels=labels,
            label_data=label_data or (),
            key=key,
            weight=weight,
            label_weights=label_weights or (),
            label_names=names_in(label_names),
            memory_budget=budget_bytes(memory_budget),
        )
    report = shown_job(steps)
    print_metrics(report, "these rows")
    if out is not None:
        print_text(f"metrics: {out}")


@app.command()
def calibrate(
    data: Annotated[list[str], typer.Argument(metavar="RUN DATA... | SCORES...", help="A run and data, or scores.")],
    objective: Annotated[str, typer.Option(help="What thresholds are tuned for, such as f1 or recall:0.9.")] = "f1",
    confidence: Annotated[str, typer.Option(help="What constraints hold with, or none for no claim.")] = "0.95",
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
    from mlclf.jobs.run import Run
    from mlclf.jobs.score_files import calibrate_scores_steps

    level = confidence_of(confidence)
    if is_run(data[0]):
        refuse_with_run(
            labels=labels, scores=scores, score_kind=score_kind, label_data=label_data, key=key, weight=weight,
            label_weights=label_weights, group=group, label_names=label_names, memory_budget=memory_budget,
        )  # fmt: skip
        run = Run.open(data[0])
        steps = run.calibrate_steps(
            data[1:],
            objective,
            out,
            confidence=level,
            across_labels=across_labels,
            prior=prior,
            unlabelled=unlabelled or (),
            prevalence=prevalence,
        )
    else:
        steps = calibrate_scores_steps(
            data,
            objective,
            out,
            confidence=level,
            across_labels=across_labels,
            prior=prior,
            unlabelled=unlabelled or (),
            prevalence=prevalence,
            scores=scores or "score_*",
            score_kind=score_kind,
            labels=labels,
            label_data=label_data or (),
            key=key,
            weight=weight,
            label_weights=label_weights or (),
            group=group,
            label_names=names_in(label_names),
            memory_budget=budget_bytes(memory_budget),
        )
    print_thresholds(shown_job(steps))
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
    resume: Annotated[bool, typer.Option("--resume", help="Keep the parts that are there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the decisions in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Decisions of every row by thresholds, as Parquet."""
    from mlclf.errors import ConfigError
    from mlclf.jobs.apply_thresholds import apply_thresholds_steps

    if len(data) < 2:
        raise ConfigError("apply needs scores and a file of thresholds: mlclf apply SCORES... THRESHOLDS --out DIR")
    steps = apply_thresholds_steps(
        data[:-1],
        data[-1],
        out,
        scores=scores or "score_*",
        score_kind=score_kind,
        key=key,
        resume=resume,
        overwrite=overwrite,
    )
    print_text(f"decisions: {shown_job(steps)}")


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Thresholds of before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Thresholds of after.")],
    data: Annotated[list[str], typer.Argument(metavar="SCORES...", help="Parquet files with scores.")],
    scores: Scores = None,
    score_kind: ScoreKind = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """How many decisions change from one file of thresholds to another."""
    from mlclf.jobs.apply_thresholds import diff_thresholds_steps

    document = shown_job(diff_thresholds_steps(a, b, data, scores=scores or "score_*", score_kind=score_kind))
    if as_json:
        print_json(document)
    else:
        print_diff(document)
