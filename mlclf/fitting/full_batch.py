"""Full-batch training: l2 chosen along a path, then the optimum in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from torch import Tensor

from mlclf.config import Settings
from mlclf.decisions.calibration import calibrated_loss
from mlclf.fitting.prepared import PreparedData
from mlclf.fitting.trained import Progress, Trained, log_epoch
from mlclf.training.candidates import FullBatchFit, l2_grid
from mlclf.training.models import head_from_columns
from mlclf.training.solvers import Chunk


def train_full_batch(
    data: PreparedData, settings: Settings, pos_weight: Tensor, log: Path
) -> Generator[Progress, None, Trained]:
    """Solve the convex problem; `log` gets a line for every amount of l2 that is solved, and one for the end."""
    log.unlink(missing_ok=True)
    features = data.statistics.features
    vocabulary, dense = features.vocabulary_size, features.num_dense
    fit = FullBatchFit(
        _chunks(data, vocabulary),
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
    held_out = [head_from_columns(model, dense, vocabulary) for model in fit.result.models]
    return Trained(held_out, head_from_columns(fit.result.final, dense, vocabulary), pos_weight, "lbfgs")


def _chunks(data: PreparedData, vocabulary: int) -> Callable[[], Iterable[Chunk]]:
    if data.resident is None:
        return lambda: (Chunk.of(batch, vocabulary) for batch in data.batches())
    held = [Chunk.of(batch, vocabulary) for batch in data.resident]
    return lambda: held


def _l2s(data: PreparedData, settings: Settings) -> float | list[float]:
    l2, total = settings.optimizer.l2, data.mean_total()
    if l2 != "auto":
        return float(l2)
    if not data.hold_out.chooses:
        return 1.0 / max(total, 1e-300)
    search = settings.search
    return l2_grid(total, search.c_low, search.c_high, search.steps_per_decade)
