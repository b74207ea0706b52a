"""A large table of mixed columns and a rare outcome, from raw files to decisions: copy this page, change what is yours.

    python pipelines/tabular_binary.py                                                    # made data, seconds
    python pipelines/tabular_binary.py --config configs/adult.yaml --data train.csv --test test.csv

The configuration names the label, the columns that are no inputs, the objective and any setting, as for
`mlclf fit --config`. Every step streams: memory has a bound, whatever the size of the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

import mlclf
from mlclf.files import committed

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "deliveries.yaml"
REPORTED = ("auroc", "average_precision", "gain", "observed_expected")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    train, by, hours = arguments.data, arguments.by, arguments.hour
    if not train:
        train, by, hours = [make_raw(out / "raw.csv")], "time:day", ["planned"]

    # ── raw source → shards: Parquet, columns of your own, parts of which each has one purpose ─────────────────────
    table = derived(converted(train, out / "table"), out / "derived", hours)
    if arguments.test:
        test = derived(converted(arguments.test, out / "test_table"), out / "test", hours)
        mlclf.split(str(table), out / "parts", [0.85, 0.15], by, names=["train", "calibration"], overwrite=True)
    else:
        test, parts = out / "parts" / "test", ["train", "calibration", "test"]
        mlclf.split(str(table), out / "parts", [0.65, 0.15, 0.2], by, names=parts, overwrite=True)

    # ── fit: statistics, l2 and stopping by held-out rows, calibrated probabilities ────────────────────────────────
    run = mlclf.fit(str(out / "parts" / "train"), out=out / "run", config=arguments.config, overwrite=True)

    # ── calibrate: the threshold for the objective, on rows that no step has used; imbalance needs nothing else ────
    thresholds = run.calibrate(str(out / "parts" / "calibration"), run.settings.thresholds.objective)

    # ── evaluate ───────────────────────────────────────────────────────────────────────────────────────────────────
    metrics = run.evaluate(str(test), out / "metrics.json")

    # ── predict ────────────────────────────────────────────────────────────────────────────────────────────────────
    scores = run.predict(str(test), out / "scores", overwrite=True)

    # ── report ─────────────────────────────────────────────────────────────────────────────────────────────────────
    for line in report_lines(metrics, thresholds):
        print(line)
    print(f"run {run.path}, metrics {out / 'metrics.json'}, scores {scores}")
    return metrics


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From raw files to decisions.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="label, columns and settings")
    parser.add_argument("--data", type=Path, nargs="+", help="CSV, TSV, ARFF, Arrow or Parquet (default: made data)")
    parser.add_argument("--test", type=Path, nargs="+", help="files to test on (default: a fifth of --data)")
    parser.add_argument("--by", default="hash", help="how rows are split: hash, time:COL or group:COL")
    parser.add_argument("--hour", nargs="*", default=[], metavar="COL", help="clock times such as 1745: adds the hour")
    parser.add_argument("--out", type=Path, default=Path("runs/tabular_binary"), help="folder for all that is written")
    return parser.parse_args(argv)


def converted(files: Sequence[Path], folder: Path) -> Path:
    """Parquet of the files; a folder of Parquet stays where it is."""
    return files[0] if files[0].is_dir() else mlclf.convert(files, folder, overwrite=True).folder


def derived(source: Path, folder: Path, hours: Sequence[str]) -> Path:
    """Write the shards with columns of your own: here the hour of clock times, whose effect is no straight line."""
    if not hours:
        return source
    for shard in sorted(source.rglob("*.parquet")):
        file = pq.ParquetFile(shard)
        schema = file.schema_arrow
        for name in hours:
            schema = schema.append(pa.field(f"{name}_hour", pa.string()))
        with (
            committed(folder / shard.relative_to(source)) as temporary,
            pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
        ):
            for batch in file.iter_batches():
                found = [pc.floor(pc.divide(pc.cast(batch[name], pa.float64()), 100)) for name in hours]
                texts = [pc.cast(pc.cast(hour, pa.int64()), pa.string()) for hour in found]
                writer.write_batch(pa.record_batch([*batch.columns, *texts], schema=schema))
    return folder


def report_lines(metrics: dict[str, Any], thresholds: dict[str, Any]) -> list[str]:
    numbers = metrics["macro"] | metrics["calibration"] | {"gain": metrics["gain"]}
    lines = [f"{metrics['rows']:,} test rows: {', '.join(f'{name} {numbers[name]:.4f}' for name in REPORTED)}"]
    for name, tuned in thresholds["labels"].items():
        found = metrics["labels"][name]
        lines.append(f"{name}: threshold {tuned['threshold']} for {thresholds['objective']} ({tuned['status']})")
        for title, at in (("there", ""), ("at 0.5", "_at_half")):
            values = {what: found[what + at] for what in ("precision", "recall", "f1")}
            cells = (f"{what} {'undefined' if value is None else f'{value:.3f}'}" for what, value in values.items())
            lines.append(f"  {title:7} {', '.join(cells)}")
    return lines


def make_raw(path: Path, rows: int = 20_000) -> Path:
    """Write a CSV file of deliveries in the order of days, one in six late."""
    random = np.random.default_rng(1)
    day, hour, minute = (
        np.sort(random.integers(0, 365, rows)),
        random.integers(6, 20, rows),
        random.integers(0, 60, rows),
    )
    depot, weight = random.choice(["north", "south", "east"], rows), random.lognormal(1, 0.8, rows).round(2)
    rain, stops = random.gamma(0.4, 3, rows).round(1), random.integers(1, 30, rows)
    rush = np.abs(hour - 13) > 4
    logits = -3.3 + 0.9 * rush + 0.8 * (depot == "south") + 0.05 * stops + 0.12 * rain + 0.0005 * day
    table = {
        "day": day,
        "planned": hour * 100 + minute,
        "depot": pa.array(depot, mask=random.random(rows) < 0.1),
        "kilograms": pa.array(weight, mask=random.random(rows) < 0.05),
        "rain_mm": rain,
        "stops": stops,
        "label_late": (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    csv.write_csv(pa.table(table), path)
    return path


if __name__ == "__main__":
    main()
