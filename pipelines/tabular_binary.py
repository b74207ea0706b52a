"""A table of mixed columns, from raw CSV to decisions, on one page: copy it and change what is yours.

    python pipelines/tabular_binary.py                                            # made data, seconds
    python pipelines/tabular_binary.py --config configs/adult.yaml --data adult   # train.csv and test.csv of your own

The configuration names the label and the settings; it is also what `mlclf fit --config` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

import mlclf
from mlclf.config import load_run_file
from mlclf.files import committed

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "adult.yaml"
BLOCK_BYTES = 16 << 20  # of CSV read at a time: a row group
SHARD_ROWS = 1_000_000
CALIBRATION_EVERY = 6  # each sixth row of train.csv is kept for the thresholds, so that nothing is tuned on seen rows


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    config = load_run_file(arguments.config)
    objective = config.settings.thresholds.objective

    # ── raw source → shards ────────────────────────────────────────────────────────────────────────────────────────
    raw = arguments.data or make_raw(out / "raw")
    shards = out / "shards"
    write_shards(raw / "train.csv", {"train": False, "calibration": True}, shards)
    write_shards(raw / "test.csv", {"test": None}, shards)

    # ── fit: statistics, l2 and stopping by held-out rows, calibrated probabilities ────────────────────────────────
    run = mlclf.fit(
        str(shards / "train"),
        config.arguments.labels or (),
        out / "run",
        exclude=config.arguments.exclude or (),
        settings=dotted(config.settings.model_dump(exclude_unset=True)),
        overwrite=True,
    )

    # ── calibrate: the threshold for the objective, on rows that no step has used ──────────────────────────────────
    thresholds = run.calibrate(str(shards / "calibration"), objective)

    # ── evaluate ───────────────────────────────────────────────────────────────────────────────────────────────────
    metrics = run.evaluate(str(shards / "test"), out / "metrics.json")

    # ── predict ────────────────────────────────────────────────────────────────────────────────────────────────────
    scores = run.predict(str(shards / "test"), out / "scores", overwrite=True)

    # ── report ─────────────────────────────────────────────────────────────────────────────────────────────────────
    for line in report_lines(metrics, thresholds):
        print(line)
    print(f"run {run.path}, metrics {out / 'metrics.json'}, scores {scores}")
    return metrics


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From raw CSV to decisions.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="labels and settings")
    parser.add_argument("--data", type=Path, help="folder with train.csv and test.csv (default: made data)")
    parser.add_argument("--out", type=Path, default=Path("runs/tabular_binary"), help="folder for all that is written")
    return parser.parse_args(argv)


def dotted(settings: dict[str, dict[str, Any]]) -> dict[str, object]:
    """{"optimizer": {"l2": 0.1}} → {"optimizer.l2": 0.1}."""
    return {f"{section}.{name}": value for section, values in settings.items() for name, value in values.items()}


def write_shards(raw: Path, parts: dict[str, bool | None], folder: Path) -> None:
    """Stream a CSV file into Parquet shards with page checksums, one folder for each part.

    `parts` says which rows a part gets: those for calibration (True), the others (False), or all (None).
    """
    first_row, shard = 0, 0
    missing = csv.ConvertOptions(strings_can_be_null=True)
    reader = csv.open_csv(raw, csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=missing)
    batches = iter(reader)
    batch = next(batches, None)
    while batch is not None:
        shard_end = first_row + SHARD_ROWS
        with ExitStack() as stack:
            writers = {name: open_writer(stack, folder / name / f"part-{shard:05d}.parquet", reader) for name in parts}
            while batch is not None and first_row < shard_end:
                chosen = np.arange(first_row, first_row + len(batch)) % CALIBRATION_EVERY == 0
                for name, wants in parts.items():
                    writers[name].write_batch(batch if wants is None else batch.filter(pa.array(chosen == wants)))
                first_row += len(batch)
                batch = next(batches, None)
        shard += 1


def open_writer(stack: ExitStack, path: Path, reader: csv.CSVStreamingReader) -> pq.ParquetWriter:
    """Open a file that appears when the stack closes without an error."""
    temporary = stack.enter_context(committed(path))
    return stack.enter_context(pq.ParquetWriter(temporary, reader.schema, write_page_checksum=True))


def report_lines(metrics: dict[str, Any], thresholds: dict[str, Any]) -> list[str]:
    numbers = metrics["macro"] | metrics["calibration"] | {"gain": metrics["gain"]}
    shown = ("auroc", "average_precision", "gain", "observed_expected")
    lines = [f"{metrics['rows']:,} test rows: {', '.join(f'{name} {numbers[name]:.4f}' for name in shown)}"]
    for name, tuned in thresholds["labels"].items():
        found = metrics["labels"][name]
        lines.append(f"{name}: threshold {tuned['threshold']} for {thresholds['objective']} ({tuned['status']})")
        for title, at in (("there", ""), ("at 0.5", "_at_half")):
            values = {what: found[what + at] for what in ("precision", "recall", "f1")}
            cells = (f"{what} {'undefined' if value is None else f'{value:.3f}'}" for what, value in values.items())
            lines.append(f"  {title:7} {', '.join(cells)}")
    return lines


def make_raw(folder: Path) -> Path:
    """Write a small train.csv and test.csv that look like a census."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, seed in (("train", 6_000, 1), ("test", 3_000, 2)):
        random = np.random.default_rng(seed)
        age, hours = random.integers(17, 80, rows), random.normal(40, 11, rows).clip(1, 99).round()
        education, work = random.integers(1, 17, rows), random.integers(0, 4, rows)
        gain = np.where(random.random(rows) < 0.08, random.lognormal(8.5, 1, rows).round(), 0)
        logits = 0.03 * (age - 40) + 0.35 * (education - 10) + 0.03 * (hours - 40) + 0.5 * (work == 1) + gain / 5000
        table = {
            "age": pa.array(age, mask=random.random(rows) < 0.02),
            "workclass": pa.array(np.array(["Private", "Self-emp", "State-gov", ""])[work]),
            "education_num": pa.array(education),
            "hours_per_week": pa.array(hours),
            "capital_gain": pa.array(gain),
            "label_over_50k": pa.array((random.random(rows) < 1 / (1 + np.exp(1.6 - logits))).astype(np.int8)),
        }
        csv.write_csv(pa.table(table), folder / f"{name}.csv")
    return folder


if __name__ == "__main__":
    main()
