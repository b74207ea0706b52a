"""Training beside scikit-learn and Vowpal Wabbit in rows a second, and its peak memory on data of any size.

    python benchmarks/training.py [--folder DIR] [--repeats 3] [--large] [--only rates,memory]

Rates: 100 float32 columns and 20 labels; scikit-learn's SGD by `partial_fit` for each label, Vowpal Wabbit from its
cache for one label. Memory: one epoch over 2 GB of data (10 GB with --large), and the first batches of 100 GB on paper,
which are the same files under many names; at most the budget and 600 MiB. Every contestant of `peers.py` runs in a
process of its own. Exits 1 when a goal is missed or a peer cannot be run; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from checks import Check, concluded
from loader import Measured, generate, measured, read_once, summary

BUDGET_BYTES, MOST_ABOVE_BUDGET = 512 << 20, 600 << 20
ROW_BYTES = 403
"""Of a row of the generated data on disk: 100 floats that do not compress, 20 bits."""

SMALL_BYTES, LARGE_BYTES, PAPER_BYTES = 2 * 10**9, 10 * 10**9, 100 * 10**9
PAPER_BATCHES, BATCH_ROWS = 300, 4_096
RATE_ROWS = 1_000_000
PEER_ROWS = {"scikit-learn": 200_000, "vowpal-wabbit": 200_000}
LEAST_RATIO = 1.0


def main() -> int:
    arguments = parse_arguments()
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="training-", dir=arguments.folder) as temporary:
        folder = arguments.folder or Path(temporary)
        if "rates" in arguments.only:
            checks += rate_checks(folder, arguments.repeats)
        if "memory" in arguments.only:
            checks += memory_checks(folder, Path(temporary), LARGE_BYTES if arguments.large else arguments.bytes)
    print()
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training beside its peers, and its peak memory.")
    parser.add_argument("--folder", type=Path, help="where the data is made and kept (default: a temporary folder)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the rates; medians are printed")
    parser.add_argument("--large", action="store_true", help="10 GB of data in place of 2 GB")
    parser.add_argument("--only", default="rates,memory", help="rates or memory")
    parser.add_argument("--bytes", type=int, default=SMALL_BYTES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if set(arguments.only) - {"rates", "memory"}:
        parser.error("--only takes rates, memory or both with a comma between them")
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def rate_checks(folder: Path, repeats: int) -> list[Check]:
    """Ours ÷ each peer: the median over the rounds of the ratio of a round."""
    data = folder / f"plain-{RATE_ROWS}"
    generate("tabular", data, ["--rows", str(RATE_ROWS)])
    read_once(data)
    rounds = []
    for number in range(repeats):
        print(f"round {number + 1}", flush=True)
        found = {"mlclf": measured("mlclf", data, [])}
        found |= {name: measured(name, data, ["--rows", str(rows)]) for name, rows in PEER_ROWS.items()}
        for name, outcome in found.items():
            print(f"  {name:16}{summary(outcome)}", flush=True)
        rounds.append(found)
    return [rate_check(name, rounds) for name in PEER_ROWS]


def rate_check(name: str, rounds: Sequence[dict[str, Measured]]) -> Check:
    errors = dict.fromkeys(found[key].error for found in rounds for key in ("mlclf", name) if found[key].error)
    if errors:
        return f"rows/s ÷ {name}: not measured ({'; '.join(errors)})", False
    ratio = median(found["mlclf"].rates[0] / found[name].rates[0] for found in rounds)
    return f"rows/s ÷ {name}: {ratio:.3g}, at least {LEAST_RATIO:g}", ratio >= LEAST_RATIO


def memory_checks(folder: Path, temporary: Path, num_bytes: int) -> list[Check]:
    """Peaks of an epoch over the data, and of the first batches of the same files under many names."""
    rows = num_bytes // ROW_BYTES
    data, paper = folder / f"plain-{rows}", temporary / "paper"
    generate("tabular", data, ["--rows", str(rows)])
    budget = ["--budget", str(BUDGET_BYTES)]
    checks = [memory_check(f"{num_bytes / 10**9:g} GB, one epoch", measured("mlclf", data, budget))]
    names, size = linked(data, paper, PAPER_BYTES)
    print(f"  on paper: {names:,} names of {size / 10**9:,.1f} GB", flush=True)
    options = [*budget, "--features-from", str(data), "--rows", str(PAPER_BATCHES * BATCH_ROWS)]
    text = f"{size / 10**9:.0f} GB on paper, {PAPER_BATCHES} batches"
    return [*checks, memory_check(text, measured("mlclf", paper, options))]


def linked(data: Path, paper: Path, num_bytes: int) -> tuple[int, int]:
    """Give the files more names until they add up to `num_bytes`; return how many names and bytes that is."""
    paper.mkdir()
    names = size = 0
    while size < num_bytes:
        for file in sorted(data.iterdir()):
            os.link(file, paper / f"part-{names:06d}.parquet")
            names, size = names + 1, size + file.stat().st_size
    return names, size


def memory_check(text: str, found: Measured) -> Check:
    print(f"  {text}: {summary(found)}", flush=True)
    if found.error:
        return f"peak of {text}: not measured ({found.error})", False
    most = BUDGET_BYTES + MOST_ABOVE_BUDGET
    return (
        f"peak of {text}: {found.peak_bytes / 2**20:,.0f} MiB, at most {most / 2**20:,.0f}",
        found.peak_bytes <= most,
    )


if __name__ == "__main__":
    sys.exit(main())
