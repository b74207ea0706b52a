"""Conversion and splits: a large libsvm file beside polars reading a CSV file of that size; bibtex from every format.

    python benchmarks/conversion.py [--gigabytes 2] [--repeats 3] [--data DIR]

Makes a libsvm file, and a CSV file of the same size and the same numbers, then runs in turns, each in a process of its
own: ``polars.read_csv`` of the one on two threads, and ``mlclf convert`` of the other. Goals, on medians: bytes a
second at least 0.3 of polars', and at most 1 GiB of resident memory.

With DIR, which holds bibtex/ with its Parquet files and raw/ with Mulan's ARFF: the ARFF, and libsvm and XMC text
written from it, give the rows and labels of the Parquet files; a stratified split of 80/10/10 has every label with at
least 10 positives in each part, and a mean relative deviation of the labels' shares of at most half of that of a split
by hash. Exits 1 when a goal is missed; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from checks import Check, concluded
from commands import peak_of_command

LEAST_RATIO, MOST_BYTES = 0.3, 1 << 30
LEAST_POSITIVES, MOST_DEVIATION, SEEDS = 10, 0.5, 3
BLOCK_ROWS = 20_000


def main() -> int:
    arguments = parse_arguments()
    if arguments.make:
        MAKERS[arguments.make.suffix](arguments.make, arguments.gigabytes)
        return 0
    if arguments.read:
        read_csv(arguments.read)
        return 0
    with tempfile.TemporaryDirectory(prefix="conversion-") as folder:
        checks = large_file(Path(folder), arguments.gigabytes, arguments.repeats)
        if arguments.data:
            checks += [
                *same_rows(arguments.data / "bibtex", Path(folder)),
                *stratified(arguments.data / "bibtex", Path(folder)),
            ]
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of each text file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with bibtex/")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ── a large file ────────────────────────────────────────────────────────────────────────────────────────────────────


def large_file(folder: Path, gigabytes: float, repeats: int) -> list[Check]:
    texts = [folder / "rows.libsvm", folder / "rows.csv"]
    for text in texts:
        child(["--make", str(text), "--gigabytes", str(gigabytes)])
    print(", ".join(f"{text.name} {text.stat().st_size / 1e9:.2f} GB" for text in texts), flush=True)
    reads, conversions, peaks = [], [], []
    for _ in range(repeats):
        reads.append(child(["--read", str(texts[1])]))
        started = time.perf_counter()
        peak = peak_of_command(["convert", texts[0], "--out", folder / "out", "--overwrite"])
        conversions.append(time.perf_counter() - started)
        peaks.append(peak)
        print(
            f"  polars {reads[-1]:.1f} s, convert {conversions[-1]:.1f} s, peak {(peak or 0) / 2**20:,.0f} MiB",
            flush=True,
        )
    if None in peaks:
        return [("convert of the large file", False)]
    sizes = [text.stat().st_size for text in texts]
    ratio = (sizes[0] / median(conversions)) / (sizes[1] / median(reads))
    peak = max(peak for peak in peaks if peak is not None)
    return [
        (f"bytes a second of convert ÷ polars are {ratio:.2f}, at least {LEAST_RATIO}", ratio >= LEAST_RATIO),
        (f"peak is {peak / 2**20:,.0f} MiB, at most {MOST_BYTES >> 20:,}", peak <= MOST_BYTES),
    ]


def child(arguments: list[str]) -> float:
    """Seconds of this script in a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, __file__, *arguments], check=True, env=os.environ | {"POLARS_MAX_THREADS": "2"})
    return time.perf_counter() - started


def read_csv(path: Path) -> None:
    import polars as pl

    pl.read_csv(path)


def numbers() -> tuple[Any, Any]:
    """Indices [n, 30] that rise along a row, and values of four digits."""
    import numpy as np

    random = np.random.default_rng(0)
    indices = np.sort(random.integers(1, 100_000, (BLOCK_ROWS, 30)), axis=1) + np.arange(30)
    return indices, random.random((BLOCK_ROWS, 30)).round(4)


def make_libsvm(path: Path, gigabytes: float) -> None:
    lines = []
    for row, pairs in enumerate(zip(*numbers(), strict=True)):
        texts = (f"{index}:{value:.4f}" for index, value in zip(*pairs, strict=True))
        lines.append(f"{row % 2} {' '.join(texts)}\n")
    repeated(path, "".join(lines), gigabytes)


