"""Default settings beside a searched scikit-learn baseline, on every data set of a folder.

    python benchmarks/quality.py --data DIR [--only NAME ...] [--out DIR]

DIR holds BASELINES.json and a folder for each set in it, with train.parquet and test.parquet. Each set is fitted by
``mlclf fit train.parquet --labels 'label_*'`` and scored by ``mlclf evaluate``, each in its own process. Exits 1 when
a goal is missed; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks import concluded
from commands import peak_of_command

LEAST_GAIN_RATIO = 0.97
MOST_AUROC_LOSS, MOST_AP_LOSS = 0.005, 0.01
SMALL_SETS = {"hiva": (0.02, 0.03)}
"""Name → most AUROC and AP that may be lost: hiva has 20 positives in test."""


@dataclass(frozen=True)
class Scores:
    """Three numbers of the test split."""

    gain: float
    auroc: float
    ap: float


@dataclass(frozen=True)
class Outcome:
    """One data set: ours and the baseline's, and what ours took."""

    name: str
    ours: Scores
    baseline: Scores
    seconds: float
    peak_bytes: int


def main() -> int:
    arguments = parse_arguments()
    baselines = json.loads((arguments.data / "BASELINES.json").read_text())["data"]
    unknown = sorted(set(arguments.only) - set(baselines))
    if unknown:
        print(f"BASELINES.json has no {', '.join(unknown)}; it has {', '.join(baselines)}", file=sys.stderr)
        return 2
    names = [name for name in baselines if not arguments.only or name in arguments.only]
    outcomes, checks = [], []
    print(table_line("data", ("gain", "base"), ("AUROC", "base"), ("AP", "base"), "seconds", "peak MiB"), flush=True)
    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        for name in names:
            outcome = measured(name, arguments.data / name, baselines[name], arguments.out or Path(folder))
            if outcome is None:
                checks.append((f"{name}: fit and evaluate", False))
                continue
            outcomes.append(outcome)
            checks += checks_of(outcome)
            print(line_of(outcome), flush=True)
    if len(outcomes) > 1 and not arguments.only:
        checks += checks_of_means(outcomes)
    print()
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Default settings beside the baselines of a folder of data sets.")
    parser.add_argument("--data", type=Path, required=True, help="folder with BASELINES.json and the data sets")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these sets; the means are left out")
    parser.add_argument("--out", type=Path, help="folder that keeps the runs (default: a temporary one)")
    return parser.parse_args()


def measured(name: str, data: Path, baseline: dict[str, Any], out: Path) -> Outcome | None:
    """Fit and evaluate one set; None, with the error printed, where a command fails."""
    run, metrics = out / name, out / f"{name}.json"
    started = time.perf_counter()
    fit = ["fit", data / "train.parquet", "--labels", "label_*", "--out", run, "--overwrite"]
    peak = peak_of_command(fit)
    seconds = time.perf_counter() - started
    if peak is None or peak_of_command(["evaluate", run, data / "test.parquet", "--out", metrics]) is None:
        print(f"{name}: failed", flush=True)
        return None
    found = json.loads(metrics.read_text())
    ours = Scores(found["gain"], found["macro"]["auroc"], found["macro"]["average_precision"])
    theirs = Scores(baseline["gain"], baseline["macro_auroc"], baseline["macro_ap"])
    return Outcome(name, ours, theirs, seconds, peak)


def checks_of(outcome: Outcome) -> list[tuple[str, bool]]:
    name, ours, base = outcome.name, outcome.ours, outcome.baseline
    auroc_loss, ap_loss = SMALL_SETS.get(name, (MOST_AUROC_LOSS, MOST_AP_LOSS))
    ratio = ours.gain / base.gain
    return [
        (f"{name}: gain is {ratio:.4f} x the baseline's, at least {LEAST_GAIN_RATIO}", ratio >= LEAST_GAIN_RATIO),
        (
            f"{name}: AUROC is {ours.auroc - base.auroc:+.4f} from the baseline's, at least {-auroc_loss}",
            ours.auroc >= base.auroc - auroc_loss,
        ),
        (
            f"{name}: AP is {ours.ap - base.ap:+.4f} from the baseline's, at least {-ap_loss}",
            ours.ap >= base.ap - ap_loss,
        ),
    ]


def checks_of_means(outcomes: list[Outcome]) -> list[tuple[str, bool]]:
    ours, base = mean_scores([item.ours for item in outcomes]), mean_scores([item.baseline for item in outcomes])
    ratio = sum(item.ours.gain / item.baseline.gain for item in outcomes) / len(outcomes)
    print(table_line("mean", (ours.gain, base.gain), (ours.auroc, base.auroc), (ours.ap, base.ap), "", ""))
    return [
        (f"mean of the gain ratios is {ratio:.4f}, at least 1", ratio >= 1),
        (f"mean gain is {ours.gain:.5f}, at least {base.gain:.5f}", ours.gain >= base.gain),
        (f"mean AUROC is {ours.auroc:.5f}, at least {base.auroc:.5f}", ours.auroc >= base.auroc),
        (f"mean AP is {ours.ap:.5f}, at least {base.ap:.5f}", ours.ap >= base.ap),
    ]


def mean_scores(scores: list[Scores]) -> Scores:
    count = len(scores)
    return Scores(
        sum(item.gain for item in scores) / count,
        sum(item.auroc for item in scores) / count,
        sum(item.ap for item in scores) / count,
    )


def line_of(outcome: Outcome) -> str:
    ours, base = outcome.ours, outcome.baseline
    pairs = ((ours.gain, base.gain), (ours.auroc, base.auroc), (ours.ap, base.ap))
    return table_line(outcome.name, *pairs, f"{outcome.seconds:.1f}", f"{outcome.peak_bytes / 2**20:.0f}")


def table_line(name: str, *cells: Any) -> str:
    """One line of the table: a name, pairs of numbers or words, and words."""
    words = []
    for cell in cells:
        for part in cell if isinstance(cell, tuple) else (cell,):
            words.append(f"{part:.4f}" if isinstance(part, float) else str(part))
    return f"{name:14}" + "".join(f"{word:>10}" for word in words)


if __name__ == "__main__":
    sys.exit(main())
