"""The memory that `mlclf inspect` foretells for a fit, beside the peak of that fit.

    python benchmarks/foretold.py [--data DIR] [--largest MIB]

Made data of several shapes and, where DIR is given, the training rows of each set in it (``DIR/SET/train.parquet``, its
labels called ``label_*``). Each is inspected and fitted with default settings, in processes of their own. The goal is a
foretold figure within 25% of the peak. Exits 1 when it is missed; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import concluded
from commands import peak_of_command

WITHIN = 0.25
SHAPES = {
    # rows, numeric columns, columns of 1,000 levels, labels
    "few rows": (2_000, 10, 2, 2),
    "narrow": (200_000, 10, 3, 1),
    "wide": (50_000, 100, 0, 20),
    "many labels": (20_000, 30, 0, 500),
    "streamed": (1_500_000, 60, 2, 5),
    "streamed, wide": (400_000, 400, 0, 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of sets, each with train.parquet")
    parser.add_argument("--largest", type=int, default=2048, help="made data beyond so many MiB is left out")
    parser.add_argument("--make", nargs=2, metavar=("SHAPE", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(SHAPES[arguments.make[0]], Path(arguments.make[1]))
        return 0
    checks = []
    with tempfile.TemporaryDirectory(prefix="foretold-") as name:
        folder = Path(name)
        for shape, (rows, numbers, texts, labels) in SHAPES.items():
            if rows * (4 * numbers + 8 * texts + labels) >> 20 <= arguments.largest:
                file = folder / "made.parquet"
                subprocess.run([sys.executable, __file__, "--make", shape, str(file)], check=True)
                checks.append(checked(shape, file, folder / "run"))
        for file in sorted(arguments.data.glob("*/train.parquet")) if arguments.data else []:
            checks.append(checked(file.parent.name, file, folder / "run"))
    return concluded(checks)


def checked(what: str, file: Path, run: Path) -> tuple[str, bool]:
    """Inspect and fit one file."""
    command = [sys.executable, "-m", "mlclf", "inspect", str(file), "--labels", "label_*", "--json"]
    foretold = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["memory"]["fit_bytes"]
    peak = peak_of_command(["fit", file, "--labels", "label_*", "--out", run])
    subprocess.run(["rm", "-rf", str(run)], check=True)
    if peak is None:
        return f"{what}: the fit failed", False
    off = foretold / peak - 1
    text = f"{what}: {foretold >> 20:,} MiB foretold, {peak >> 20:,} MiB taken ({off:+.0%})"
    print(text, flush=True)
    return text, abs(off) <= WITHIN


def make(shape: tuple[int, int, int, int], file: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, numbers, texts, labels = shape
    random = np.random.default_rng(0)
    writer, done = None, 0
    while done < rows:
        count = min(65_536, rows - done)
        x = random.normal(size=(count, numbers)).astype(np.float32)
        columns = {f"x{index}": x[:, index] for index in range(numbers)}
        columns |= {f"c{index}": random.integers(0, 1000, count).astype(str) for index in range(texts)}
        for index in range(labels):
            chance = 1 / (1 + np.exp(2 - x[:, index % numbers] + x[:, (index + 1) % numbers]))
            columns[f"label_{index}"] = random.random(count) < chance
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
        done += count
    assert writer is not None
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
