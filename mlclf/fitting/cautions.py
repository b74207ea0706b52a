"""How a model does on the last of the rows: where these are in the order of time, whether it still holds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mlclf.config.settings import FULL_BATCH, Settings, Training
from mlclf.data.inspection.fit_memory import KNOTS, RESIDENT_SHARE
from mlclf.decisions.cells.cells import Cells
from mlclf.fitting.data_preparation import PreparedData


def unused_settings(settings: Settings, algorithm: str) -> Iterator[str]:
    """A line for each setting that was given and that this solver does not use."""
    usual = Training()
    if algorithm in FULL_BATCH:
        why = f"{algorithm} solves on all rows at once, in float64, until nothing is left to gain"
        for name in ("precision", "epochs", "patience", "shuffle"):
            given = getattr(settings.training, name)
            if given != getattr(usual, name):
                text = str(given).lower() if isinstance(given, bool) else given
                yield f"training.{name}={text} is not used: {why}; choose adam, adamw, adagrad or sgd to use it"
    if settings.optimizer.l2 != "auto":
        for name, value in settings.search:
            if value != getattr(type(settings.search)(), name):
                yield f"search.{name}={value:g} is not used: optimizer.l2 is given, so no l2 is searched"


def effects_of_the_budget(data: PreparedData, settings: Settings, algorithm: str) -> Iterator[str]:
    """A line where a larger `runtime.memory_budget` that this machine has would lead to another model."""
    columns = sum(1 for _ in data.statistics.features.spline_inputs())
    solver = algorithm if data.resident is not None else wanted_algorithm(settings, in_memory=True)
    bends = bool(
        columns
        and solver in FULL_BATCH
        and settings.features.knots == "auto"
        and settings.optimizer.l2 == "auto"
        and settings.features.standardize
        and data.hold_out.chooses
    )
    row_bytes = data.statistics.row_bytes + (4 * KNOTS * columns if bends else 0)
    needed = int(RESIDENT_SHARE * data.held_rows * row_bytes) + 1
    if needed <= data.budget or needed > _memory_bytes():
        return
    lost = [f"by {algorithm} in place of {solver}"] if solver != algorithm else []
    lost += ["without knots in numeric columns"] if bends else []
    if not lost:
        return
    held = "held in memory" if data.resident is not None else "streamed"
    yield (
        f"rows are {held}, {' and '.join(lost)}, because of runtime.memory_budget ({data.budget >> 20:,} MiB); "
        f"--set runtime.memory_budget={-(-needed >> 20)}MiB would lead to another model"
    )


def wanted_algorithm(settings: Settings, *, in_memory: bool) -> str:
    """The optimizer: where none is named, the exact solver for data in memory, else mini-batches."""
    name, training = settings.optimizer.name, settings.training
    if name != "auto":
        return name
    stepwise = settings.optimizer.lr is not None or training.epochs is not None or bool(settings.model.hidden)
    if stepwise or training.batch_rows not in (None, "all"):
        return "adam"
    return "lbfgs" if in_memory or training.batch_rows == "all" else "adam"


def _memory_bytes() -> float:
    """Of this machine; without bound where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


LAST_SHARE = 0.1


def log_loss_sums(held_out: Iterable[Cells], calibrated: Callable[[Tensor], Tensor], prior: Tensor) -> Tensor:
    """Weighted sums [3] float64: log-losses of the model and of the constant logits `prior` [K], and the weights."""
    sums = torch.zeros(3, dtype=torch.float64)
    for cells in held_out:
        labels = cells.labels.double()
        mass = torch.ones_like(labels) if cells.mask is None else cells.mask.double()
        if cells.weights is not None:
            mass = mass * cells.weights.double()[:, None]
        for place, logits in enumerate((calibrated(cells.logits).double(), prior.double())):
            sums[place] += (mass * (torch.nn.functional.softplus(logits) - labels * logits)).sum()
        sums[2] += mass.sum()
    return sums


def caution(sums: Tensor) -> str | None:
    """A line where the model is worse than the constant, from `log_loss_sums` of the last rows."""
    model, constant, mass = sums.tolist()
    if not mass or not model > constant:
        return None
    return (
        f"hidden layers predict the last tenth of the rows worse (log-loss {model / mass:.4f}) than a constant does "
        f"({constant / mass:.4f}): if the rows are in the order of time, what they learned does not hold later; hold "
        "out by time with --valid-by time:COLUMN, and compare with --set 'model.hidden=[]'"
    )
