"""The command line: reads argv, prints; everything else is in the library."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")

SEVERAL = ("--labels", "--features", "--exclude", "--set", "--valid", "--scores", "--label-data")
"""Options that take one or more values."""

FLAGS = ("--resume", "--overwrite", "--debug", "--json", "--help")

app = typer.Typer(
    name="mlclf",
    help="Binary and multi-label classification on Parquet data larger than memory.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[list[str], typer.Argument(metavar="DATA...", help="Parquet files, folders, globs or URIs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Many = list[str] | None


@app.command()
def fit(
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="Training data.")] = None,
    labels: Annotated[Many, typer.Option(help="Label columns or globs, or one list column of tags.")] = None,
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
    from mlclf.config import load_run_file
    from mlclf.jobs import fit_steps

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
    run_file = load_run_file(config, [*_as_sets(given, config), *(sets or [])])
    run = _shown(fit_steps(run_file, resume=resume, overwrite=overwrite))
    _print_metrics(run.metrics, "held-out rows")
    _print(f"run: {run.path}")


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="File for the metrics as JSON.")] = None,
    debug: Debug = False,
) -> None:
    """Metrics of labelled data."""
    from mlclf.jobs import Run

    report = _shown(Run.open(run).evaluate_steps(data, out))
    _print_metrics(report, "these rows")
    if out is not None:
        _print(f"metrics: {out}")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the scores.")],
    top: Annotated[int | None, typer.Option(help="Only the best N labels of each row, as lists.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the parts that are there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the scores in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Scores and decisions of every row, as Parquet."""
    from mlclf.jobs import Run

    folder = _shown(Run.open(run).predict_steps(data, out, top, resume=resume, overwrite=overwrite))
    _print(f"scores: {folder}")


@app.command()
def calibrate(
    data: Annotated[list[str], typer.Argument(metavar="RUN DATA... | SCORES...", help="A run and data, or scores.")],
    objective: Annotated[str, typer.Option(help="What thresholds are tuned for, such as f1 or recall:0.9.")] = "f1",
    labels: Annotated[Many, typer.Option(help="With scores: label columns.")] = None,
    scores: Annotated[Many, typer.Option(help="With scores: score columns, such as 'score_*'.")] = None,
    score_kind: Annotated[str | None, typer.Option(help="With scores: probability or logit.")] = None,
    label_data: Annotated[Many, typer.Option(help="With scores: where the labels are, joined by --key.")] = None,
    key: Annotated[str | None, typer.Option(help="With scores: column that identifies a row.")] = None,
    weight: Annotated[str | None, typer.Option(help="With scores: column of row weights.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the thresholds (default: the run's own).")] = None,
    debug: Debug = False,
) -> None:
    """Tune the threshold of every label, of a run or of the scores of any model."""
    from mlclf.jobs import Run, calibrate_scores_steps

    if (Path(data[0]) / "config.yaml").is_file():
        document = _shown(Run.open(data[0]).calibrate_steps(data[1:], objective, out))
    else:
        steps = calibrate_scores_steps(
            data,
            objective,
            out,
            scores=scores or ["score_*"],
            score_kind=score_kind,
            labels=labels or ["label_*"],
            label_data=label_data or (),
            key=key,
            weight=weight,
        )
        document = _shown(steps)
    _print_thresholds(document)
    _print(f"thresholds: {out if out is not None else Path(data[0]) / 'thresholds.json'}")


