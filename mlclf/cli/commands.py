"""The commands that work on data: fit, predict, inspect, convert, split, shuffle, demo."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mlclf.cli.app import app
from mlclf.cli.arguments import (
    AsJson,
    Data,
    Debug,
    KeepParts,
    Labels,
    Many,
    RowGroupBudget,
    budget_bytes,
    fractions_of,
    given_values,
    is_run,
    types_of,
)
from mlclf.cli.display import shown_job
from mlclf.cli.output import print_json, print_lines, print_text
from mlclf.cli.tables import metrics_lines


@app.command()
def fit(
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="Training data.")] = None,
    labels: Labels = None,
    out: Annotated[str | None, typer.Option(help="Run folder to write.")] = None,
    valid: Annotated[Many, typer.Option(help="Held-out data.")] = None,
    valid_fraction: Annotated[float | None, typer.Option(help="Share of the rows to hold out; 0 for none.")] = None,
    valid_by: Annotated[str | None, typer.Option(help="Hold out by time:COLUMN or group:COLUMN.")] = None,
    folds: Annotated[int | None, typer.Option(help="Folds, each held out once.")] = None,
    features: Annotated[Many, typer.Option(help="Input columns or globs (default: all others).")] = None,
    exclude: Annotated[Many, typer.Option(help="Columns or globs that are no inputs.")] = None,
    weight: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    key: Annotated[str | None, typer.Option(help="Column that identifies a row.")] = None,
    group: Annotated[str | None, typer.Option(help="Column that names a cluster of rows.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of arguments and settings.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    sets: Annotated[Many, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Train, calibrate and tune thresholds: data in, run folder out."""
    from mlclf.config.loading import load_run_file

    given = {
        "train": data,
        "labels": labels,
        "valid": valid,
        "valid_fraction": valid_fraction,
        "valid_by": valid_by,
        "folds": folds,
        "columns": features,
        "exclude": exclude,
        "weight": weight,
        "key": key,
        "group": group,
        "out": out,
        "runtime.device": device,
    }
    run_file = load_run_file(config, sets or [], given=given_values(given, config))
    from mlclf.jobs.fit import fit_steps  # loads torch, which refusing a setting does not need

    run = shown_job(fit_steps(run_file, resume=resume, overwrite=overwrite))
    print_lines(metrics_lines(run.metrics, "held-out rows"))
    print_text(f"run: {run.path}")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the scores.")],
    top: Annotated[int | None, typer.Option(help="Only the best N labels of each row, as lists.")] = None,
    resume: KeepParts = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the scores in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Score and decide every row; writes Parquet."""
    from mlclf.jobs.run import Run

    folder = shown_job(Run.open(run).predict_steps(data, out, top, resume=resume, overwrite=overwrite))
    print_text(f"scores: {folder}")


@app.command()
def inspect(
    data: Annotated[list[str], typer.Argument(metavar="DATA... | RUN", help="Data, or a run folder.")],
    labels: Labels = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Describe data: files, columns and their roles, labels, memory of a fit; or a run: what made it, how it does."""
    if is_run(data[0]):
        _inspect_run(data, labels or (), as_json)
        return
    from mlclf.data.inspection.report import inspect as inspect_data
    from mlclf.data.inspection.summary import summary_lines

    report = inspect_data(data, labels or ())
    if as_json:
        print_json(report)
    else:
        print_lines(summary_lines(report))


def _inspect_run(data: list[str], labels: Sequence[str], as_json: bool) -> None:
    from mlclf.errors import ConfigError
    from mlclf.jobs.run_summary import inspect_run, run_lines

    if len(data) > 1:
        raise ConfigError(f"inspect takes data, or one run: {data[0]} is a run, and {data[1]} is given too")
    report = inspect_run(data[0], labels)
    if as_json:
        print_json(report)
        return
    print_lines(run_lines(report))
    print_lines(metrics_lines(report["metrics"], "held-out rows"))


