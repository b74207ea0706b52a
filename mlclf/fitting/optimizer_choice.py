"""The optimizer of a fit, and warnings: of settings that it ignores, of a budget that changes the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from mlclf.config.optimizers import AUTO, OPTIMIZERS, STEPPERS, Optimizer
from mlclf.config.settings import Settings, Training
from mlclf.data.inspection.fit_memory import KNOTS, RESIDENT_SHARE
from mlclf.fitting.preparation.fit_data import FitData


def chosen_optimizer(settings: Settings, *, in_memory: bool) -> Optimizer:
    """The optimizer that is set; for `auto` the exact solver if the data is in memory and no setting asks for steps."""
    name, training = settings.optimizer.name, settings.training
    if name != AUTO:
        return OPTIMIZERS[name]
    stepwise = settings.optimizer.lr is not None or training.epochs is not None or bool(settings.model.hidden)
    if stepwise or training.batch_rows not in (None, "all"):
        return OPTIMIZERS["adam"]
    return OPTIMIZERS["lbfgs" if in_memory or training.batch_rows == "all" else "adam"]


def unused_settings(settings: Settings, optimizer: Optimizer) -> Iterator[str]:
    """One line for each setting that was given and has no effect."""
    for name in optimizer.ignores:
        given = getattr(settings.training, name)
        if given != getattr(Training(), name):
            text = str(given).lower() if isinstance(given, bool) else given
            why = f"{optimizer.name} solves on all rows at once, in float64, until nothing is left to gain"
            yield f"training.{name}={text} is not used: {why}; {STEPPERS} to use it"
    if settings.optimizer.l2 != "auto":
        for name, value in settings.search:
            if value != getattr(type(settings.search)(), name):
                yield f"search.{name}={value:g} is not used: optimizer.l2 is given, so no l2 is searched"


def effects_of_the_budget(data: FitData, optimizer: Optimizer) -> Iterator[str]:
    """One line if a larger `runtime.memory_budget`, which this machine could give, would lead to another model."""
    settings, budget = data.asked.settings, data.asked.budget
    columns = sum(1 for _ in data.statistics.features.spline_inputs())
    other = optimizer if data.fits_in_memory else chosen_optimizer(settings, in_memory=True)
    bends = bool(
        columns
        and other.exact
        and settings.features.knots == "auto"
        and settings.optimizer.l2 == "auto"
        and settings.features.standardize
        and data.hold_out.chooses
    )
    row_bytes = data.statistics.row_bytes + (4 * KNOTS * columns if bends else 0)
    needed = int(RESIDENT_SHARE * data.num_rows * row_bytes) + 1
    if needed <= budget or needed > _memory_bytes():
        return
    lost = [f"by {optimizer.name} in place of {other.name}"] if other != optimizer else []
    lost += ["without knots in numeric columns"] if bends else []
    if not lost:
        return
    held = "held in memory" if data.fits_in_memory else "streamed"
    yield (
        f"rows are {held}, {' and '.join(lost)}, because of runtime.memory_budget ({budget >> 20:,} MiB); "
        f"--set runtime.memory_budget={-(-needed >> 20)}MiB would lead to another model"
    )


def _memory_bytes() -> float:
    """Memory of this machine; infinite if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
