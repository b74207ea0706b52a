"""Peak memory of a fit with default settings, on data of twice the memory budget and on ten times as much.

    python benchmarks/memory.py [--groups default|small] [--budget MIB] [--rows N] [--data DIR]

Makes rows of 100 float32 columns and 5 labels that decode to twice runtime.memory_budget, and ten times the rows by
linking the same files under ten names. Fits each in its own process. Goals: at most 1.5 GiB, and the larger within 5%
of the smaller. Exits 1 when a goal is missed; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import concluded
from commands import peak_of_command

COLUMNS, LABELS, SHARDS, TIMES = 100, 5, 4, 10
ROW_BYTES = 4 * COLUMNS + LABELS
BUDGET_MIB = 512
GROUP_ROWS = {"default": 1_048_576, "small": 65_536}
MOST_BYTES, MOST_GROWTH = 1536 << 20, 0.05


def main() -> int:
    arguments = parse_arguments()
    if arguments.make:
        make_shards(arguments.make, arguments.rows, GROUP_ROWS[arguments.groups])
        return 0
    checks = []
    with tempfile.TemporaryDirectory(prefix="memory-", dir=arguments.data) as name:
        folder = Path(name)
        rows = arguments.rows or 2 * (arguments.budget << 20) // ROW_BYTES
        once, often = made_data(folder, rows, arguments.groups)
        settings = [] if arguments.budget == BUDGET_MIB else ["--set", f"runtime.memory_budget={arguments.budget}MiB"]
        peaks = [fitted(once, folder / "once", rows, settings), fitted(often, folder / "often", TIMES * rows, settings)]
    checks.append(("both fits end well", None not in peaks))
    small, large = (peak or 0 for peak in peaks)
    if small and large:
        growth = large / small - 1
        print(f"ratio of the peaks: {large / small:.3f}")
        checks += [
            (f"peak on 1x the rows is {small / 2**20:,.0f} MiB, at most 1,536", small <= MOST_BYTES),
            (f"peak on {TIMES}x the rows is {large / 2**20:,.0f} MiB, at most 1,536", large <= MOST_BYTES),
            (f"peak differs by {growth:+.1%}, at most 5%", abs(growth) <= MOST_GROWTH),
        ]
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory of a fit on twice the budget, and on ten times as much.")
    parser.add_argument("--budget", type=int, default=BUDGET_MIB, help="runtime.memory_budget in MiB, for trials")
    parser.add_argument("--rows", type=int, help="rows of the smaller set (default: twice the budget, decoded)")
    parser.add_argument("--groups", choices=list(GROUP_ROWS), default="default", help="rows of a row group")
    parser.add_argument("--data", type=Path, help="folder for the data, on a disk with 2 GB free (default: temporary)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def made_data(folder: Path, rows: int, groups: str) -> tuple[Path, Path]:
    """Make both sets, in a process of their own: a child's peak begins with that of the process that starts it."""
    once, often = folder / "data", folder / "data-ten-times"
    options = ["--make", str(once), "--rows", str(rows), "--groups", groups]
    subprocess.run([sys.executable, __file__, *options], check=True)
    often.mkdir()
    for copy in range(TIMES):
        for shard in sorted(once.iterdir()):
            link_or_copy(shard, often / f"copy-{copy}-{shard.name}")
    size = sum(shard.stat().st_size for shard in once.iterdir())
    print(
        f"{rows:,} rows that decode to {rows * ROW_BYTES / 2**20:,.0f} MiB ({size / 2**20:,.0f} MiB in {SHARDS} files, "
        f"row groups of at most {GROUP_ROWS[groups]:,}), and {TIMES} times as many",
        flush=True,
    )
    return once, often


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def make_shards(folder: Path, rows: int, group_rows: int) -> None:
    """Write the shards: labels from a linear model, of which the last is rare."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(0, 0.15, (COLUMNS, LABELS)).astype(np.float32)
    bias = np.array([0, -1, -2, -3, -5], np.float32)
    for shard in range(SHARDS):
        random = np.random.default_rng([1, shard])
        size = rows * (shard + 1) // SHARDS - rows * shard // SHARDS
        inputs = random.standard_normal((COLUMNS, size), np.float32)
        labels = random.random((size, LABELS), np.float32) < 1 / (1 + np.exp(-(inputs.T @ weights + bias)))
        columns = {f"x{index:02d}": pa.array(inputs[index]) for index in range(COLUMNS)}
        columns |= {f"label_{index}": pa.array(labels[:, index]) for index in range(LABELS)}
        pq.write_table(pa.table(columns), folder / f"part-{shard}.parquet", row_group_size=group_rows)


def fitted(data: Path, run: Path, rows: int, settings: list[str]) -> int | None:
    """Fit with default settings but those given; return the peak resident memory in bytes, None where it fails."""
    started = time.perf_counter()
    peak = peak_of_command(["fit", data, "--labels", "label_*", "--out", run, *settings])
    seconds = time.perf_counter() - started
    if peak is None:
        return None
    print(f"{rows:>12,} rows: peak {peak / 2**20:,.0f} MiB, {seconds:,.0f} s", flush=True)
    return peak


if __name__ == "__main__":
    sys.exit(main())
