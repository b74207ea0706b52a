"""Thresholds with default settings beside a baseline's, on every multi-label set of a folder; and do promises hold?

    python benchmarks/thresholds.py --data DIR [--only NAME ...] [--skip peers simulation scored]

DIR holds BASELINES.json and a folder for each set, with train.parquet and test.parquet. Each set is fitted once by
``mlclf fit train.parquet --labels 'label_*'``; then ``mlclf calibrate RUN --objective O`` tunes its held-out scores for
f1, micro_f1 and micro_macro_f1, and ``mlclf evaluate`` judges the decisions on the test rows. A set with dev.parquet is
fitted again with ``--valid dev.parquet``. Then ``threshold_peers.py`` prints what other libraries make of the same
scores, and ``simulation.py`` and ``scored.py`` run. Exits 1 when a goal is missed; the last line is 'N passed, N
failed'.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from checks import Check, print_checks
from commands import peak_of_command

SETS = ("enron", "scene", "yeast", "bibtex", "goemotions")
OBJECTIVES = ("f1", "micro_f1", "micro_macro_f1")
MOST_LOSS, LEAST_MEAN_GAIN = 0.005, 0.01
BOTH = {"enron": (0.598, 0.234), "bibtex": (0.482, 0.402), "goemotions": (0.539, 0.454)}
"""Micro- and macro-F1 of micromacro-freq (Lin and Lin, CIKM 2023) on out-of-fold scores of logistic regression."""

PUBLISHED_DEV = {"goemotions": (0.453, 0.552)}
"""Macro-F1 with f1 and micro-F1 with micro_f1 that a fit with --valid dev.parquet has to reach."""

Scores = dict[str, tuple[float, float]]
"""Objective → micro-F1 and macro-F1 (all labels) of the test rows."""


def main() -> int:
    arguments = parse_arguments()
    baselines = json.loads((arguments.data / "BASELINES.json").read_text())["data"]
    found: dict[str, Scores] = {}
    checks: list[Check] = []
    print(f"{'data':16}" + "".join(f"{name:>22}" for name in (*OBJECTIVES, "base: tuned, one cut")), flush=True)
    with tempfile.TemporaryDirectory(prefix="thresholds-") as folder:
        for name in arguments.only or SETS:
            data, base = arguments.data / name, baselines[name]
            scores = tuned(name, data, Path(folder) / name, [])
            if scores is None:
                checks.append((f"{name}: fit, calibrate and evaluate", False))
                continue
            found[name] = scores
            ends = f"{base['macro_f1_tuned']:.4f}, {base['micro_f1_one_cut']:.4f}"
            print(line_of(name, scores) + f"{ends:>22}", flush=True)
            checks += checks_of(name, scores, base)
            if name in PUBLISHED_DEV:
                dev = tuned(name, data, Path(folder) / f"{name}-dev", ["--valid", data / "dev.parquet"])
                if dev is not None:
                    print(line_of(f"{name} --valid", dev), flush=True)
                checks += list(checks_of_dev(name, dev))
    if set(found) == set(SETS):
        checks += list(checks_of_means(found, baselines))
    print()
    passes, failures = print_checks(checks)
    if "peers" not in arguments.skip:
        failures += not printed_peers(arguments.data, arguments.only or SETS)
    for script in ("simulation", "scored"):
        if script not in arguments.skip:
            more = counts_of(script)
            passes, failures = passes + more[0], failures + more[1]
    print(f"{passes} passed, {failures} failed")
    return 1 if failures else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Thresholds beside a baseline's, and whether promises hold.")
    parser.add_argument("--data", type=Path, required=True, help="folder with BASELINES.json and the data sets")
    parser.add_argument("--only", nargs="+", default=[], choices=SETS, help="only these sets; the means are left out")
    scripts = ("peers", "simulation", "scored")
    parser.add_argument("--skip", nargs="+", default=[], choices=scripts, help="scripts not to run")
    return parser.parse_args()


def tuned(name: str, data: Path, run: Path, options: list[Any]) -> Scores | None:
    """Fit one set and judge its thresholds for every objective; None, with the error printed, if a command fails."""
    fit = ["fit", data / "train.parquet", "--labels", "label_*", *options, "--out", run]
    if peak_of_command(fit) is None:
        return None
    scores: Scores = {}
    for objective in OBJECTIVES:
        metrics = run.with_suffix(f".{objective}.json")
        if peak_of_command(["calibrate", run, "--objective", objective]) is None:
            return None
        if peak_of_command(["evaluate", run, data / "test.parquet", "--out", metrics]) is None:
            return None
        report = json.loads(metrics.read_text())
        scores[objective] = (report["micro"]["f1"], report["macro_all"]["f1"])
    return scores


def checks_of(name: str, scores: Scores, base: dict[str, Any]) -> list[Check]:
    micro, least_micro = scores["micro_f1"][0], max(base["micro_f1_half"], base["micro_f1_one_cut"]) - MOST_LOSS
    macro, least_macro = scores["f1"][1], base["macro_f1_tuned"] - MOST_LOSS
    checks = [
        (f"{name}: micro-F1 with micro_f1 is {micro:.4f}, at least {least_micro:.4f}", micro >= least_micro),
        (f"{name}: macro-F1 with f1 is {macro:.4f}, at least {least_macro:.4f}", macro >= least_macro),
    ]
    if name in BOTH:
        least = tuple(value - MOST_LOSS for value in BOTH[name])
        both = scores["micro_macro_f1"]
        text = f"{name}: micro- and macro-F1 with micro_macro_f1 are {both[0]:.4f} and {both[1]:.4f}"
        met = both[0] >= least[0] and both[1] >= least[1]
        checks.append((f"{text}, at least {least[0]:.3f} and {least[1]:.3f}", met))
    return checks


def checks_of_dev(name: str, scores: Scores | None) -> Iterator[Check]:
    if scores is None:
        yield f"{name}: fit with --valid dev.parquet", False
        return
    macro, micro = scores["f1"][1], scores["micro_f1"][0]
    least_macro, least_micro = PUBLISHED_DEV[name]
    yield f"{name}, --valid dev: macro-F1 with f1 is {macro:.4f}, at least {least_macro}", macro >= least_macro
    yield f"{name}, --valid dev: micro-F1 with micro_f1 is {micro:.4f}, at least {least_micro}", micro >= least_micro


def checks_of_means(found: dict[str, Scores], baselines: dict[str, Any]) -> Iterator[Check]:
    bases = [baselines[name] for name in found]
    micro = mean([scores["micro_f1"][0] for scores in found.values()])
    least_micro = mean([max(base["micro_f1_half"], base["micro_f1_one_cut"]) for base in bases])
    macro = mean([scores["f1"][1] for scores in found.values()])
    least_macro = mean([base["macro_f1_tuned"] for base in bases]) + LEAST_MEAN_GAIN
    yield f"mean micro-F1 with micro_f1 is {micro:.4f}, above {least_micro:.4f}", micro > least_micro
    yield f"mean macro-F1 with f1 is {macro:.4f}, at least {least_macro:.4f}", macro >= least_macro


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def line_of(name: str, scores: Scores) -> str:
    cells = (f"{micro:.4f} / {macro:.4f}" for micro, macro in scores.values())
    return f"{name:16}" + "".join(f"{cell:>22}" for cell in cells)


def printed_peers(data: Path, names: Sequence[str]) -> bool:
    """Run `threshold_peers.py` here, which has no goals; whether it came to its end."""
    print("\nthreshold_peers.py", flush=True)
    script = Path(__file__).with_name("threshold_peers.py")
    command = [sys.executable, str(script), "--data", str(data), "--only", *names]
    return subprocess.run(command, check=False).returncode == 0


def counts_of(script: str) -> tuple[int, int]:
    """Run another script here and return how many of its goals passed and failed."""
    print(f"\n{script}.py", flush=True)
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    print(output, end="", flush=True)
    last = re.search(r"(\d+) passed, (\d+) failed\s*$", output)
    return (int(last[1]), int(last[2])) if last else (0, 1)


if __name__ == "__main__":
    sys.exit(main())
