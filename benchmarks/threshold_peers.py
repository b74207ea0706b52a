"""Decisions of mlclf beside those of other libraries, from the same scores of every multi-label set of a folder.

    python benchmarks/threshold_peers.py --data DIR [--only NAME ...]

DIR is that of `thresholds.py`, which runs this too. Each set is fitted once by mlclf with default settings. Every
method gets the scores of its held-out rows, calibrated and out of fold, with their labels, and then decides the test
rows from their scores. Seconds are those of tuning and deciding, for all sets together; imports are not part of them.

The `bench` extra has the peers; one that is not there is left out, which is said. There are no goals.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import f1_score, precision_recall_curve, precision_score, recall_score
from sklearn.model_selection import TunedThresholdClassifierCV

import mlclf
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.tuning.tuner import Tuner

SETS = ("enron", "scene", "yeast", "bibtex", "goemotions")
PRECISION, CONFIDENCE = 0.9, 0.95
BATCH_ROWS = 4_096
LEAST = np.float32(1e-7)
"""Where logits are cut, so that they are finite."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Scores [n, K] float32, which are probabilities, and labels [n, K] bool."""

    scores: Array
    labels: Array


Method = Callable[[Rows, Array], Array]
"""Held-out rows and the scores [n, K] of others → decisions [n, K] bool."""


def main() -> None:
    arguments = parse_arguments()
    names = arguments.only or SETS
    with tempfile.TemporaryDirectory(prefix="threshold-peers-") as folder:
        sets = [fitted(arguments.data / name, Path(folder) / name) for name in names]
    print("Micro-F1 / macro-F1 of the test rows.\n")
    print_table(names, F_MEASURES, sets, f_measures)
    print(f"\nPrecision of {PRECISION} for each label, at a confidence of {CONFIDENCE} where the method has one:")
    print("labels that any test row is flagged for, of those below on the test rows; micro-precision, micro-recall.\n")
    print_table(names, PRECISE, sets, precisions)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Thresholds of mlclf beside those of other libraries.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--only", nargs="+", default=[], choices=SETS, help="only these sets")
    return parser.parse_args()


def fitted(data: Path, run_folder: Path) -> tuple[Rows, Rows]:
    """Held-out rows of a fit, each scored by the model that has not seen it, and test rows."""
    seen: list[Cells] = []

    class RecordingTuner(Tuner):
        """A run keeps histograms only, in which the rows are gone."""

        def update(self, cells: Cells) -> None:
            seen.append(cells)
            super().update(cells)

    with mock.patch("mlclf.fitting.held_out_decisions.Tuner", RecordingTuner):
        run = mlclf.fit(str(data / "train.parquet"), "label_*", run_folder)
    held_out = Rows(
        scores_of(torch.cat([cells.logits for cells in seen])).numpy(),
        torch.cat([cells.labels for cells in seen]).numpy() > 0,
    )
    test, predicted = data / "test.parquet", run_folder.with_suffix(".scores")
    scores = columns_of(run.predict(str(test), predicted), [f"score_{name}" for name in run.label_names])
    return held_out, Rows(scores, columns_of(test, run.label_names) > 0)


def columns_of(path: Path, names: Sequence[str]) -> Array:
    table = pq.read_table(path, columns=list(names))
    return np.column_stack([table.column(name).to_numpy() for name in names])


# ---------------------------------------------------------------------------------------------------------- the tables


def print_table(
    names: Iterable[str],
    methods: dict[str, tuple[str, Method]],
    sets: Sequence[tuple[Rows, Rows]],
    judge: Callable[[Array, Array], str],
) -> None:
    """Print a line of Markdown for each method, as soon as it is there."""
    print("| method | " + " | ".join(names) + " | seconds |")
    print("|---" * (len(sets) + 2) + "|", flush=True)
    for method, (package, decide) in methods.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            print(f"| {method} |" + " |" * len(sets) + f" not installed ({error}) |", flush=True)
            continue
        cells, seconds = [], 0.0
        for held_out, test in sets:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of labels that have no positive row, or no cut that keeps the promise
                started = time.perf_counter()
                decisions = decide(held_out, test.scores)
                seconds += time.perf_counter() - started
            cells.append(judge(decisions, test.labels))
        print(f"| {method} | " + " | ".join(cells) + f" | {seconds:.1f} |", flush=True)