def make_csv(path: Path, gigabytes: float) -> None:
    lines = []
    for row, pairs in enumerate(zip(*numbers(), strict=True)):
        texts = (f"{index},{value:.4f}" for index, value in zip(*pairs, strict=True))
        lines.append(f"{row % 2},{','.join(texts)}\n")
    names = ["label", *(f"{kind}{column}" for column in range(30) for kind in ("index", "value"))]
    repeated(path, "".join(lines), gigabytes, ",".join(names) + "\n")


def repeated(path: Path, block: str, gigabytes: float, head: str = "") -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        while file.tell() < gigabytes * 1e9:
            file.write(block)


MAKERS: dict[str, Callable[[Path, float], None]] = {".libsvm": make_libsvm, ".csv": make_csv}


# ── bibtex ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def same_rows(bibtex: Path, folder: Path) -> list[Check]:
    """The Parquet files beside conversions of the ARFF, and of libsvm and XMC text written from it."""
    import numpy as np
    import pyarrow.parquet as pq

    import mlclf

    checks = []
    for part in ("train", "test"):
        expected = pq.read_table(bibtex / f"{part}.parquet")
        arff, xml = bibtex / "raw" / f"bibtex-{part}.arff", bibtex / "raw" / "bibtex.xml"
        found = pq.read_table(mlclf.convert(arff, folder / f"{part}-arff", labels_xml=xml).folder)
        same = sorted(found.column_names) == sorted(expected.column_names)
        same = same and found.select(expected.column_names).to_pydict() == expected.to_pydict()
        checks.append((f"bibtex {part}: ARFF gives the rows and labels of Parquet", same))
        names = expected.column_names[2:]
        labels = np.stack([expected[name].to_numpy() for name in names], 1)
        for kind, first in (("libsvm", 1), ("xmc", 0)):
            text = folder / f"{part}.{kind}"
            lines = [f"{expected.num_rows} 1836 {len(names)}"] if kind == "xmc" else []
            for indices, values, row in zip(*(expected[index].to_pylist() for index in (0, 1)), labels, strict=True):
                pairs = (f"{index + first}:{value:g}" for index, value in zip(indices, values, strict=True))
                lines.append(" ".join([",".join(map(str, np.flatnonzero(row))), *pairs]))
            text.write_text("\n".join(lines) + "\n")
            found = pq.read_table(mlclf.convert(text, folder / f"{part}-{kind}").folder)
            same = found.select([0, 1]).to_pydict() == expected.select([0, 1]).to_pydict()
            same = same and found["labels"].to_pylist() == [[str(tag) for tag in np.flatnonzero(row)] for row in labels]
            checks.append((f"bibtex {part}: {kind} text gives the same rows and labels", same))
    return checks


def stratified(bibtex: Path, folder: Path) -> list[Check]:
    """Splits of 80/10/10 by hash and stratified, for several seeds."""
    import mlclf

    data = [str(bibtex / "train.parquet"), str(bibtex / "test.parquet")]
    deviations: dict[str, list[float]] = {"hash": [], "stratified": []}
    missing = 0
    for seed in range(SEEDS):
        for by, found in deviations.items():
            wanted = ["label_*"] if by == "stratified" else []
            mlclf.split(data, folder / "split", [0.8, 0.1, 0.1], by, labels=wanted, seed=seed, overwrite=True)
            deviation, absent = shares(folder / "split")
            found.append(deviation)
            missing += absent if by == "stratified" else 0
    by_hash, by_labels = (sum(found) / SEEDS for found in deviations.values())
    ratio = by_labels / by_hash
    text = f"deviation {by_labels:.4f} stratified, {by_hash:.4f} by hash: {ratio:.2f} of it, at most {MOST_DEVIATION}"
    return [
        (f"bibtex split: {missing} labels of at least {LEAST_POSITIVES} positives miss a part, none may", missing == 0),
        (f"bibtex split: {text}", ratio <= MOST_DEVIATION),
    ]


def shares(folder: Path) -> tuple[float, int]:
    """Mean relative deviation of labels' shares in parts, and how many frequent labels miss a part."""
    import numpy as np
    import pyarrow.parquet as pq

    parts = [pq.read_table(folder / part) for part in ("train", "valid", "test")]
    names = [name for name in parts[0].column_names if name.startswith("label_")]
    labels = [np.stack([part[name].to_numpy() for name in names], 1) for part in parts]
    positives = sum(part.sum(0, dtype=np.int64) for part in labels)
    share = positives / sum(map(len, labels))
    deviation = float(np.mean([np.abs(part.mean(0) - share) / share for part in labels]))
    absent = sum(int(((part.sum(0) == 0) & (positives >= LEAST_POSITIVES)).sum()) for part in labels)
    return deviation, absent


if __name__ == "__main__":
    sys.exit(main())
