"""Do thresholds with confidence hold? Precision of at least 0.9 at 95%, on simulated data sets whose truth is known.

    python benchmarks/simulation.py [--runs 2000] [--seed 0] [--only plain,noisy,weighted,clustered]

Each data set has n rows with uniform scores. The upper half of them are the tail: every cut in it has the same true
precision, of 0.85, 0.89, 0.90 or 0.95; below it precision falls. Four kinds:

    plain      independent rows of weight 1
    noisy      the highest 2% of the scores are right only half of the time, so that precision is not monotone
    weighted   half of the rows weigh 1 and half 0.5, and the heavy ones are positive less often
    clustered  rows in clusters of 1 to 3, half of the rows with the luck of their cluster

For each kind, number of rows and precision: how often a threshold is certified (attained), and how often it is
certified though its true precision is below 0.9 (violated). Exits 1 when more than 5% of the runs are violated
anywhere, or less than 80% attained at a precision of 0.95 with 2,000 rows; the last line is 'N passed, N failed'.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from checks import concluded
from torch import Tensor

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.guarantees.independent_rows import certified
from mlclf.decisions.guarantees.weighted_rows import BettingConstraints
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.constraints import Precision

PRECISION, CONFIDENCE = 0.9, 0.95
TAIL_PRECISIONS = (0.85, 0.89, 0.90, 0.95)
SIZES = {
    "plain": (200, 2_000, 20_000),
    "noisy": (2_000,),
    "weighted": (200, 2_000, 5_000),
    "clustered": (200, 2_000, 5_000),
}
TAIL, FALL = 0.5, 1.5
NOISE, NOISE_PRECISION = 0.02, 0.5
HEAVY, LIGHT, HEAVY_LOSS = 1.0, 0.5, 0.01
MOST_PER_CLUSTER, SHARED_LUCK = 3, 0.5
MOST_VIOLATED, LEAST_ATTAINED, POWER_ROWS, POWER_PRECISION = 0.05, 0.8, 2_000, 0.95
NUM_BINS, NUM_CUTS = 4_096, 1_024
CELLS_AT_ONCE = 500_000
ROUNDING = 1e-6


@dataclass(frozen=True)
class Outcome:
    """Shares of the simulated data sets."""

    kind: str
    num_rows: int
    tail_precision: float
    attained: float
    violated: float
    seconds: float


def main() -> int:
    arguments = parse_arguments()
    checks = []
    print(f"{'kind':10}{'rows':>8}{'precision':>11}{'attained':>10}{'violated':>10}{'seconds':>9}", flush=True)
    for outcome in outcomes(arguments.runs, arguments.seed, arguments.only):
        print(
            f"{outcome.kind:10}{outcome.num_rows:8,}{outcome.tail_precision:11.2f}{outcome.attained:10.4f}"
            f"{outcome.violated:10.4f}{outcome.seconds:9.1f}",
            flush=True,
        )
        checks += checks_of(outcome)
    print()
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How often thresholds with confidence hold on simulated data.")
    parser.add_argument("--runs", type=int, default=2_000, help="data sets of each kind, size and precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SIZES), help=f"kinds: {','.join(SIZES)}")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    unknown = sorted(set(arguments.only) - set(SIZES))
    if unknown:
        parser.error(f"--only takes {', '.join(SIZES)}, got {', '.join(unknown)}")
    return arguments


def outcomes(runs: int, seed: int, kinds: list[str]) -> Iterator[Outcome]:
    """Yield what the simulation finds, kind by kind, size by size, precision by precision."""
    generator = torch.Generator().manual_seed(seed)
    for kind in kinds:
        for num_rows, tail_precision in product(SIZES[kind], TAIL_PRECISIONS):
            yield outcome_of(kind, num_rows, tail_precision, runs, generator)


def outcome_of(kind: str, num_rows: int, tail_precision: float, runs: int, generator: torch.Generator) -> Outcome:
    """Simulate `runs` data sets, as labels of one another: they share nothing but the sizes of the clusters."""
    started = time.perf_counter()
    attained, violated = 0, 0
    most = max(1, CELLS_AT_ONCE // num_rows)
    for first in range(0, runs, most):
        count = min(most, runs - first)
        thresholds = thresholds_of(kind, cells_of(kind, num_rows, tail_precision, count, generator))
        found = thresholds.isfinite()
        true = true_precision(1 - thresholds.double(), kind, tail_precision)
        attained += int(found.sum())
        violated += int((found & (true < PRECISION - ROUNDING)).sum())
    seconds = time.perf_counter() - started
    return Outcome(kind, num_rows, tail_precision, attained / runs, violated / runs, seconds)


def cells_of(kind: str, num_rows: int, tail_precision: float, runs: int, generator: torch.Generator) -> Cells:
    """Draw n rows of `runs` data sets."""
    from_top = torch.rand(num_rows, runs, generator=generator, dtype=torch.float64)
    chance = row_precision(from_top, kind, tail_precision)
    weights = None
    luck = torch.rand(num_rows, runs, generator=generator, dtype=torch.float64)
    identities = torch.arange(num_rows)
    if kind == "weighted":
        heavy = torch.rand(num_rows, generator=generator) < 0.5
        weights = torch.where(heavy, HEAVY, LIGHT).double()
        chance = chance + torch.where(heavy, -HEAVY_LOSS, HEAVY_LOSS * HEAVY / LIGHT)[:, None]
    if kind == "clustered":
        sizes = torch.randint(1, MOST_PER_CLUSTER + 1, (num_rows,), generator=generator)
        identities = torch.arange(num_rows).repeat_interleave(sizes)[:num_rows]
        shared = torch.rand(num_rows, runs, generator=generator) < SHARED_LUCK
        luck = luck[identities].where(shared, torch.rand(num_rows, runs, generator=generator, dtype=torch.float64))
    logits = torch.logit(1 - from_top).float()
    return Cells(logits, (luck < chance).byte(), row_identities(identities), weights=weights)


def row_precision(from_top: Tensor, kind: str, tail_precision: float) -> Tensor:
    """The chance of a positive at each share of the scores from the top."""
    chance = (tail_precision - FALL * (from_top - TAIL).clamp(min=0.0)).clamp(min=0.05)
    if kind == "noisy":
        chance = chance.where(from_top >= NOISE, NOISE_PRECISION)
    return chance


def true_precision(from_top: Tensor, kind: str, tail_precision: float) -> Tensor:
    """The precision of all rows above each share of the scores from the top: the integral of `row_precision`."""
    below = (from_top - TAIL).clamp(min=0.0)
    floor = ((tail_precision - 0.05) / FALL) * torch.ones_like(below)
    sloped = below.minimum(floor)
    flagged = tail_precision * from_top.clamp(max=TAIL) + tail_precision * sloped - FALL * sloped**2 / 2
    flagged = flagged + 0.05 * (below - sloped)
    if kind == "noisy":
        flagged = flagged - (tail_precision - NOISE_PRECISION) * from_top.clamp(max=NOISE)
    return flagged / from_top


def thresholds_of(kind: str, cells: Cells) -> Tensor:
    """The certified thresholds of all data sets, NaN where there is none."""
    objective, num_labels = Precision(PRECISION), cells.logits.shape[1]
    if kind in ("plain", "noisy"):
        histogram = LabelHistogram(num_labels, NUM_BINS)
        histogram.update(cells.logits, cells.labels)
        return certified(histogram, objective, CONFIDENCE).thresholds.thresholds
    constraints = BettingConstraints(objective, num_labels, clustered=kind == "clustered", num_cuts=NUM_CUTS)
    constraints.update(cells)
    return constraints.certified(CONFIDENCE).thresholds.thresholds


def checks_of(outcome: Outcome) -> list[tuple[str, bool]]:
    name = f"{outcome.kind}, {outcome.num_rows:,} rows, precision {outcome.tail_precision:.2f}"
    checks = [
        (
            f"{name}: {outcome.violated:.2%} violated, at most {MOST_VIOLATED:.0%}",
            outcome.violated <= MOST_VIOLATED,
        )
    ]
    at = (outcome.num_rows, outcome.tail_precision)
    if at == (POWER_ROWS, POWER_PRECISION) and outcome.kind != "noisy":
        text = f"{name}: {outcome.attained:.2%} attained, at least {LEAST_ATTAINED:.0%}"
        checks.append((text, outcome.attained >= LEAST_ATTAINED))
    return checks


if __name__ == "__main__":
    sys.exit(main())
