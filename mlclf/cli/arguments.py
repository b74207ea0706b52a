"""Options that commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mlclf.jobs.score_files import ScoreColumns

SEVERAL = (
    "--labels", "--features", "--exclude", "--set", "--valid", "--scores", "--label-data", "--label-weights",
    "--unlabelled",
)  # fmt: skip
"""Options that take one or more values."""

FLAGS = ("--resume", "--overwrite", "--debug", "--json", "--exact", "--multilabel", "--no-quotes", "--help")

Data = Annotated[list[str], typer.Argument(metavar="DATA...", help="Parquet files, folders, globs or URIs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Many = list[str] | None
Labels = Annotated[Many, typer.Option(help="Label columns or globs, or one list column of tags.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeepParts = Annotated[bool, typer.Option("--resume", help="Keep the parts that are there.")]
RowGroupBudget = Annotated[
    str | None, typer.Option(metavar="BYTES", help="What row groups are made for, such as 512MiB.")
]

Scores = Annotated[
    Many, typer.Option(help="Score columns or globs (default: 'score_*'), or one column of lists of K scores.")
]
ScoreKind = Annotated[str | None, typer.Option(help="What scores are: probability or logit.")]
ScoreLabels = Annotated[
    Many,
    typer.Option(help="With scores: label columns or globs (default: X for each score_X), or one column of lists."),
]
LabelData = Annotated[Many, typer.Option(help="With scores: where the labels are, joined by --key.")]
Key = Annotated[str | None, typer.Option(help="With scores: column that identifies a row.")]
Weight = Annotated[str | None, typer.Option(help="With scores: column of row weights.")]
LabelWeights = Annotated[
    Many, typer.Option(help="With scores: weights of row and label, weight_X for label X, such as 'weight_*'.")
]
Group = Annotated[str | None, typer.Option(help="With scores: column that names a cluster of rows.")]
LabelNames = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With lists of scores: names of the labels, one in each line.")
]
MemoryBudget = Annotated[str | None, typer.Option(metavar="BYTES", help="Memory for joined labels (default: 512MiB).")]

OF_SCORES = (
    *("thresholds", "labels", "scores", "score_kind", "label_data", "key", "weight", "label_weights", "group"),
    *("label_names", "memory_budget"),
)
"""Options that go with score files, not with a run."""


def is_run(path: str) -> bool:
    """Whether an argument is a run: a folder with `config.yaml`."""
    from mlclf.outputs.output import settle_before_reading

    settle_before_reading(path)
    return (Path(path) / "config.yaml").is_file()


def refuse_with_run(context: typer.Context) -> None:
    """Refuse options of scores where the first argument is a run.

    Raises:
        ConfigError: one is given.
    """
    from mlclf.errors import ConfigError

    given = [f"--{name.replace('_', '-')}" for name in OF_SCORES if context.params.get(name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: for scores only; a run knows its columns")


def score_columns(context: typer.Context) -> ScoreColumns:
    """The columns of score files, from the options of a command."""
    from mlclf.jobs.score_files import ScoreColumns

    given = {name: value for name in OF_SCORES if name != "thresholds" and (value := context.params.get(name))}
    if "label_names" in given:
        given["label_names"] = _names_in(Path(given["label_names"]))
    return ScoreColumns(**given | {"memory_budget": budget_bytes(given.get("memory_budget"))})


def _names_in(path: Path) -> list[str]:
    """The lines of a file of names.

    Raises:
        ConfigError: it cannot be read, holds no name, or one twice.
    """
    from mlclf.errors import ConfigError
    from mlclf.given_files import read_given, reason_of

    try:
        names = [line for line in read_given(path).decode().splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--label-names: {str(path)!r} must be a text file in UTF-8: {reason_of(error)}") from None
    if not names or len(set(names)) < len(names):
        found = "none" if not names else f"{next(name for name in names if names.count(name) > 1)!r} more than once"
        raise ConfigError(f"--label-names: {str(path)!r} must hold distinct names, one in each line, found {found}")
    return names


def budget_bytes(text: str | None) -> int:
    """Bytes of a memory budget as it is written, such as 512MiB."""
    from mlclf.config.loading import load_run_file

    sets = [] if text is None else [f"runtime.memory_budget={text}"]
    return load_run_file(None, sets).settings.runtime.memory_budget


def fractions_of(text: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        ConfigError: one is no number.
    """
    from mlclf.errors import ConfigError

    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions must be numbers such as 0.8,0.1,0.1, got {text!r}") from None


def types_of(pairs: list[str]) -> dict[str, str]:
    """Column → type of COLUMN=TYPE arguments.

    Raises:
        ConfigError: one has no equals sign.
    """
    from mlclf.errors import ConfigError

    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--type must be COLUMN=TYPE, got {pair!r}")
    return dict(pair.rsplit("=", 1) for pair in pairs)


def confidence_of(text: str) -> float | None:
    """The number of --confidence, None for `none`.

    Raises:
        ConfigError: it is no number.
    """
    from mlclf.errors import ConfigError

    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--confidence must be above 0 and below 1, or 'none' for no claim, got {text!r}") from None


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


def given_values(arguments: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The arguments that were given; a way to hold out rows that is given here replaces the one of the file."""
    given = {name: value for name, value in arguments.items() if value is not None and value != []}
    ways = ("valid", "valid_fraction", "valid_by", "folds")
    if config is not None and any(way in given for way in ways):
        given = dict.fromkeys(ways) | given
    return given
