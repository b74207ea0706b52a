"""The loader beside its peers: rows a second of ours ÷ rows a second of each, training included.

    python benchmarks/loader.py [--rows 2000000] [--repeats 3] [--folder DIR] [--only FIGURE,...] [--fused]

Makes its data under DIR (of `generated.py`; what is there already is used again). Every contestant of `peers.py` runs
in a process of its own, one after the other, as many rounds as there are repeats; a ratio is the median of the ratios
of the rounds. Slow peers are given fewer rows: what counts is rows a second. Exits 1 when a goal is missed or a peer
cannot be run; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from checks import Check, concluded

HERE = Path(__file__).parent
SLABS_BATCH_ROWS = 512
"""Rows of a batch for the mixing figure. The ratio grows with them: means over 64 sorted slabs scatter alike in batches
of any size, those of independent rows do not."""

MIXING_BUDGET = 512 << 20
"""Holds the 64 slabs that a pool has at most: they have 16,384 rows of 8 columns."""


@dataclass(frozen=True)
class Run:
    """A contestant and what it is given.

    Attributes:
        name: of the contestant in `peers.py`.
        data: the set, by name in DATA.
        rows: the most rows that it processes; None for all.
        options: further options of `peers.py`.
        cached: whether it has a cache folder, empty at the start.
    """

    name: str
    data: str
    rows: int | None = None
    options: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True)
class Figure:
    """A line of the table: ours ÷ the fastest of the peers.

    Attributes:
        key: its name for --only.
        ours, peers: keys of RUNS.
        epoch: which epoch of ours, counted from 0.
        least: the goal, or None where the figure is shown for information.
    """

    key: str
    text: str
    ours: str
    peers: tuple[str, ...]
    least: float | None
    epoch: int = 0


DATA: dict[str, Callable[[int], list[str]]] = {
    "plain": lambda rows: ["tabular", "--rows", str(rows)],
    "checksums": lambda rows: ["tabular", "--rows", str(rows), "--checksums"],
    "mixed": lambda rows: ["mixed", "--rows", str(rows)],
    "tagged": lambda rows: ["tagged", "--rows", str(rows // 10)],
    "sorted": lambda rows: [
        *("tabular", "--rows", str(2 * rows), "--sorted-by-label"),
        *("--columns", "8", "--labels", "1", "--group-rows", "16384"),
    ],
}
"""Data set → arguments of `generated.py`, but the folder."""

RUNS: dict[str, Run] = {
    "first": Run("mlclf", "plain"),
    "first-checksums": Run("mlclf", "checksums"),
    "cached": Run("mlclf", "plain", options=("--epochs", "3"), cached=True),
    "scan": Run("pyarrow", "plain"),
    "scan-checksums": Run("pyarrow", "checksums"),
    "handwritten-0": Run("handwritten-0", "plain", 600_000),
    "handwritten-2": Run("handwritten-2", "plain", 600_000),
    "torch-dataloader-utils-0": Run("torch-dataloader-utils-0", "plain", 500_000),
    "torch-dataloader-utils-2": Run("torch-dataloader-utils-2", "plain", 500_000),
    "hf-datasets": Run("hf-datasets", "plain", 60_000),
    "mixed": Run("mlclf", "mixed"),
    "handwritten-mixed-0": Run("handwritten-mixed-0", "mixed", 400_000),
    "handwritten-mixed-2": Run("handwritten-mixed-2", "mixed", 400_000),
    "arrow-mixed-0": Run("arrow-mixed-0", "mixed", 1_000_000),
    "arrow-mixed-2": Run("arrow-mixed-2", "mixed", 1_000_000),
    "row-by-row-mixed-0": Run("row-by-row-mixed-0", "mixed", 100_000),
    "row-by-row-mixed-2": Run("row-by-row-mixed-2", "mixed", 100_000),
    "tagged-load": Run("mlclf", "tagged", options=("--no-step",)),
    "tagged": Run("mlclf", "tagged", 100_000),
    "row-by-row-load-0": Run("row-by-row-0", "tagged", 100_000, ("--no-step",)),
    "row-by-row-load-2": Run("row-by-row-2", "tagged", 100_000, ("--no-step",)),
    "row-by-row-0": Run("row-by-row-0", "tagged", 100_000),
    "row-by-row-2": Run("row-by-row-2", "tagged", 100_000),
    "mixing": Run(
        "mlclf-mixing",
        "sorted",
        options=("--batch-rows", str(SLABS_BATCH_ROWS), "--budget", str(MIXING_BUDGET)),
    ),
}

FIGURES = (
    Figure("scan", "first epoch ÷ raw pyarrow scan", "first", ("scan",), 0.5),
    Figure("checksums", "… of files with page checksums", "first-checksums", ("scan-checksums",), 0.4),
    Figure("cached", "second epoch, cached ÷ raw pyarrow scan", "cached", ("scan",), 0.8, epoch=1),
    Figure("cached", "third epoch, cached ÷ raw pyarrow scan", "cached", ("scan",), 1.0, epoch=2),
    Figure("handwritten", "first epoch ÷ hand-written", "first", ("handwritten-0", "handwritten-2"), 20),
    Figure(
        "torch-dataloader-utils",
        "first epoch ÷ torch-dataloader-utils",
        "first",
        ("torch-dataloader-utils-0", "torch-dataloader-utils-2"),
        8,
    ),
    Figure("hf-datasets", "first epoch ÷ HF datasets, shuffled", "first", ("hf-datasets",), 200),
    Figure("mixed", "mixed data ÷ hand-written", "mixed", ("handwritten-mixed-0", "handwritten-mixed-2"), 20),
    Figure("mixed", "mixed data ÷ hand-written with Arrow", "mixed", ("arrow-mixed-0", "arrow-mixed-2"), None),
    Figure(
        "mixed",
        "mixed data ÷ hand-written, row by row",
        "mixed",
        ("row-by-row-mixed-0", "row-by-row-mixed-2"),
        None,
    ),
    Figure(
        "tagged",
        "1,000 tags ÷ row by row, loader alone",
        "tagged-load",
        ("row-by-row-load-0", "row-by-row-load-2"),
        5,
    ),
    Figure("tagged", "1,000 tags ÷ row by row, with the step", "tagged", ("row-by-row-0", "row-by-row-2"), 1.5),
)

MOST_DEVIATION = 3.2


@dataclass(frozen=True)
class Measured:
    """What a process printed, or why it printed nothing.

    Attributes:
        rows: rows of each epoch.
        rates: rows a second of each epoch.
        seconds: seconds of each epoch.
        figures: whatever else it measured.
    """

    rows: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    setup_seconds: float = 0.0
    peak_bytes: int = 0
    figures: dict[str, float] | None = None
    error: str = ""


def main() -> int:
    arguments = parse_arguments()
    figures = [figure for figure in FIGURES if not arguments.only or figure.key in arguments.only]
    names = list(dict.fromkeys(name for figure in figures for name in (figure.ours, *figure.peers)))
    if not arguments.only or "mixing" in arguments.only:
        names.append("mixing")
    with tempfile.TemporaryDirectory(prefix="loader-", dir=arguments.folder) as temporary:
        folder = arguments.folder or Path(temporary)
        folders = {
            data: made(data, folder, arguments.rows) for data in dict.fromkeys(RUNS[name].data for name in names)
        }
        rounds = [
            measured_round(names, folders, Path(temporary), arguments, number) for number in range(arguments.repeats)
        ]
    checks = print_table(figures, rounds)
    if "mixing" in names:
        checks.append(mixing_check(rounds))
    print()
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    keys = [*dict.fromkeys(figure.key for figure in FIGURES), "mixing"]
    parser = argparse.ArgumentParser(description="The loader beside its peers, in ratios of rows a second.")
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of tabular and mixed data")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are printed")
    parser.add_argument("--folder", type=Path, help="where the data is made and kept (default: a temporary folder)")
    parser.add_argument("--only", default="", help=f"figures, with commas between them, of {', '.join(keys)}")
    parser.add_argument("--fused", action="store_true", help="train ours by mlclf's fused layer and loss")
    arguments = parser.parse_args()
    arguments.only = names_in(arguments.only, "figure", keys, parser)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def names_in(text: str, kind: str, known: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The names in an option's text, with commas between them; ends the process where there is no such one."""
    names = [name for name in text.split(",") if name]
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def made(data: str, folder: Path, rows: int) -> Path:
    """The data set, made in a process of its own where it is not there yet, and read once to have it in memory."""
    kind, *options = DATA[data](rows)
    target = folder / f"{data}-{rows_made(data, rows)}"
    generate(kind, target, options)
    size = read_once(target)
    print(f"{data}: {size / 2**20:,.0f} MiB", flush=True)
    return target


