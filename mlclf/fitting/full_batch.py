"""Full-batch training: l2 chosen along a path, then the optimum in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mlclf.config import Settings
from mlclf.data.batch import Batch
from mlclf.data.steps import Progress
from mlclf.decisions.calibration import calibrated_loss
from mlclf.fitting.prepared import PreparedData
from mlclf.fitting.trained import Trained, log_epoch
from mlclf.training.candidates import FullBatchFit, l2_grid
from mlclf.training.chunks import Chunk
from mlclf.training.models import head_from_columns


def train_full_batch(
    data: PreparedData, settings: Settings, pos_weight: Tensor, log: Path
) -> Generator[Progress, None, Trained]:
    """Solve the convex problem; `log` gets a line for every amount of l2 that is solved, and one for the end."""
    log.unlink(missing_ok=True)
    features = data.statistics.features
    dense = features.num_dense
    used = _used_ids(data, features.vocabulary_size)
    vocabulary = len(used)
    fit = FullBatchFit(
        _chunks(data, used, features.vocabulary_size),
        data.totals,
        data.hold_out,
        pos_weight,
        dense + vocabulary + 1,
        calibrated_loss,
        l1=settings.optimizer.l1,
    )
    started = time.perf_counter()
    for number, progress in enumerate(fit.run(_l2s(data, settings))):
        note = f"l2 {progress.l2:.3g}"
        note += f", held-out log-loss {progress.valid_loss:.5f}" if math.isfinite(progress.valid_loss) else ""
        yield Progress("training", note=note)
        seconds = time.perf_counter() - started
        log_epoch(log, number, number, data.plan.rows, seconds, progress.train_loss, progress.valid_loss)
        started = time.perf_counter()
    assert fit.result is not None
    if not fit.result.converged:
        note = "some labels stopped short of the optimum: inputs separate their classes, and optimizer.l2 is too small"
        yield Progress("training", note=note)
    held_out = [head_from_columns(model, dense, features.vocabulary_size, used) for model in fit.result.models]
    final = head_from_columns(fit.result.final, dense, features.vocabulary_size, used)
    return Trained(held_out, final, pos_weight, "lbfgs")


def _used_ids(data: PreparedData, vocabulary: int) -> Tensor:
    """Ids that some row has, [U] int64: the weights of all others stay 0, and hashed text leaves most unused."""
    seen = torch.zeros(vocabulary, dtype=torch.bool)
    if vocabulary:
        for batch in data.batches():
            seen[batch.ids] = True
    return seen.nonzero()[:, 0]


def _chunks(data: PreparedData, used: Tensor, vocabulary: int) -> Callable[[], Iterable[Chunk]]:
    """The rows in float64, with the used ids numbered anew."""
    numbers = torch.zeros(vocabulary, dtype=torch.int64)
    numbers[used] = torch.arange(len(used))

    def chunk(batch: Batch) -> Chunk:
        return Chunk.of(replace(batch, ids=numbers[batch.ids] if vocabulary else batch.ids), len(used))

    if data.resident is None:
        return lambda: map(chunk, data.batches())
    held = [chunk(batch) for batch in data.resident]
    return lambda: held


def _l2s(data: PreparedData, settings: Settings) -> float | list[float]:
    l2, total = settings.optimizer.l2, data.mean_total()
    if l2 != "auto":
        return float(l2)
    if not data.hold_out.chooses:
        return 1.0 / max(total, 1e-300)
    search = settings.search
    return l2_grid(total, search.c_low, search.c_high, search.steps_per_decade)