def f_measures(decisions: Array, labels: Array) -> str:
    micro, macro = (f1_score(labels, decisions, average=how, zero_division=0) for how in ("micro", "macro"))
    return f"{micro:.4f} / {macro:.4f}"


def precisions(decisions: Array, labels: Array) -> str:
    flagged = decisions.any(0)
    below = precision_score(labels, decisions, average=None, zero_division=1) < PRECISION
    if not flagged.any():
        return "0"
    micro = [score(labels, decisions, average="micro") for score in (precision_score, recall_score)]
    return f"{flagged.sum()}, {below.sum()}; {micro[0]:.3f}, {micro[1]:.3f}"


# ----------------------------------------------------------------------------------------- methods for the F measures


def ours(held_out: Rows, scores: Array, objective: str) -> Array:
    thresholds = mlclf.tune_thresholds(held_out.scores, held_out.labels, objective=objective, confidence=CONFIDENCE)
    return thresholds.decide(torch.from_numpy(scores)).numpy()


def best_cut(labels: Array, scores: Array) -> Any:
    """The threshold of the largest F1, by scikit-learn's precision-recall curve; NaN, never, without a positive row."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return thresholds[f1[:-1].argmax()] if labels.any() else np.nan


def cut_of_each(held_out: Rows, scores: Array) -> Array:
    return scores >= np.array([best_cut(*label) for label in zip(held_out.labels.T, held_out.scores.T, strict=True)])


def one_cut(held_out: Rows, scores: Array) -> Array:
    return scores >= best_cut(held_out.labels.ravel(), held_out.scores.ravel())


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose only input is its score."""

    classes_ = np.array([0, 1])

    def fit(self, scores: Array, labels: Array) -> Given:
        return self

    def predict_proba(self, scores: Array) -> Array:
        return np.column_stack([1 - scores[:, 0], scores[:, 0]])


def tuned_classifiers(held_out: Rows, scores: Array) -> Array:
    thresholds = np.full(scores.shape[1], np.nan)
    for label, truth in enumerate(held_out.labels.T):
        if truth.any():
            tuned = TunedThresholdClassifierCV(Given(), scoring="f1", cv="prefit", refit=False)
            thresholds[label] = tuned.fit(held_out.scores[:, [label]], truth.astype(int)).best_threshold_
    return scores >= thresholds


def micromacro_freq(held_out: Rows, scores: Array) -> Array:
    """LibMultiLabel's search (Lin and Lin, CIKM 2023), the most frequent label first.

    `train_thresholding` trains a model in each of its folds, and 0.10 raises a ValueError with SciPy 1.17. So this is
    what it does for each label, with the identity for a model and logits, which its decision values are, for inputs.
    """
    from libmultilabel.linear import linear
    from scipy.sparse import csr_matrix

    logits = logit(held_out.scores.clip(LEAST, 1 - LEAST))
    np.random.seed(0)
    thresholds = np.zeros(held_out.labels.shape[1])
    counts = {"tp": 0, "fp": 0, "fn": 0, "labels": 0}
    with mock.patch.object(linear, "_do_train", return_value=np.matrix([[1.0]])):
        for label in np.argsort(-held_out.labels.sum(0), kind="stable"):
            signs, column = 2 * held_out.labels[:, label].astype(int) - 1, csr_matrix(logits[:, [label]])
            _, bias, counts = linear._micromacro_one_label(signs, column, "", counts)
            thresholds[label] = -bias
    return logit(scores.clip(LEAST, 1 - LEAST)) > thresholds


def frank_wolfe(held_out: Rows, scores: Array, average: str) -> Array:
    """A mixture of weighted classifiers, which decides a test row by one of them at random.

    `find_classifier_optimizing_macro_f1_score_using_fw` of xCOLUMNs 0.0.2 raises a TypeError; what it wraps works.
    """
    from xcolumns import metrics
    from xcolumns.frank_wolfe import find_classifier_using_fw

    classifier = find_classifier_using_fw(
        held_out.labels.astype(float),
        held_out.scores.astype(float),
        getattr(metrics, f"{average}_f1_score_on_conf_matrix"),
        k=0,
        init_classifier="top",
        skip_tn=True,
        seed=0,
    )
    return classifier.predict(scores.astype(float), seed=0) > 0