def rows_made(data: str, rows: int) -> int:
    """Rows of a data set for --rows."""
    _, option, value, *_ = DATA[data](rows)
    if option != "--rows":
        raise ValueError(f"the first option of {data!r} must be --rows, got {option!r}")
    return int(value)


def generate(kind: str, folder: Path, options: Sequence[str]) -> None:
    subprocess.run([sys.executable, str(HERE / "generated.py"), kind, str(folder), *options], check=True)


def read_once(folder: Path) -> int:
    """Read every file, so that no contestant waits for the disk; return the bytes."""
    size = 0
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            while block := opened.read(1 << 24):
                size += len(block)
    return size


def measured_round(
    names: Sequence[str], folders: dict[str, Path], temporary: Path, arguments: argparse.Namespace, number: int
) -> dict[str, Measured]:
    """Every run once, one after the other; those without a limit of rows must see every row of their data."""
    print(f"round {number + 1}", flush=True)
    round_ = {}
    for name in names:
        run, cache = RUNS[name], temporary / "cache"
        options = ["--rows", str(run.rows)] if run.rows else []
        if run.name == "mlclf" and arguments.fused:
            options.append("--fused")
        if run.cached:
            options += ["--cache", str(cache)]
        found = measured(run.name, folders[run.data], [*options, *run.options])
        expected = rows_made(run.data, arguments.rows)
        if not run.rows and set(found.rows) - {expected}:
            found = Measured(error=f"epochs of {found.rows} rows, not {expected}")
        round_[name] = found
        shutil.rmtree(cache, ignore_errors=True)
        print(f"  {name:26}{summary(round_[name])}", flush=True)
    return round_


