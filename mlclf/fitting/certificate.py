"""The certificate of a fit: gradient norm and duality gap of each label, for the run's manifest and for the user."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mlclf.fitting.preparation.fit_data import FitData
from mlclf.fitting.preparation.fit_rows import FitRows
from mlclf.messages import some_of
from mlclf.progress import Progress
from mlclf.training.full_batch.chunks import Chunk, Problems
from mlclf.training.full_batch.l2_search import SOLVER_BYTES
from mlclf.training.full_batch.optimality import Optimality, optimality_of
from mlclf.training.models import LinearHead

MOST_LABELS = 1000
"""Of more labels the manifest holds those that are furthest from the optimum."""

_SHOWN = 5


def certificate_of(optimality: Optimality, names: Sequence[str], *, penalised: bool, reached: Tensor) -> dict[str, Any]:
    """The certificate as the manifest has it, in nats a row; None where a number is not defined.

    Args:
        optimality: of K labels.
        names: of these.
        penalised: whether there is l2 or l1, without which labels may have no optimum.
        reached: [K] bool, whether the solver came to its tolerance.

    Returns:
        `gradient_norm` and `duality_gap`, the greatest of all labels; `separated`, labels without an optimum;
        `stopped`, labels that stopped short of it; `labels`, gradient norm and gap of each, at most MOST_LABELS.
    """
    norms, gaps = optimality.gradient_norms.tolist(), optimality.gaps.tolist()
    separated = [] if penalised else [names[index] for index in optimality.separates.nonzero()[:, 0].tolist()]
    named = set(separated)
    known = [index for index, norm in enumerate(norms) if not math.isnan(norm)]
    furthest = sorted(known, key=lambda index: (-(0 if math.isnan(gaps[index]) else gaps[index]), -norms[index]))
    shown = sorted(furthest[:MOST_LABELS])
    return {
        "gradient_norm": max((norms[index] for index in known), default=None),
        "duality_gap": max((gaps[index] for index in known if not math.isnan(gaps[index])), default=None),
        "separated": separated,
        "stopped": [names[index] for index in (~reached).nonzero()[:, 0].tolist() if names[index] not in named],
        "labels": {
            names[index]: {"gradient_norm": norms[index], "duality_gap": _number(gaps[index])} for index in shown
        },
    }


def head_optimality(data: FitData, rows: FitRows, head: LinearHead, l2: float) -> Optimality | None:
    """Measure how near the optimum a linear model is, in two passes over the rows; None where it is too large for that.

    Its weights and their gradients are held in float64, as SOLVER_BYTES allow.
    """
    columns = torch.cat([head.linear.weight.T, *([] if head.embedding is None else [head.embedding.weight])])
    columns = torch.cat([columns, head.linear.bias[None]]).detach().cpu()
    if 6 * 8 * columns.numel() > SOLVER_BYTES:
        return None
    trained = data.hold_out.final()
    totals, vocabulary = data.totals.of(trained), head.vocabulary_size
    problems = Problems(
        labels=torch.arange(data.num_labels),
        models=torch.zeros(data.num_labels, dtype=torch.int64),
        l2=torch.full((data.num_labels,), l2, dtype=torch.float64),
        trained=trained,
        totals=totals.totals[0].clamp_min(1e-300),
        pos_weight=data.pos_weight,
        l1=data.asked.settings.optimizer.l1,
    )
    parts = trained[0].nonzero()[:, 0].tolist()
    found = optimality_of(
        lambda: (Chunk.of(batch, vocabulary) for batch in rows.batches(parts)), problems, columns.double()
    )
    return found.known(totals.totals[0] > 0, ~totals.constant()[0])


def certificate_lines(certificate: dict[str, Any]) -> Iterator[Progress]:
    """A line with the certificate, and warnings of labels that have no optimum or stopped short of it."""
    norm, gap = certificate["gradient_norm"], certificate["duality_gap"]
    if norm is not None:
        bound = "" if gap is None else f", loss at most {gap:.1e} nats a row above its least (duality gap)"
        yield Progress("training", note=f"optimum: norm of the gradient at most {norm:.1e}{bound}")
    if certificate["separated"]:
        yield Progress.warning(
            "training",
            f"the inputs separate the classes of {_labels(certificate['separated'])}: without a penalty there is no "
            "optimum, weights only grow; an optimizer.l2 above 0 has one",
        )
    if certificate["stopped"]:
        yield Progress.warning(
            "training",
            f"{_labels(certificate['stopped'])} stopped short of the optimum: inputs separate a part of the rows, or "
            "nearly repeat each other; a larger optimizer.l2 has one that can be reached",
        )


def _labels(names: Sequence[str]) -> str:
    return f"label{'s' if len(names) > 1 else ''} {some_of(names, _SHOWN)}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