def block_coordinate(held_out: Rows, scores: Array) -> Array:
    """Decisions of all test rows at once from their probabilities; labels of held-out rows are not used."""
    from xcolumns.block_coordinate import predict_optimizing_macro_f1_score_using_bc

    probabilities = scores.astype(float)
    half = (probabilities >= 0.5).astype(float)
    return predict_optimizing_macro_f1_score_using_bc(probabilities, 0, init_y_pred=half, seed=0) > 0


# ----------------------------------------------------------------------------------------------- methods for precision


def fixed_precision(held_out: Rows, scores: Array) -> Array:
    """Torchmetrics' cut with the largest recall among those that keep the precision on the held-out rows themselves."""
    from torchmetrics.functional.classification import multilabel_recall_at_fixed_precision

    _, thresholds = multilabel_recall_at_fixed_precision(
        torch.from_numpy(held_out.scores),
        torch.from_numpy(held_out.labels).long(),
        held_out.labels.shape[1],
        min_precision=PRECISION,
    )
    return scores >= thresholds.numpy()


def precision_of_labels(held_out: Rows, scores: Array) -> Array:
    """One controller for each label; a label that it finds no cut for is never flagged."""
    from mapie.risk_control import BinaryClassificationController

    thresholds = np.full(scores.shape[1], np.nan)
    for label, truth in enumerate(held_out.labels.T):
        controller = BinaryClassificationController(Given().predict_proba, "precision", PRECISION, CONFIDENCE)
        controller.calibrate(held_out.scores[:, [label]], truth.astype(int))
        if controller.best_predict_param is not None:
            thresholds[label] = controller.best_predict_param
    return scores >= thresholds


def precision_of_rows(held_out: Rows, scores: Array) -> Array:
    """One cut for all labels, such that the mean precision of a row is kept; rows without a label are refused."""
    from mapie.risk_control import MultiLabelClassificationController

    controller = MultiLabelClassificationController(
        lambda given: given, "precision", target_level=PRECISION, confidence_level=CONFIDENCE
    )
    labelled = np.flatnonzero(held_out.labels.any(1))
    for start in range(0, len(labelled), BATCH_ROWS):
        rows = labelled[start : start + BATCH_ROWS]
        controller.compute_risks(held_out.scores[rows], held_out.labels[rows].astype(int))
    controller.compute_best_predict_param()
    return controller.predict(scores)[:, :, 0]


F_MEASURES: dict[str, tuple[str, Method]] = {
    "mlclf, `f1`": ("mlclf", partial(ours, objective="f1")),
    "mlclf, `micro_f1`": ("mlclf", partial(ours, objective="micro_f1")),
    "mlclf, `micro_macro_f1`": ("mlclf", partial(ours, objective="micro_macro_f1")),
    "scikit-learn, best cut of each label": ("sklearn", cut_of_each),
    "scikit-learn, best cut for all": ("sklearn", one_cut),
    "scikit-learn, `TunedThresholdClassifierCV`": ("sklearn", tuned_classifiers),
    "LibMultiLabel, micromacro-freq": ("libmultilabel.linear", micromacro_freq),
    "xCOLUMNs, Frank-Wolfe, macro-F1": ("xcolumns.frank_wolfe", partial(frank_wolfe, average="macro")),
    "xCOLUMNs, Frank-Wolfe, micro-F1": ("xcolumns.frank_wolfe", partial(frank_wolfe, average="micro")),
    "xCOLUMNs, block coordinates, macro-F1": ("xcolumns.block_coordinate", block_coordinate),
}
"""Name → package that it needs, and the method; likewise below."""

PRECISE: dict[str, tuple[str, Method]] = {
    f"mlclf, `precision:{PRECISION}`": ("mlclf", partial(ours, objective=f"precision:{PRECISION}")),
    "MAPIE, each label (`BinaryClassificationController`)": ("mapie.risk_control", precision_of_labels),
    "MAPIE, mean of rows (`MultiLabelClassificationController`)": ("mapie.risk_control", precision_of_rows),
    "torchmetrics, no claim (`multilabel_recall_at_fixed_precision`)": ("torchmetrics", fixed_precision),
}


if __name__ == "__main__":
    main()