def measured(name: str, folder: Path, options: Sequence[str]) -> Measured:
    """Run a contestant of `peers.py` in a process of its own.

    This process loads nothing heavy: a child's peak begins with that of the process that starts it.
    """
    command = [sys.executable, str(HERE / "peers.py"), name, str(folder), *options]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        return Measured(error=lines[-1])
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    epochs = found["epochs"]
    return Measured(
        rows=tuple(epoch["rows"] for epoch in epochs),
        rates=tuple(epoch["rows"] / epoch["seconds"] for epoch in epochs),
        seconds=tuple(epoch["seconds"] for epoch in epochs),
        setup_seconds=found["setup_seconds"],
        peak_bytes=found["peak_bytes"],
        figures=found["figures"],
    )


def summary(found: Measured) -> str:
    if found.error:
        return found.error
    rates = ", ".join(f"{rate:,.0f}" for rate in found.rates)
    seconds = ", ".join(f"{seconds:.2f}" for seconds in found.seconds)
    setup = f"; {found.setup_seconds:.2f} s before them" if found.setup_seconds else ""
    return f"{found.rows[0]:>10,} rows in {seconds} s: {rates} rows/s{setup}; peak {found.peak_bytes / 2**20:,.0f} MiB"


def print_table(figures: Sequence[Figure], rounds: Sequence[dict[str, Measured]]) -> list[Check]:
    """Print a line for each figure; return the checks of those with a goal, or that could not be measured."""
    checks = []
    print()
    print(f"{'figure':42}{'ours, rows/s':>14}{'peer, rows/s':>14}{'ratio':>9}{'least':>8}")
    for figure in figures:
        goal = "" if figure.least is None else f"{figure.least:g}"
        errors = dict.fromkeys(
            f"{name}: {found[name].error}"
            for found in rounds
            for name in (figure.ours, *figure.peers)
            if found[name].error
        )
        if errors:
            print(f"{figure.text:42}{'':28}{'none':>9}{goal:>8}")
            checks.append((f"{figure.text}: not measured ({'; '.join(errors)})", False))
            continue
        ours = [found[figure.ours].rates[figure.epoch] for found in rounds]
        peers = [max(found[name].rates[0] for name in figure.peers) for found in rounds]
        ratio = median(our / peer for our, peer in zip(ours, peers, strict=True))
        print(f"{figure.text:42}{median(ours):>14,.0f}{median(peers):>14,.0f}{ratio:>9.3g}{goal:>8}")
        if figure.least is not None:
            text = f"{figure.text}: {ratio:.3g}, at least {figure.least:g}"
            checks.append((text, ratio >= figure.least))
    return checks


def mixing_check(rounds: Sequence[dict[str, Measured]]) -> Check:
    """The deviation of batch means ÷ that of independent rows; the order is fixed, so one round tells it."""
    text, found = "batch-mean deviation on sorted data ÷ i.i.d.", rounds[0]["mixing"]
    if found.error or not found.figures:
        return f"{text}: not measured ({found.error})", False
    deviation, independent = found.figures["deviation"], found.figures["independent"]
    ratio = deviation / independent
    print(f"{text}: {deviation:.4f} ÷ {independent:.4f} = {ratio:.3g}, at most {MOST_DEVIATION}")
    return f"{text}: {ratio:.3g}, at most {MOST_DEVIATION}", ratio <= MOST_DEVIATION


if __name__ == "__main__":
    sys.exit(main())
