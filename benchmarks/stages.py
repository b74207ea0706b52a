"""What each stage of the loader and the step of training cost a row, one alone on one thread, beside whole epochs.

    python benchmarks/stages.py [--rows 1000000] [--data plain,mixed,tagged] [--repeats 3] [--folder DIR]

A process of its own runs one stage after the other on every unit of the data; printed are medians over the units, in
nanoseconds a row. Whole epochs run by `peers.py`: of the files, and of the cache, in both cases the second epoch, when
all memory has been touched. Their wall-clock nanoseconds a row should not be more than those of their stages one after
the other, which is checked with a fifth to spare for what no stage is: waiting for the first rows, and going through
Python. How much less they are is what threads gain. Exits 1 when an epoch takes longer; the last line is 'N passed, N
failed'.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from checks import Check, concluded
from loader import made, measured, names_in

DATA = ("plain", "checksums", "mixed", "tagged")
FROM_FILES = ("decode", "numbers", "ids", "labels", "order", "gather", "step")
FROM_CACHE = ("cache", "order", "gather", "step")
STAGES = {
    "scan": "pyarrow decodes and throws away",
    "decode": "our reading of the same columns",
    "numbers": "scaled, missing ones filled, made row-major",
    "ids": "words and tokens looked up",
    "labels": "bits or tags to uint8",
    "order": "of the rows of a slab",
    "cache": "an encoded slab read from the cache",
    "gather": "a batch out of all slabs",
    "step": "forward, backward and SGD, benchmarks/fused.py",
    "step of autograd": "the same of PyTorch, for comparison",
}
MOST_OF_SUM = 1.2
STEPS = 30
"""Batches that each step is timed on, of every filling of the pool: with 1,000 tags a step is slow."""

Result = TypeVar("Result")


def main() -> int:
    arguments = parse_arguments()
    if arguments.stages:
        print(json.dumps(stages_of(arguments.stages)))
        return 0
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="stages-", dir=arguments.folder) as temporary:
        for data in arguments.data:
            folder = made(data, arguments.folder or Path(temporary), arguments.rows)
            checks += compared(data, folder, Path(temporary) / f"cache-{data}", arguments)
            print(flush=True)
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What each stage of the loader costs a row, beside whole epochs.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows, ten times those of tagged data")
    parser.add_argument("--data", default="plain,mixed,tagged", help=f"of {', '.join(DATA)}, with commas between them")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are printed")
    parser.add_argument("--folder", type=Path, help="where the data is made and kept (default: a temporary folder)")
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.data = names_in(arguments.data, "data set", DATA, parser)
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def compared(data: str, folder: Path, cache: Path, arguments: argparse.Namespace) -> list[Check]:
    """Measure stages and epochs in turns, print their medians, and check the epochs."""
    rounds: list[dict[str, float]] = []
    epochs: dict[str, list[float]] = {"files": [], "cache": []}
    for _ in range(arguments.repeats):
        command = [sys.executable, __file__, "--stages", str(folder)]
        rounds.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
        for source, options in (("files", []), ("cache", ["--cache", str(cache)])):
            found = measured("mlclf", folder, ["--fused", "--epochs", "2", *options])
            if found.error:
                raise SystemExit(found.error)
            epochs[source].append(1e9 / found.rates[1])
        shutil.rmtree(cache)
    costs = {name: median(found[name] for found in rounds) for name in STAGES}
    for name, meaning in STAGES.items():
        print(f"  {name:18}{costs[name]:>9,.0f} ns  {meaning}")
    checks = []
    for source, stages in (("files", FROM_FILES), ("cache", FROM_CACHE)):
        total, wall = sum(costs[name] for name in stages), median(epochs[source])
        print(f"  epoch of the {source}: {wall:,.0f} ns a row, {1e9 / wall:,.0f} rows/s; its stages {total:,.0f} ns")
        checks.append(
            (
                f"{data}: epoch of the {source} ÷ its stages {wall / total:.2f}, at most {MOST_OF_SUM}",
                wall <= MOST_OF_SUM * total,
            )
        )
    return checks


def stages_of(folder: Path) -> dict[str, float]:
    """Nanoseconds a row of each stage, alone on one thread: medians over the units, or over the batches."""
    import gc

    import pyarrow as pa
    import torch
    from peers import BATCH_ROWS, our_labels

    import mlclf

    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    loader = mlclf.ParquetLoader(str(folder), labels=our_labels(folder), batch_rows=BATCH_ROWS, threads=1)
    gc.collect()
    gc.freeze()
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        for slabs in filled_pools(loader._stream, Path(cache), clock):
            draw_and_step(loader, slabs, clock)
    return clock.medians()


class Clock:
    """Seconds a row by stage, one number for each call."""

    def __init__(self) -> None:
        self._costs: defaultdict[str, list[float]] = defaultdict(list)

    def time(self, stage: str, rows: int, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call `work` and keep the time that it took."""
        started = time.perf_counter()
        result = work(*arguments)
        self._costs[stage].append((time.perf_counter() - started) / rows)
        return result

    def medians(self) -> dict[str, float]:
        """Nanoseconds a row of each stage."""
        return {stage: median(costs) * 1e9 for stage, costs in self._costs.items()}


