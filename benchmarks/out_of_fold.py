"""Pooled out-of-fold scores beside new rows: does the AUROC of held-out rows say what new rows say?

    python benchmarks/out_of_fold.py [--sets 2000] [--seed 0] [--positives 10]

Each data set has 500 rows of 20 inputs, with 10 positives, and an amount of signal from none to plenty. Rows are dealt
into five folds, and a model is fitted for each, of a fixed l2, by the library's own code. The AUROC of the pooled
out-of-fold scores, less the mean AUROC of the same five models on 20,000 new rows, must be within 0.01 in the mean over
the data sets. The last line is 'N passed, N failed'; exits 1 when one fails.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import torch
from checks import concluded
from numpy.typing import NDArray
from scipy.stats import rankdata

from mlclf.data.passes.row_folds import dealt_out
from mlclf.data.sampling.splits import Split
from mlclf.decisions.calibration.calibration import calibrated_loss
from mlclf.progress import Steps
from mlclf.training.full_batch.chunks import Chunk
from mlclf.training.full_batch.l2_search import FullBatchFit
from mlclf.training.hold_out import HoldOut, LabelTotals

ROWS, INPUTS, FOLDS, NEW_ROWS, NEW_POSITIVES = 500, 20, 5, 20_000, 1000
CASES = ((0.0, 0.1), (0.0, 0.01), (1.0, 0.03), (2.0, 0.01))
"""Distance of the classes in standard deviations, l2."""

MOST_BIAS = 0.01


@dataclass(frozen=True)
class Made:
    """Rows of two normal classes that are `distance` apart: inputs [n, D], flags [n]."""

    inputs: NDArray[np.float64]
    flags: NDArray[np.bool_]


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    biases: list[list[tuple[float, float]]] = [[] for _ in CASES]
    for number in range(arguments.sets):
        case = number % len(CASES)
        biases[case].append(measured(arguments.seed, number, arguments.positives, *CASES[case]))
    for (distance, l2), found in zip(CASES, biases, strict=True):
        if found:
            print(f"classes {distance:g} apart, l2 {l2:g}: {line_of(np.array(found))}")
    every = np.array([pair for found in biases for pair in found])
    print(f"all {len(every):,} data sets: {line_of(every)}")
    return concluded([("pooled AUROC is that of new rows", abs(float(np.diff(every).mean())) <= MOST_BIAS)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pooled out-of-fold AUROC beside that of new rows.")
    parser.add_argument("--sets", type=int, default=2000, help="data sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--positives", type=int, default=10, help="of 500 rows")
    return parser.parse_args()


def measured(seed: int, number: int, positives: int, distance: float, l2: float) -> tuple[float, float]:
    """Mean AUROC of the fold models on new rows, and AUROC of the pooled out-of-fold scores."""
    random = np.random.default_rng([seed, number])
    direction = random.normal(size=INPUTS)
    shift = distance * direction / np.linalg.norm(direction)
    rows, new = made(random, ROWS, positives, shift), made(random, NEW_ROWS, NEW_POSITIVES, shift)
    places = np.flatnonzero(rows.flags)
    split = Split("folds", num_folds=FOLDS, seed=seed + number)
    folds = dealt_out(np.arange(ROWS), places, np.zeros(len(places), np.int64), split).astype(np.int64)
    models = fold_models(rows, folds, l2)
    pooled = with_ones(rows.inputs) @ models
    on_new = new.inputs @ models[:-1]
    mean = float(np.mean([auroc(on_new[:, fold], new.flags) for fold in range(FOLDS)]))
    return mean, auroc(pooled[np.arange(ROWS), folds], rows.flags)


def made(random: np.random.Generator, rows: int, positives: int, shift: NDArray[np.float64]) -> Made:
    flags = random.permutation(rows) < positives
    return Made(random.normal(size=(rows, INPUTS)) + flags[:, None] * shift, flags)


def fold_models(rows: Made, folds: NDArray[np.int64], l2: float) -> NDArray[np.float64]:
    """The models without each fold, as `fit` scores the held-out rows by: [D + 1, FOLDS]."""
    flags, parts = torch.from_numpy(rows.flags), torch.from_numpy(folds)
    members = torch.nn.functional.one_hot(parts, FOLDS).double().T
    totals = LabelTotals(members @ flags[:, None].double(), members.sum(1, keepdim=True))
    chunk = Chunk(
        torch.from_numpy(rows.inputs),
        None,
        None,
        flags[:, None].to(torch.uint8),
        None,
        torch.ones(ROWS).double(),
        parts,
    )
    weights = torch.ones(1, dtype=torch.float64)
    fit = FullBatchFit(lambda: [chunk], totals, HoldOut.folds(FOLDS), weights, INPUTS + 1, calibrated_loss)
    steps = Steps(fit.run(l2))
    for _ in steps:
        pass
    return steps.result.models[:, :, 0].T.numpy()


def with_ones(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([inputs, np.ones(len(inputs))])


def auroc(scores: NDArray[np.float64], flags: NDArray[np.bool_]) -> float:
    positives = int(flags.sum())
    above = float(rankdata(scores)[flags].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(flags) - positives))


def line_of(found: NDArray[np.float64]) -> str:
    differences = found[:, 1] - found[:, 0]
    error = differences.std() / np.sqrt(len(differences))
    return (
        f"AUROC {found[:, 0].mean():.4f} on new rows, {found[:, 1].mean():.4f} pooled; "
        f"difference {differences.mean():+.4f} ± {error:.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