@app.command()
def inspect(
    data: Data,
    labels: Annotated[Many, typer.Option(help="Label columns or globs, or one list column of tags.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """What is in the data, and what would be made of it."""
    import json

    from mlclf.data.inspection import inspect as inspect_data
    from mlclf.data.inspection import summary_lines

    report = inspect_data(data, labels or ())
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        for line in summary_lines(report):
            _print(line)


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
    """Write the rows anew in random order, in row groups that are read fast and have checksums."""
    from mlclf.config import load_run_file
    from mlclf.data.convert import shuffle_steps

    sets = [] if memory_budget is None else [f"runtime.memory_budget={memory_budget}"]
    budget = load_run_file(None, sets).settings.runtime.memory_budget
    done = _shown(shuffle_steps(data, out, seed=seed, overwrite=overwrite, memory_budget=budget))
    _print(f"{done.rows:,} rows in {done.files:,} file(s), {done.row_groups:,} row group(s): {done.folder}")
    _print(f"fit on them: mlclf fit {shlex.quote(str(done.folder))} --labels ... --out RUN")


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the data, the run and the scores.")] = None,
    debug: Debug = False,
) -> None:
    """Make data with a known answer, fit, evaluate and predict it, and compare with the best possible."""
    from mlclf.demo import demo_steps, demo_table, next_steps

    result = _shown(demo_steps(out or Path("mlclf-demo")))
    for row in demo_table(result):
        _print("  ".join(f"{cell:>14}" for cell in row))
    for line in next_steps(result):
        _print(line)


def main() -> None:
    """Run the command line and exit with the code of the contract."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not burn the cores of others
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = app(spread_arguments(sys.argv[1:]), standalone_mode=False)
        if code == 130:  # typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _complain("stopped by SIGINT")
        sys.exit(130)
    except _Terminated:
        _complain("stopped by SIGTERM")
        sys.exit(143)
    except SystemExit:
        raise
    except BaseException as error:
        sys.exit(_explain(error))


def spread_arguments(arguments: list[str]) -> list[str]:
    """Repeat options that take several values: `DATA --labels a b` becomes `DATA --labels a --labels b`.

    Where no DATA stands before the option it takes one value only, so that `--labels a DATA` keeps its DATA.
    """
    result: list[str] = []
    option, has_data, value_is_next = "", False, False
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            option = name if name in SEVERAL and not equals else ""
            value_is_next = not equals and name not in FLAGS
        elif option and not value_is_next and has_data:
            result.append(option)
        elif not value_is_next and position > 0:
            has_data, option = True, ""
        else:
            value_is_next = False
        result.append(argument)
    return result


class _Terminated(BaseException):
    """SIGTERM arrived: unwinds the stack so that temporary files are removed."""


def _on_sigterm(signum: int, frame: object) -> None:
    raise _Terminated


def _explain(error: BaseException) -> int:
    """Print one readable block for an error, and return the exit code."""
    from mlclf.errors import MlclfError

    if "--debug" in sys.argv and not isinstance(error, typer.Exit):
        traceback.print_exception(error)
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        _complain("stopped by SIGINT")
        return 130
    if hasattr(error, "format_message"):  # wrong usage, by typer's own classes, which it does not export
        if not sys.argv[1:]:
            print(error.format_message(), file=sys.stderr)  # the help
            return 2
        _complain(f"{error.format_message()}\nsee 'mlclf --help' and 'mlclf COMMAND --help'")
        return 2
    if isinstance(error, MlclfError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    _complain(f"unexpected {type(error).__name__}: {error}\nthis is a defect of mlclf; --debug shows where it happened")
    return 1


def _as_sets(given: dict[str, Any], config: Path | None) -> list[str]:
    """The arguments that were given, in the form of --set; a split given here replaces the one of the file."""
    import json

    sets = []
    ways = ("valid", "valid_fraction", "valid_by", "folds")
    if config is not None and any(given[way] is not None for way in ways):
        sets += [f"{way}=" for way in ways if given[way] is None]
    for name, value in given.items():
        if value is not None and value != []:
            sets.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    return sets


def safe_text(text: str) -> str:
    """Text with control characters (line breaks apart) escaped, so that data cannot steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _print(text: str) -> None:
    print(safe_text(text))


def _complain(text: str) -> None:
    lines = safe_text(text).splitlines() or [""]
    print("\n".join(["error: " + lines[0], *("  " + line for line in lines[1:])]), file=sys.stderr, flush=True)


def _shown(steps: Generator[Any, None, T]) -> T:
    """Run a job and show its progress on stderr: a live bar on a terminal, plain lines elsewhere."""
    from mlclf.progress import shown

    return shown(steps, safe_text)


def _print_metrics(report: dict[str, Any] | None, what: str) -> None:
    if report is None:
        _print("no rows were held out: no metrics; thresholds are 0.5")
        return
    from mlclf.progress import metrics_table

    for line in metrics_table(report, what):
        _print(line)


def _print_thresholds(document: dict[str, Any]) -> None:
    from mlclf.progress import thresholds_table

    for line in thresholds_table(document):
        _print(line)
