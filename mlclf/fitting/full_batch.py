"""Full-batch training: search for l2 along a path of models, then the exact optimum in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.config.optimizers import ExactSolver
from mlclf.data.batch import Batch
from mlclf.decisions.calibration.calibration import calibrated_loss
from mlclf.fitting.certificate import certificate_lines, certificate_of
from mlclf.fitting.knots import knots_of, knots_pay, with_knots, without_knots
from mlclf.fitting.preparation.fit_data import FitData
from mlclf.fitting.preparation.fit_rows import ModelInputs
from mlclf.fitting.trained_models import KnotsTrial, TrainedModels
from mlclf.fitting.training_log import TrainingLog, epoch_line
from mlclf.machine.signals import looked
from mlclf.progress import Progress, Steps
from mlclf.training.full_batch.chunks import Chunk
from mlclf.training.full_batch.l2_choice import l2_grid
from mlclf.training.full_batch.l2_search import FullBatchFit, FullBatchSolution
from mlclf.training.models import head_from_columns


class _Solved(NamedTuple):
    """The optimum for some inputs, with or without knots.

    Attributes:
        losses: of parts of the held-out rows, see `FullBatchFit.held_out_parts`; None where they were not asked for.
        records: lines of the log.
    """

    solution: FullBatchSolution
    losses: Tensor | None
    records: list[str]


def train_full_batch(
    data: FitData, inputs: ModelInputs, log: TrainingLog, solver: ExactSolver
) -> Generator[Progress, None, TrainedModels]:
    """Solve the convex problem, and again with linear splines of the numeric columns where these may pay.

    The log gets a line for every amount of l2 that is solved, and one for the end.
    """
    log.epochs.unlink(missing_ok=True)
    used = _used_ids(inputs)
    knots, trial = knots_of(data, inputs), KnotsTrial()
    solved = yield from _solve(data, inputs, used, solver, log, compares=knots is not None)
    if knots is not None:
        inputs = with_knots(inputs, knots)
        bent = yield from _solve(data, inputs, used, solver, None, compares=True)
        assert solved.losses is not None
        assert bent.losses is not None
        pays = knots_pay(solved.losses, bent.losses, _prior_loss(data))
        yield Progress(
            "training",
            note=f"{len(knots):,} knots in numeric columns: held-out log-loss {float(bent.losses.mean()):.5f}, without "
            f"them {float(solved.losses.mean()):.5f}; {'kept' if pays else 'left out'}",
        )
        trial = KnotsTrial(len(knots), pays)
        if pays:
            solved = bent
            log.rewrite(bent.records)
        else:
            inputs = without_knots(inputs)
    settings, found = data.asked.settings, solved.solution
    penalised = settings.optimizer.l2 != 0 or settings.optimizer.l1 > 0
    names = data.statistics.label_names
    certificate = certificate_of(found.optimality, names, penalised=penalised, reached=found.reached)
    yield from certificate_lines(certificate)
    dense, vocabulary = inputs.features.num_dense, inputs.features.vocabulary_size
    held_out = [head_from_columns(model, dense, vocabulary, used) for model in found.models]
    final = head_from_columns(found.final, dense, vocabulary, used)
    return TrainedModels(held_out, final, inputs, solver.name, found.l2.double(), trial, certificate)


def _solve(
    data: FitData, inputs: ModelInputs, used: Tensor, solver: ExactSolver, log: TrainingLog | None, *, compares: bool
) -> Generator[Progress, None, _Solved]:
    """Choose l2 by the held-out rows, and find the optimum."""
    problem = FullBatchFit(
        _chunks(inputs, used),
        data.totals,
        data.hold_out,
        data.pos_weight,
        inputs.features.num_dense + len(used) + 1,
        calibrated_loss,
        l1=data.asked.settings.optimizer.l1,
        newton=solver.newton,
    )
    records: list[str] = []
    decade: int | None = None
    started = time.perf_counter()
    steps = Steps(problem.run(_l2s(data)))
    for solved in steps:
        note = f"l2 {solved.l2:.3g}"
        note += f", held-out log-loss {solved.valid_loss:.5f}" if math.isfinite(solved.valid_loss) else ""
        last, decade = decade, math.floor(math.log10(solved.l2)) if solved.l2 else None
        if decade != last or math.isfinite(solved.train_loss):  # a line a decade of the search, and its end
            yield Progress("training", note=note)
        number, seconds = len(records), time.perf_counter() - started
        rows, losses = data.asked.plan.rows, (solved.train_loss, solved.valid_loss)
        records.append(epoch_line(number, number, rows, seconds, *losses))
        if log is not None:
            log.add_epoch(records[-1])
        started = time.perf_counter()
    return _Solved(steps.result, problem.held_out_parts(steps.result.models) if compares else None, records)


def _prior_loss(data: FitData) -> float:
    """Log-loss of each label's prevalence, mean over labels."""
    final = data.final_totals
    share = final.positives / final.totals.clamp_min(1e-300)
    return float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean())


def _used_ids(inputs: ModelInputs) -> Tensor:
    """Token ids that occur in some row: [U] int64. The weights of all others stay 0; hashed text leaves most unused."""
    seen = torch.zeros(inputs.features.vocabulary_size, dtype=torch.bool)
    if len(seen):
        for batch in inputs.rows.batches():
            seen[batch.ids] = True
    return seen.nonzero()[:, 0]


def _chunks(inputs: ModelInputs, used: Tensor) -> Callable[[], Iterable[Chunk]]:
    """The rows in float64, with the ids that occur renumbered from 0."""
    rows, numbers = inputs.rows, torch.zeros(inputs.features.vocabulary_size, dtype=torch.int64)
    numbers[used] = torch.arange(len(used))

    def chunk(batch: Batch) -> Chunk:
        return Chunk.of(replace(batch, ids=numbers[batch.ids] if len(numbers) else batch.ids), len(used))

    if rows.held is None:
        return lambda: map(chunk, rows.batches())
    held = [chunk(batch) for batch in rows.held]
    return lambda: looked(held)


def _l2s(data: FitData) -> float | list[float]:
    """The l2 that is set, or the grid to choose from."""
    l2, search = data.asked.settings.optimizer.l2, data.asked.settings.search
    if l2 != "auto":
        return float(l2)
    if not data.hold_out.chooses:
        return 1.0 / max(data.mean_total, 1e-300)
    return l2_grid(data.mean_total, search.c_low, search.c_high, search.steps_per_decade)
