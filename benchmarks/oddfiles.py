"""Odd and malformed Parquet files: each is inspected and fitted, and must work or be refused with one clear error.

    python benchmarks/oddfiles.py DIR [--jobs 2]

Every file below DIR with '.parquet' in its name goes to ``mlclf inspect FILE --json`` and, where a column is bool or
holds only 0 and 1, to ``mlclf fit FILE --labels COLUMN``, each in its own process with 30 s and 2 GiB of resident
memory. A file passes when every exit code is 0 or 2 and no traceback is printed. Exits 1 when one fails; the last line
is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MOST_SECONDS = 30.0
MOST_BYTES = 2 << 30
POLL_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Ended:
    """How a child process ended: `problem` is empty where it stayed inside its limits."""

    code: int
    problem: str
    output: bytes
    errors: bytes


@dataclass(frozen=True)
class Verdict:
    """What became of one file; `problems` is empty where it passed."""

    path: Path
    problems: list[str]
    inspected: int
    fitted: int | None


def main() -> int:
    arguments = parse_arguments()
    if arguments.find_label:
        find_label(arguments.folder)
        return 0
    paths = sorted(path for path in arguments.folder.rglob("*") if ".parquet" in path.name and path.is_file())
    if not paths:
        print(f"{arguments.folder}: holds no Parquet file", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(arguments.jobs) as pool:
        verdicts = list(pool.map(judged, paths))
    for verdict in verdicts:
        for problem in verdict.problems:
            print(f"FAIL {verdict.path.relative_to(arguments.folder)}: {problem}")
    fits = [verdict.fitted for verdict in verdicts if verdict.fitted is not None]
    inspections = [verdict.inspected for verdict in verdicts]
    print(f"inspect: {inspections.count(0)} worked, {inspections.count(2)} refused, of {len(inspections)} files")
    print(f"fit: {fits.count(0)} worked, {fits.count(2)} refused, of {len(fits)} files with a column for a label")
    failed = sum(bool(verdict.problems) for verdict in verdicts)
    print(f"{len(verdicts) - failed} passed, {failed} failed")
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Give every odd Parquet file of a folder to inspect and fit.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2, help="files worked on side by side")
    parser.add_argument("--find-label", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def judged(path: Path) -> Verdict:
    """Inspect one file, and fit it where it has a column for a label."""
    inspected = limited(["-m", "mlclf", "inspect", str(path), "--json"])
    problems = [f"inspect: {problem}" for problem in problems_of(inspected)]
    label = limited([__file__, str(path), "--find-label"])
    if label.code != 0 or not label.output:
        return Verdict(path, problems, inspected.code, None)
    with tempfile.TemporaryDirectory(prefix="oddfiles-") as folder:
        name = label.output.decode("utf-8", "surrogateescape")
        fit = limited(["-m", "mlclf", "fit", str(path), f"--labels={name}", "--out", f"{folder}/run"])
    problems += [f"fit --labels {name!r}: {problem}" for problem in problems_of(fit)]
    return Verdict(path, problems, inspected.code, fit.code)


def problems_of(ended: Ended) -> list[str]:
    if ended.problem:
        return [ended.problem]
    problems = []
    if ended.code not in (0, 2):
        problems.append(f"exit code {ended.code}: {last_line(ended.errors)}")
    if b"Traceback" in ended.errors:
        problems.append(f"a traceback: {last_line(ended.errors)}")
    if ended.code == 2 and not ended.errors.strip():
        problems.append("refused without a word")
    return problems


def last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def limited(arguments: list[str]) -> Ended:
    """Run Python on `arguments`; a child that takes too long or too much memory is killed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + MOST_SECONDS
        problem = ""
        while child.poll() is None:
            resident = resident_bytes(child.pid)
            if time.monotonic() > deadline:
                problem = f"took more than {MOST_SECONDS:.0f} s"
            elif resident > MOST_BYTES:
                problem = f"took {resident / 2**20:,.0f} MiB"
            if problem:
                child.kill()
                child.wait()
                break
            time.sleep(POLL_SECONDS)
        output.seek(0)
        errors.seek(0)
        return Ended(child.returncode, problem, output.read(), errors.read())


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def find_label(path: Path) -> None:
    """Print the name of the first column that is bool, or holds 0 and 1 and nothing else but nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)
    names = file.schema_arrow.names
    for column in file.schema_arrow:
        if names.count(column.name) > 1 or not column.name:
            continue
        if pa.types.is_boolean(column.type):
            break
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            found = set()
            for batch in file.iter_batches(columns=[column.name]):
                found.update(pc.unique(batch.column(0)).to_pylist())
                if not found <= {0, 1, None}:
                    break
            if found & {0, 1} and found <= {0, 1, None}:
                break
    else:
        return
    sys.stdout.buffer.write(column.name.encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    sys.exit(main())
