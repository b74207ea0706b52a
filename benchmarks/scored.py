"""All thresholds from Parquet scores: time of `mlclf calibrate` against a bare scan of its columns, and peak memory.

    python benchmarks/scored.py [--rows 200000] [--labels 1000] [--objective f1] [--repeats 3] [--data DIR]

Makes a file for every 65,536 rows of float32 logits and bool labels, in row groups of about 64 MiB of scores, then
runs, in turns and each in a process of its own: pyarrow reading those columns row group by row group on two threads,
and `calibrate`. Tuning takes some seconds however many rows there are, and memory grows a little while rare logits are
met: --rows 2000000 (11 GB) is nearer to what 10,000,000 take. Goals, on medians: scan ÷ calibrate at least 0.5,
reading and tuning included, and at most 1.5 GiB of resident memory. Exits 1 when a goal is missed; the last line is
'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from checks import concluded

FILE_ROWS, GROUP_BYTES = 65_536, 64 << 20
LEAST_RATIO, MOST_BYTES = 0.5, 1536 << 20
THREADS = 2


def main() -> int:
    arguments = parse_arguments()
    if arguments.make:
        make_files(arguments.make, arguments.rows, arguments.labels)
        return 0
    if arguments.scan:
        print(scanned(arguments.scan))
        return 0
    if arguments.calibrate:
        print(calibrated(arguments.calibrate, arguments.objective))
        return 0
    with tempfile.TemporaryDirectory(prefix="scored-", dir=arguments.data) as name:
        folder = Path(name) / "scores"
        sizes = ["--rows", str(arguments.rows), "--labels", str(arguments.labels)]
        child(["--make", str(folder), *sizes])
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{arguments.rows:,} rows x {arguments.labels:,} labels, {size / 2**20:,.0f} MiB", flush=True)
        scans, runs, peaks = [], [], []
        for _ in range(arguments.repeats):
            scans.append(child(["--scan", str(folder)])[0])
            seconds, peak = child(["--calibrate", str(folder), "--objective", arguments.objective])
            runs.append(seconds)
            peaks.append(peak)
            print(
                f"  scan {scans[-1]:.2f} s, calibrate {seconds:.2f} s, peak {peak / 2**20:,.0f} MiB, "
                f"ratio {scans[-1] / seconds:.2f}",
                flush=True,
            )
    cells = arguments.rows * arguments.labels
    ratio, peak = median(scans) / median(runs), max(peaks)
    print(f"scan {cells / median(scans) / 1e6:,.0f}, calibrate {cells / median(runs) / 1e6:,.0f} million scores/s")
    checks = [
        (f"scan ÷ calibrate is {ratio:.2f}, at least {LEAST_RATIO}", ratio >= LEAST_RATIO),
        (f"peak is {peak / 2**20:,.0f} MiB, at most {MOST_BYTES / 2**20:,.0f}", peak <= MOST_BYTES),
    ]
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All thresholds from Parquet scores, against a bare scan of them.")
    parser.add_argument("--rows", type=int, default=200_000, help="rows (10,000,000 x 1,000 labels take 60 GB)")
    parser.add_argument("--labels", type=int, default=1000, help="labels")
    parser.add_argument("--objective", default="f1", help="objective of calibrate")
    parser.add_argument("--repeats", type=int, default=3, help="times that both are run, in turns")
    parser.add_argument("--data", type=Path, help="folder for the data (default: temporary)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--calibrate", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(arguments: list[str]) -> tuple[float, int]:
    """Run this script on `arguments`: the seconds that it prints, and its peak resident memory in bytes."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}")
    return (float(output) if output.strip() else 0.0), usage.ru_maxrss * 1024


def make_files(folder: Path, rows: int, labels: int) -> None:
    """Logits of labels of falling prevalence, and labels drawn by them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    group_rows = max(1024, min(FILE_ROWS, GROUP_BYTES // (4 * labels)))
    bias = np.linspace(-1, -7, labels, dtype=np.float32)[:, None]
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        end = min(start + FILE_ROWS, rows)
        writer = None
        for first in range(start, end, group_rows):
            random = np.random.default_rng([0, first])
            size = min(group_rows, end - first)
            logits = 2 * random.standard_normal((labels, size), np.float32) + bias
            truth = random.random((labels, size), np.float32) < 1 / (1 + np.exp(-logits))
            columns = {f"score_label_{index:04d}": pa.array(logits[index]) for index in range(labels)}
            columns |= {f"label_{index:04d}": pa.array(truth[index]) for index in range(labels)}
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(folder / f"part-{number:03d}.parquet", table.schema)
            writer.write_table(table, row_group_size=group_rows)
        if writer is not None:
            writer.close()


def scanned(folder: Path) -> float:
    """Seconds to read every row group on two threads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(THREADS)
    started = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, use_threads=True)
    return time.perf_counter() - started


def calibrated(folder: Path, objective: str) -> float:
    """Seconds to read and tune everything, the time of importing apart."""
    import torch

    from mlclf.jobs.score_files import calibrate_scores

    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        calibrate_scores(str(folder), objective, Path(out) / "thresholds.json", score_kind="logit")
        return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
