"""Linear splines of numeric columns: tried where they fit into memory, kept where held-out log-loss improves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.features.splines import LinearSplines
from mlclf.data.inspection.fit_memory import KNOTS
from mlclf.fitting.preparation.fit_data import FitData
from mlclf.fitting.preparation.fit_rows import ModelInputs, RowsInMemory

LEAST_GAIN = 0.005
"""Share of the held-out log-loss by which knots must improve it."""

LEAST_OF_PRIOR = 0.0005
"""Share of the log-loss of a constant by which they must improve it too."""


def knots_of(data: FitData, inputs: ModelInputs) -> LinearSplines | None:
    """Splines for the numeric columns; None where they are not to be tried, do not fit, or no column can have a knot.

    They are tried where l2 is chosen too, and at the quantiles of the rows of the final model.
    """
    settings, features, held = data.asked.settings, inputs.features, inputs.rows.held
    allowed = settings.features.knots == "auto" and settings.optimizer.l2 == "auto"
    allowed &= settings.features.standardize and data.hold_out.chooses
    num_columns = sum(1 for _ in features.spline_inputs())
    num_rows = sum(map(len, held or ()))
    if not held or not allowed or not num_columns or not num_rows:
        return None
    if not data.may_hold(num_rows, data.statistics.row_bytes + 4 * KNOTS * num_columns):
        return None
    trained = data.hold_out.final()[0] > 0
    chosen = [trained[batch.parts.long()] & (batch.weights > 0) for batch in held]
    pairs = list(zip(held, chosen, strict=True))

    def values(index: int) -> Tensor:
        return torch.cat([batch.dense[row, index] for batch, row in pairs])

    def columns() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for _, index, missing in features.spline_inputs():
            column = values(index)
            if missing is not None:
                column[values(missing) > 0] = torch.nan
            yield index, column.numpy()

    weights = torch.cat([batch.weights[row] for batch, row in pairs]).double()
    splines = LinearSplines.fitted(columns(), weights.numpy(), KNOTS)
    return splines if len(splines) else None


def with_knots(inputs: ModelInputs, splines: LinearSplines) -> ModelInputs:
    """The same rows in memory with one more input for each knot."""
    held = []
    for batch in inputs.rows.held or ():
        dense = torch.cat([batch.dense, torch.empty(len(batch), len(splines))], dim=1)
        splines.fill(dense.numpy())
        held.append(replace(batch, dense=dense))
    return ModelInputs(replace(inputs.features, splines=splines), RowsInMemory(held))


def without_knots(inputs: ModelInputs) -> ModelInputs:
    """The same rows without the inputs that `with_knots` added."""
    features = replace(inputs.features, splines=None)
    held = [replace(batch, dense=batch.dense[:, : features.num_dense].clone()) for batch in inputs.rows.held or ()]
    return ModelInputs(features, RowsInMemory(held))


def knots_pay(without: Tensor, bent: Tensor, prior: float) -> bool:
    """Whether knots improve the held-out loss enough, given its values in parts of the rows without and with them.

    That is LEAST_GAIN of it, LEAST_OF_PRIOR of the loss of a constant (where next to nothing is left to save, a large
    share of that is nothing), and twice the standard error of what they save.
    """
    saved = without - bent
    error = float(saved.std()) / math.sqrt(len(saved))
    return float(saved.mean()) >= max(LEAST_GAIN * float(without.mean()), LEAST_OF_PRIOR * prior, 2 * error)
