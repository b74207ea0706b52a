"""Many independent tags for texts or sparse rows, from raw files to the best tags of each row: copy this page.

    python pipelines/tagging.py                                                           # made posts, seconds
    python pipelines/tagging.py --config configs/bibtex.yaml --data bibtex/train --test bibtex/test

The configuration names the labels, which columns are text, and the objective, as for `mlclf fit --config`. Labels are
one list column of tags, or a column each.
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

DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "posts.yaml"
SHOWN_ROWS, SHOWN_TAGS = 3, 5


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    out: Path = arguments.out
    raw, tags = arguments.data or [make_raw(out / "posts.csv")], arguments.tags or (None if arguments.data else "tags")

    # ── raw source → shards: Parquet, tags as lists ────────────────────────────────────────────────────────────────
    train = listed(converted(raw, out / "table"), out / "listed", tags, arguments.separator)
    if arguments.test:
        test = listed(converted(arguments.test, out / "test_table"), out / "test", tags, arguments.separator)
    else:
        mlclf.split(str(train), out / "parts", [0.8, 0.2], overwrite=True)
        train, test = out / "parts" / "train", out / "parts" / "test"

    # ── fit: words or sparse values, an l2 for each label, calibrated probabilities, all by out-of-fold rows ───────
    run = mlclf.fit(str(train), out=out / "run", config=arguments.config, overwrite=True)

    # ── calibrate: another objective costs a second, for the run keeps what the out-of-fold scores were ────────────
    objective = run.settings.thresholds.objective
    run.calibrate((), "micro_f1")
    one_cut = run.evaluate(str(test))
    run.calibrate((), objective)

    # ── evaluate ───────────────────────────────────────────────────────────────────────────────────────────────────
    metrics = run.evaluate(str(test), out / "metrics.json")

    # ── predict: the best tags of each row ─────────────────────────────────────────────────────────────────────────
    tagged = run.predict(str(test), out / "tagged", SHOWN_TAGS, overwrite=True)

    # ── report ─────────────────────────────────────────────────────────────────────────────────────────────────────
    for line in report_lines(metrics, one_cut, objective, tagged):
        print(line)
    print(f"run {run.path}, metrics {out / 'metrics.json'}, tags {tagged}")
    return metrics


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From raw files to tags.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="labels, columns and settings")
    parser.add_argument("--data", type=Path, nargs="+", help="files, or a folder of Parquet (default: made posts)")
    parser.add_argument("--test", type=Path, nargs="+", help="the same, to test on (default: a fifth of --data)")
    parser.add_argument("--tags", metavar="COL", help="a text column of several tags, to be made a list")
    parser.add_argument("--separator", default=",", help="between tags")
    parser.add_argument("--out", type=Path, default=Path("runs/tagging"), help="folder for all that is written")
    return parser.parse_args(argv)


def converted(files: Sequence[Path], folder: Path) -> Path:
    """Parquet of the files; a folder of Parquet stays where it is."""
    return files[0] if files[0].is_dir() else mlclf.convert(files, folder, overwrite=True).folder


def listed(source: Path, folder: Path, column: str | None, separator: str) -> Path:
    """Write the shards with the tags of a text column as lists; a row without text has no tag."""
    if column is None:
        return source
    for shard in sorted(source.rglob("*.parquet")):
        file = pq.ParquetFile(shard)
        place = file.schema_arrow.get_field_index(column)
        schema = file.schema_arrow.set(place, pa.field(column, pa.list_(pa.string())))
        with (
            committed(folder / shard.relative_to(source)) as temporary,
            pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
        ):
            for batch in file.iter_batches():
                texts = pc.cast(batch[column], pa.string())
                lists = pc.split_pattern(texts, separator)
                empty = pa.scalar([], pa.list_(pa.string()))
                lists = pc.if_else(pc.equal(pc.fill_null(texts, ""), ""), empty, lists)
                writer.write_batch(pa.record_batch(batch.set_column(place, schema.field(place), lists)))
    return folder


def report_lines(metrics: dict[str, Any], one_cut: dict[str, Any], objective: str, tagged: Path) -> list[str]:
    macro, ranking = metrics["macro"], metrics["ranking"]
    rows, labels, ap = metrics["rows"], len(metrics["labels"]), macro["average_precision"]
    lines = [f"{rows:,} test rows, {labels} labels: macro AUROC {macro['auroc']:.4f}, macro AP {ap:.4f}"]
    lines.append(f"  best tag right in {ranking['p_at_1']:.1%} of rows, best three {ranking['p_at_3']:.1%}")
    for name, found in ((objective, metrics), ("micro_f1", one_cut)):
        lines.append(
            f"  thresholds for {name:9} macro F1 {found['macro_all']['f1']:.4f}, micro F1 {found['micro']['f1']:.4f}"
        )
    best = pq.ParquetFile(sorted(tagged.glob("*.parquet"))[0]).iter_batches(SHOWN_ROWS)
    for row in next(best).to_pylist():
        pairs = zip(row["top_labels"], row["top_scores"], strict=True)
        lines.append("  " + ", ".join(f"{tag} {score:.2f}" for tag, score in pairs))
    return lines


def make_raw(path: Path, rows: int = 3_000, tags: int = 12) -> Path:
    """Write a CSV file of posts; those with a tag use its words more often than others, and each tag is rarer."""
    random = np.random.default_rng(0)
    carried = random.random((rows, tags)) < 0.4 / np.arange(1, tags + 1) ** 0.8
    posts = []
    for row in carried:
        topics = [*np.flatnonzero(row), *random.integers(0, tags, 3)]  # three that the post only mentions
        words = [f"word{number}" for number in random.zipf(1.5, 12) % 2_000]
        words += [f"topic{topic}x{number}" for topic in topics for number in random.integers(0, 10, 2)]
        posts.append(" ".join(random.permutation(words)))
    names = [",".join(f"tag-{tag:02}" for tag in np.flatnonzero(row)) for row in carried]
    path.parent.mkdir(parents=True, exist_ok=True)
    csv.write_csv(pa.table({"text": posts, "tags": names}), path)
    return path


if __name__ == "__main__":
    main()
