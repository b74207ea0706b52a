"""Thresholds for the scores of a model that was made elsewhere, from raw scores to decisions: copy this page.

    python pipelines/threshold_calibration.py                                             # made months, seconds
    python pipelines/threshold_calibration.py --config configs/yeast.yaml --data train.parquet --test test.parquet

The model here is scikit-learn's gradient boosting; any that writes a column `score_X` for each label X will do. The
configuration names the labels and the objective.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier

import mlclf
from mlclf.config.loading import load_run_file
from mlclf.files import committed

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "alerts.yaml"
PRECISION, CONFIDENCE = "precision:0.7", 0.9


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    columns, settings = load_run_file(arguments.config)
    objective, labels = settings.thresholds.objective, columns.labels or ()

    # ── raw source → shards: rows for the model, for last month's thresholds, for this month's, and to test on ─────
    table = converted(arguments.data or [make_raw(out / "raw.parquet")], out / "table")
    names, fractions = ["model", "last_month", "this_month", "test"], [0.4, 0.2, 0.2, 0.2]
    if arguments.test:
        names, fractions = names[:3], [0.5, 0.2, 0.3]
    parts = mlclf.split(str(table), out / "parts", fractions, arguments.by, names=names, overwrite=True).folder
    test_rows = converted(arguments.test, out / "test_table") if arguments.test else parts / "test"

    # ── fit: the other model, and the scores that it writes ────────────────────────────────────────────────────────
    inputs, models = fit_models(parts / "model", labels, columns.exclude or ())
    last_month = write_scores(inputs, models, parts / "last_month", out / "scores" / "last_month.parquet")
    this_month = write_scores(inputs, models, parts / "this_month", out / "scores" / "this_month.parquet")
    test = write_scores(inputs, models, test_rows, out / "scores" / "test.parquet")

    # ── calibrate: this month's thresholds, shrunk toward last month's; and precision that holds with confidence ───
    kind = {"score_kind": "probability"}
    old, new, strict = out / "last_month.json", out / "thresholds.json", out / "precision.json"
    mlclf.calibrate_scores(last_month, objective, old, **kind)
    mlclf.calibrate_scores(this_month, objective, new, prior=old, **kind)
    promised = mlclf.calibrate_scores(this_month, PRECISION, strict, confidence=CONFIDENCE, **kind)

    # ── evaluate ───────────────────────────────────────────────────────────────────────────────────────────────────
    half = mlclf.evaluate_scores(test, None, **kind)
    metrics = mlclf.evaluate_scores(test, new, out / "metrics.json", **kind)
    kept = mlclf.evaluate_scores(test, strict, **kind)

    # ── predict: decisions, and how many change ────────────────────────────────────────────────────────────────────
    decisions = mlclf.apply_thresholds(test, new, out / "decisions", overwrite=True)
    changes = mlclf.diff_thresholds(old, new, test)

    # ── report ─────────────────────────────────────────────────────────────────────────────────────────────────────
    print(f"{metrics['rows']:,} test rows, {len(metrics['labels'])} labels, thresholds for {objective}")
    for title, found in (("at 0.5", half), ("tuned", metrics)):
        print(f"  {title:7} macro F1 {found['macro_all']['f1']:.4f}, micro F1 {found['micro']['f1']:.4f}")
    print("\n".join(promise_lines(promised, kept)))
    print(f"  {changes['changed']:,} decisions ({changes['share']:.2%}) differ from those by last month's thresholds")
    print(f"thresholds {new}, decisions {decisions}")
    return metrics


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From raw scores to decisions.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="labels, columns, objective")
    parser.add_argument("--data", type=Path, nargs="+", help="files, or a folder of Parquet (default: made data)")
    parser.add_argument("--test", type=Path, nargs="+", help="files to test on (default: a fifth of --data)")
    parser.add_argument("--by", default="hash", help="how rows are split: hash, time:COL or group:COL")
    parser.add_argument("--out", type=Path, default=Path("runs/threshold_calibration"), help="folder for all files")
    return parser.parse_args(argv)


def converted(files: Sequence[Path], folder: Path) -> Path:
    """Parquet of the files; a folder of Parquet stays where it is."""
    return files[0] if files[0].is_dir() else mlclf.convert(files, folder, overwrite=True).folder


def fit_models(folder: Path, labels: Sequence[str], exclude: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The names of the inputs, all other columns, and a model for each label."""
    table = pq.read_table(folder)
    names = [name for name in table.column_names if any(fnmatch(name, pattern) for pattern in labels)]
    inputs = [name for name in table.column_names if name not in names and name not in exclude]
    boosted = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=0)
    return inputs, {name: clone(boosted).fit(matrix(table, inputs), table[name].to_numpy()) for name in names}


def matrix(table: pa.Table, inputs: Sequence[str]) -> np.ndarray:
    return np.column_stack([table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in inputs])


def write_scores(inputs: Sequence[str], models: dict[str, Any], folder: Path, path: Path) -> str:
    """Write `score_X` beside `X` for each label X, shard by shard."""
    schema = pa.schema([*((f"score_{name}", pa.float32()) for name in models), *((name, pa.int8()) for name in models)])
    with committed(path) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for shard in sorted(folder.glob("*.parquet")):
            for batch in pq.ParquetFile(shard).iter_batches():
                table = pa.table(batch)
                rows = matrix(table, inputs)
                scores = [pa.array(model.predict_proba(rows)[:, 1].astype(np.float32)) for model in models.values()]
                writer.write_table(
                    pa.table([*scores, *(table[name].cast(pa.int8()) for name in models)], schema=schema)
                )
    return str(path)


def promise_lines(promised: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    """What was promised of each label, and what came of it on the test rows."""
    lines = [f"  {promised['objective']} with confidence {promised['confidence']}:"]
    for name, tuned in promised["labels"].items():
        found = kept["labels"][name]
        numbers = (
            f"precision {found['precision']:.3f}, recall {found['recall']:.3f}" if found["precision"] else "no alert"
        )
        lines.append(f"    {name:12} {tuned['status']:12} {numbers}")
    return lines


def make_raw(path: Path, rows: int = 10_000, labels: int = 6) -> Path:
    """Measurements of machines with alarms, each rarer than the last."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((rows, 8))
    logits = (
        inputs @ random.standard_normal((8, labels)) * 1.5 + np.abs(inputs[:, :labels]) * 2 - np.linspace(3, 7, labels)
    )
    alarms = random.random((rows, labels)) < 1 / (1 + np.exp(-logits))
    table = {f"sensor_{index}": inputs[:, index] for index in range(8)}
    table |= {f"label_alarm_{index}": alarms[:, index].astype(np.int8) for index in range(labels)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


if __name__ == "__main__":
    main()