@app.command()
def convert(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files of one format; .gz is unpacked.")],
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files.")],
    format_: Annotated[
        str | None,
        typer.Option("--format", help="libsvm, xmc, arff, csv, tsv, arrow or parquet (default: by the names)."),
    ] = None,
    labels_xml: Annotated[Path | None, typer.Option(metavar="FILE", help="ARFF: Mulan's XML of the labels.")] = None,
    first_index: Annotated[
        int | None, typer.Option(help="Sparse text: the least index (default: 1 in libsvm, 0 in xmc).")
    ] = None,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="libsvm: rows have any number of labels.")] = False,
    types: Annotated[Many, typer.Option("--type", metavar="COL=TYPE", help="CSV: type of a column or glob.")] = None,
    names: Annotated[
        str | None, typer.Option(metavar="COL,COL,...", help="CSV without a header: the names of its columns.")
    ] = None,
    no_quotes: Annotated[bool, typer.Option("--no-quotes", help="CSV: double quotes have no special meaning.")] = False,
    delimiter: Annotated[
        str | None, typer.Option(help="CSV: between values, such as ';', tab or pipe (default: found).")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="CSV: such as cp1252 or utf-16 (default: UTF-8, or as its first bytes say).")
    ] = None,
    decimal: Annotated[str | None, typer.Option(help="CSV: '.' or ',' before decimals (default: found).")] = None,
    escape: Annotated[str | None, typer.Option(help="CSV: such as '\\', before a quote inside quotes.")] = None,
    null: Annotated[Many, typer.Option(metavar="WORD", help="CSV: a word for missing values, in all columns.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what convert wrote to --out.")] = False,
    memory_budget: RowGroupBudget = None,
    debug: Debug = False,
) -> None:
    """Convert files to Parquet: libsvm, XMC text, ARFF, CSV, TSV, Arrow, and Parquet as pandas writes it."""
    from mlclf.data.convert.conversion import convert_steps

    columns = None if names is None else names.split(",")
    done = shown_job(
        convert_steps(
            files, out, format=format_, labels_xml=labels_xml, first_index=first_index, multilabel=multilabel,
            types=types_of(types or []), names=columns, quotes=not no_quotes, delimiter=delimiter, encoding=encoding,
            decimal=decimal, escape=escape, null_words=null or (), overwrite=overwrite,
            memory_budget=budget_bytes(memory_budget),
        )
    )  # fmt: skip
    print_text(f"{done.rows:,} rows in {done.files:,} file(s), {done.row_groups:,} row group(s): {done.folder}")


@app.command()
def split(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the folders of the parts.")],
    fractions: Annotated[str, typer.Option(help="Share of each part.")] = "0.8,0.1,0.1",
    by: Annotated[str, typer.Option(help="hash, key:COL, time:COL, group:COL or stratified.")] = "hash",
    labels: Annotated[Many, typer.Option(help="Stratified: label columns or globs, or one list column.")] = None,
    names: Annotated[str | None, typer.Option(metavar="A,B,...", help="Names of the parts.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the parts.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what split wrote to --out.")] = False,
    memory_budget: RowGroupBudget = None,
    debug: Debug = False,
) -> None:
    """Write the rows to folders for training, validation and testing, each row to exactly one."""
    from mlclf.data.convert.splitting import split_steps

    done = shown_job(
        split_steps(
            data, out, fractions_of(fractions), by, labels=labels or (),
            names=None if names is None else names.split(","), seed=seed, overwrite=overwrite,
            memory_budget=budget_bytes(memory_budget),
        )
    )  # fmt: skip
    for name, rows in done.rows.items():
        print_text(f"{name}: {rows:,} rows: {done.folder / name}")


@app.command()
def shuffle(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the rows in random order.")],
    seed: Annotated[int, typer.Option(help="Decides the order.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what shuffle wrote to --out.")] = False,
    memory_budget: Annotated[
        str | None, typer.Option(metavar="BYTES", help="What the rows in memory may occupy, such as 512MiB.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the rows in random order, in row groups that are read fast and have checksums."""
    from mlclf.data.convert.shuffling import shuffle_steps

    budget = budget_bytes(memory_budget)
    done = shown_job(shuffle_steps(data, out, seed=seed, overwrite=overwrite, memory_budget=budget))
    print_text(f"{done.rows:,} rows in {done.files:,} file(s), {done.row_groups:,} row group(s): {done.folder}")
    print_text(f"fit on them: mlclf fit {shlex.quote(str(done.folder))} --labels ... --out RUN")


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the data, the run and the scores.")] = None,
    debug: Debug = False,
) -> None:
    """Make data from a known model, fit it, and compare AUROC with the best that any model could reach."""
    from mlclf.demo.job import demo_steps, demo_table, next_steps

    result = shown_job(demo_steps(out or Path("mlclf-demo")))
    print_lines("  ".join(f"{cell:>14}" for cell in row) for row in demo_table(result))
    print_lines(next_steps(result))