def filled_pools(stream: Any, cache_folder: Path, clock: Clock) -> Iterator[list[Any]]:
    """Lists of slabs that fill the pool, each slab after all that is done on a decode thread."""
    import numpy as np
    import pyarrow.parquet as pq

    from mlclf.data.parquet.decoding import decode_unit
    from mlclf.data.parquet.spans import spans_of
    from mlclf.data.streaming.slab_cache import SlabCache

    order, encoder = stream.order, stream.source.reading.encoder
    plan, pool, columns = order.plan, stream.source.pool(order), list(encoder.columns)
    cache, slabs = SlabCache(cache_folder, "stages"), []
    for index, unit in enumerate(plan.units):
        with pq.ParquetFile(plan.shards[unit.shard].source.path) as file:
            clock.time("scan", unit.rows, file.read_row_groups, list(unit.groups), columns, None, False)
        pieces = decode_unit(plan, unit, columns, order.shape.rows_of(unit))
        for span in spans_of(index, unit, order.shape.rows_of(unit)):
            _, table = clock.time("decode", span.rows, next, pieces)
            if (slab := pool.acquire()) is None:
                yield slabs
                for used_up in slabs:
                    pool.release(used_up)
                slabs = []
                slab = pool.acquire()
            encoder.encode(np.arange(span.first_row, span.first_row + span.rows), table, "", slab)
            clock.time("numbers", span.rows, encoder.features.encode_dense, table, "", slab.arrays["dense"])
            clock.time("ids", span.rows, encoder._encode_tokens, table, "", slab)
            clock.time("labels", span.rows, encoder.labels.encode, table, "", slab.arrays["codes"][: span.rows])
            cache.write(span, slab)
            if not clock.time("cache", span.rows, cache.read, span, slab):
                raise SystemExit(f"{cache_folder} cannot hold the cache")
            rows = np.arange(slab.base, slab.base + slab.rows)
            slab.order = clock.time("order", span.rows, order.of_span, rows, None, span.first_row)
            slabs.append(slab)
    yield slabs


def draw_and_step(loader: Any, slabs: list[Any], clock: Clock) -> None:
    """Gather the rows of some slabs, an equal share of each in every batch, and train on the first of them."""
    from fused import linear_bce
    from peers import BATCH_ROWS, our_batches, training_step

    share, pool = BATCH_ROWS // len(slabs), loader._stream.source.pool(loader._stream.order)
    vocabulary = loader.features.vocabulary_size
    steps = {"step": training_step(vocabulary, linear_bce), "step of autograd": training_step(vocabulary)}
    for step in steps.values():
        step(*next(our_batches([pool.gather([(slabs[0], slabs[0].order[:share])])])))
    for start in range(0, min(slab.rows for slab in slabs), share):
        picks = [(slab, slab.order[start : start + share]) for slab in slabs]
        rows = sum(len(pick) for _, pick in picks)
        batch = clock.time("gather", rows, pool.gather, picks)
        if start < STEPS * share:
            for name, step in steps.items():
                clock.time(name, rows, step, *next(our_batches([batch])))


if __name__ == "__main__":
    sys.exit(main())
