"""Full-batch training: l2 chosen along a path, then the optimum in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.decisions.calibration.calibration import calibrated_loss
from mlclf.files import write_text
from mlclf.fitting.certificate import certificate_lines, certificate_of
from mlclf.fitting.data_preparation import PreparedData
from mlclf.fitting.trained_models import Knots, Trained, epoch_line, log_epoch
from mlclf.machine.signals import looked
from mlclf.progress import Progress
from mlclf.training.full_batch.chunks import Chunk
from mlclf.training.full_batch.l2_choice import l2_grid
from mlclf.training.full_batch.l2_search import Fit, FullBatchFit
from mlclf.training.models import head_from_columns

LEAST_GAIN = 0.005
"""Share of the held-out log-loss that linear splines must save."""

LEAST_OF_PRIOR = 0.0005
"""Share of the log-loss of a constant that they must save too."""


@dataclass(frozen=True)
class _Solved:
    """The optimum for some inputs.

    Attributes:
        losses: of parts of the held-out rows, see `FullBatchFit.held_out_parts`; None where nobody asked.
        records: lines of the log.
    """

    fit: Fit
    losses: Tensor | None
    records: list[str]


def train_full_batch(
    data: PreparedData, settings: Settings, pos_weight: Tensor, log: Path, *, algorithm: str
) -> Generator[Progress, None, Trained]:
    """Solve the convex problem, and once more with linear splines where these may pay.

    `log` gets a line for every amount of l2 that is solved, and one for the end.
    """
    log.unlink(missing_ok=True)
    features = data.statistics.features
    used = _used_ids(data, features.vocabulary_size)
    knots = Knots()
    bends = settings.features.knots == "auto" and settings.optimizer.l2 == "auto" and data.may_have_splines
    solved = yield from _solve(data, settings, pos_weight, used, algorithm, log, compares=bends)
    if bends and data.add_splines():
        tried = len(features.splines or ())
        bent = yield from _solve(data, settings, pos_weight, used, algorithm, None, compares=True)
        assert solved.losses is not None
        assert bent.losses is not None
        pays = _pays(solved.losses, bent.losses, _prior_loss(data))
        yield Progress("training", note=_splines_line(data, solved.losses, bent.losses, pays))
        knots = Knots(tried, pays, float(bent.losses.mean()), float(solved.losses.mean()))
        if pays:
            solved = bent
            write_text(log, "".join(f"{record}\n" for record in bent.records))
        else:
            data.drop_splines()
    fit = solved.fit
    penalised = settings.optimizer.l2 != 0 or settings.optimizer.l1 > 0
    names = data.statistics.label_names
    certificate = certificate_of(fit.optimality, names, penalised=penalised, reached=fit.reached)
    yield from certificate_lines(certificate)
    dense, vocabulary = features.num_dense, features.vocabulary_size
    held_out = [head_from_columns(model, dense, vocabulary, used) for model in fit.models]
    final = head_from_columns(fit.final, dense, vocabulary, used)
    return Trained(held_out, final, pos_weight, algorithm, fit.l2.double(), knots, certificate)


def _solve(
    data: PreparedData,
    settings: Settings,
    pos_weight: Tensor,
    used: Tensor,
    algorithm: str,
    log: Path | None,
    *,
    compares: bool,
) -> Generator[Progress, None, _Solved]:
    """Choose l2 and find the optimum, for the inputs as they are now."""
    features = data.statistics.features
    problem = FullBatchFit(
        _chunks(data, used, features.vocabulary_size),
        data.totals,
        data.hold_out,
        pos_weight,
        features.num_dense + len(used) + 1,
        calibrated_loss,
        l1=settings.optimizer.l1,
        newton=algorithm == "newton",
    )
    records = []
    decade: int | None = None
    started = time.perf_counter()
    for number, progress in enumerate(problem.run(_l2s(data, settings))):
        note = f"l2 {progress.l2:.3g}"
        note += f", held-out log-loss {progress.valid_loss:.5f}" if math.isfinite(progress.valid_loss) else ""
        last, decade = decade, math.floor(math.log10(progress.l2)) if progress.l2 else None
        if decade != last or math.isfinite(progress.train_loss):  # a line a decade of the search, and its end
            yield Progress("training", note=note)
        seconds = time.perf_counter() - started
        record = number, number, data.plan.rows, seconds, progress.train_loss, progress.valid_loss
        records.append(epoch_line(*record))
        if log is not None:
            log_epoch(log, *record)
        started = time.perf_counter()
    assert problem.result is not None
    return _Solved(problem.result, problem.held_out_parts() if compares else None, records)


def _pays(without: Tensor, splined: Tensor, prior: float) -> bool:
    """Whether linear splines save enough of the held-out loss.

    That is LEAST_GAIN of it, LEAST_OF_PRIOR of the loss of a constant (where next to nothing is left to save, a large
    share of that is nothing), and twice the standard error of what they save.
    """
    saved = without - splined
    error = float(saved.std()) / math.sqrt(len(saved))
    return float(saved.mean()) >= max(LEAST_GAIN * float(without.mean()), LEAST_OF_PRIOR * prior, 2 * error)


def _prior_loss(data: PreparedData) -> float:
    """Log-loss of each label's prevalence, mean over labels."""
    final = data.totals.of(data.hold_out.final())
    share = final.positives / final.totals.clamp_min(1e-300)
    return float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean())


def _splines_line(data: PreparedData, without: Tensor, splined: Tensor, pays: bool) -> str:
    count = len(data.statistics.features.splines or ())
    return (
        f"{count:,} knots in numeric columns: held-out log-loss {float(splined.mean()):.5f}, without them "
        f"{float(without.mean()):.5f}; {'kept' if pays else 'left out'}"
    )


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
    return lambda: looked(held)


def _l2s(data: PreparedData, settings: Settings) -> float | list[float]:
    l2, total = settings.optimizer.l2, data.mean_total()
    if l2 != "auto":
        return float(l2)
    if not data.hold_out.chooses:
        return 1.0 / max(total, 1e-300)
    search = settings.search
    return l2_grid(total, search.c_low, search.c_high, search.steps_per_decade)
