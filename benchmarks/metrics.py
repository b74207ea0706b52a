"""AUROC and average precision from histograms beside scikit-learn's exact ones, and the time beside peers.

    python benchmarks/metrics.py [--rows 200000] [--labels 100] [--torchmetrics-labels 100] [--skip-torchmetrics]

Four kinds of scores: normal ones, ties, one tied mass among normal ones, and all mass below 0.001. Each is counted once
and refined until every interval is at most 1e-4 wide; scikit-learn's exact values must lie inside the intervals. Then
the time of everything that `Evaluation` reports, with the curves, is divided into that of scikit-learn's
`roc_auc_score` alone, and the time of AUROC into that of torchmetrics' `MultilabelAUROC(thresholds=200)`. torchmetrics
takes gigabytes and time in proportion to the labels: with fewer --torchmetrics-labels its time is scaled up, which is
said.

Needs the `bench` extra. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from checks import Check, concluded
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics.classification import MultilabelAUROC

from mlclf.decisions.cells.cells import Cells, row_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.auroc import auroc
from mlclf.decisions.metrics.average_precision import average_precision
from mlclf.decisions.metrics.bin_splits import TOLERANCE
from mlclf.decisions.metrics.curves import score_cuts
from mlclf.decisions.metrics.refinement import Refinement

KINDS = ("normal", "ties", "one tied mass", "all below 0.001")
LEAST_TORCHMETRICS_RATIO, LEAST_SKLEARN_RATIO = 500, 10
BATCH_ROWS = 65_536
REPEATS = 5
"""Of the comparison with scikit-learn; torchmetrics takes minutes and is run once."""

ROUNDING = 1e-9
"""What float64 sums over this many rows may differ by."""


def main() -> int:
    arguments = parse_arguments()
    print(f"{arguments.rows:,} rows x {arguments.labels:,} labels, {torch.get_num_threads()} threads\n", flush=True)
    checks: list[Check] = []
    print(f"{'scores':18}{'metric':8}{'width':>10}{'refined':>10}{'passes':>8}{'error':>10}{'bound':>10}")
    for kind in KINDS:
        checks += agreement(kind, *drawn(kind, arguments.rows, arguments.labels))
    logits, labels = drawn("normal", arguments.rows, arguments.labels)
    print()
    checks.append(beside_sklearn(logits, labels))
    if not arguments.skip_torchmetrics:
        checks.append(beside_torchmetrics(logits, labels, min(arguments.torchmetrics_labels, arguments.labels)))
    print()
    return concluded(checks)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Metrics from histograms, beside scikit-learn and torchmetrics.")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--torchmetrics-labels", type=int, default=100, help="labels that torchmetrics is timed on")
    parser.add_argument("--skip-torchmetrics", action="store_true", help="leave out the slowest peer")
    return parser.parse_args()


def drawn(kind: str, rows: int, labels: int) -> tuple[Tensor, Tensor]:
    """Logits [rows, labels] float32 and labels bool, both stored label by label, as Parquet columns are."""
    rng = np.random.default_rng(0)
    truth = rng.random((labels, rows), dtype=np.float32) < 0.1
    logits = rng.standard_normal((labels, rows), dtype=np.float32) * 2 - 3 + truth
    if kind == "ties":
        logits = logits.round(1)
    elif kind == "one tied mass":
        logits[rng.random((labels, rows), dtype=np.float32) < 0.5] = -3.0
    elif kind == "all below 0.001":
        logits = -7 - np.abs(logits) / 4
    return torch.from_numpy(logits).t(), torch.from_numpy(truth).t()


def batches(*columns: Tensor) -> list[tuple[Tensor, ...]]:
    """The rows in batches, each stored label by label."""
    starts = range(0, len(columns[0]), BATCH_ROWS)
    return [tuple(column[start : start + BATCH_ROWS].t().contiguous().t() for column in columns) for start in starts]


def agreement(kind: str, logits: Tensor, labels: Tensor) -> list[Check]:
    """Count, refine, compare; print a line for each metric and return its checks."""
    parts = batches(logits, labels)
    histogram = LabelHistogram(logits.shape[1])
    for part in parts:
        histogram.update(*part)
    first = {"AUROC": auroc(histogram), "AP": average_precision(histogram)}
    found, passes, last = first, 0, None
    while (refinement := Refinement.needed(last or histogram)) is not None:
        for part in parts:
            refinement.update(*part)
        last, passes = refinement, passes + 1
        found = {"AUROC": refinement.auroc(), "AP": refinement.average_precision()}
    checks = []
    for name, score in (("AUROC", roc_auc_score), ("AP", average_precision_score)):
        exact = torch.tensor([score(labels[:, k], logits[:, k]) for k in range(logits.shape[1])], dtype=torch.float64)
        widths = [float(2 * values[name][1].max()) for values in (first, found)]
        outside = 0
        for values, bounds in (first[name], found[name]):
            outside += int(((values - exact).abs() > bounds + ROUNDING).sum())
        error, bound = float((found[name][0] - exact).abs().max()), float(found[name][1].max())
        print(
            f"{kind:18}{name:8}{widths[0]:>10.2g}{widths[1]:>10.2g}{passes:>8}{error:>10.2g}{bound:>10.2g}", flush=True
        )
        checks.append((f"{kind}, {name}: {outside} labels outside their interval, at most 0", outside == 0))
        checks.append(
            (f"{kind}, {name}: width {widths[1]:.2g} after refinement, at most {TOLERANCE:g}", widths[1] <= TOLERANCE)
        )
    return checks


def beside_sklearn(logits: Tensor, labels: Tensor) -> Check:
    """All metrics and curves of ours beside AUROC alone of theirs."""
    scores = scores_of(logits)
    names = [f"label {k}" for k in range(logits.shape[1])]
    parts = batches(logits, scores, labels)

    def ours() -> None:
        evaluation = Evaluation(torch.full((len(names),), 0.5))
        for own_logits, own_scores, own_labels in parts:
            evaluation.update(Cells(own_logits, own_labels, row_identities(torch.arange(len(own_labels)))), own_scores)
        evaluation.report(names, torch.full((len(names),), 0.1, dtype=torch.float64))
        for label in range(len(names)):
            cuts = score_cuts(evaluation.histogram, label)
            cuts.roc_curve()
            cuts.precision_recall_curve()

    def theirs() -> None:
        roc_auc_score(labels.numpy(), scores.numpy(), average=None)

    text = "roc_auc_score of scikit-learn ÷ all metrics and curves of ours"
    return compared(text, theirs, ours, LEAST_SKLEARN_RATIO, REPEATS)


def beside_torchmetrics(logits: Tensor, labels: Tensor, timed_labels: int) -> Check:
    """AUROC of ours beside that of torchmetrics at 200 thresholds, its time scaled up from `timed_labels`."""
    parts, num_labels = batches(logits, labels), logits.shape[1]
    scores = scores_of(logits[:, :timed_labels]).contiguous()
    truth = labels[:, :timed_labels].long().contiguous()

    def ours() -> None:
        histogram = LabelHistogram(num_labels)
        for part in parts:
            histogram.update(*part)
        auroc(histogram)

    def theirs() -> None:
        metric = MultilabelAUROC(timed_labels, average="none", thresholds=200, validate_args=False)
        metric.update(scores, truth)
        metric.compute()

    scale = num_labels / timed_labels
    text = "MultilabelAUROC(thresholds=200) of torchmetrics ÷ AUROC of ours"
    if scale > 1:
        text += f" (theirs timed on {timed_labels} labels, times {scale:g})"
    return compared(text, theirs, ours, LEAST_TORCHMETRICS_RATIO, 1, scale)


def seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def compared(
    text: str, theirs: Callable[[], None], ours: Callable[[], None], least: float, repeats: int, scale: float = 1
) -> Check:
    """Run them in turn and divide the medians of their times, theirs times `scale`."""
    times = [(scale * seconds(theirs), seconds(ours)) for _ in range(repeats)]
    their_time, our_time = (median(column) for column in zip(*times, strict=True))
    ratio = their_time / our_time
    print(f"{text}: {their_time:.2f} s ÷ {our_time:.2f} s = {ratio:.3g}", flush=True)
    return f"{text}: {ratio:.3g}, at least {least:g}", ratio >= least


if __name__ == "__main__":
    sys.exit(main())
