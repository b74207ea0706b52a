"""Thresholds tuned on scores in memory: arrays, tensors and data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mlclf.decisions.cells.cells import Cells, row_identities, value_identities, with_rows_alone
from mlclf.decisions.cells.in_memory import columns_of, in_order
from mlclf.decisions.score_files.columns import LOGIT, PROBABILITY, file_logits
from mlclf.decisions.score_files.file_thresholds import in_file_scale
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.errors import ConfigError, DataError
from mlclf.jobs.calibrate import DEFAULT_CONFIDENCE, CalibrateOptions

PIECE_CELLS = 1 << 22


def tune_thresholds(
    scores: Any,
    labels: Any,
    *,
    objective: str = "f1",
    score_kind: str = PROBABILITY,
    weights: Any = None,
    label_weights: Any = None,
    groups: Sequence[Any] | None = None,
    confidence: float | None = DEFAULT_CONFIDENCE,
    across_labels: str | None = None,
    prior: Any = None,
    method: str = "auto",
) -> Thresholds:
    """Tune a threshold for each label on the scores of any model, in memory.

    Arrays are what NumPy reads as such: arrays, tensors, lists, and frames of polars, pandas or Arrow. Where both
    scores and labels, or weights of labels, have names, their columns are paired by name; `X` is the label
    of the score `X` or `score_X`.

    Args:
        scores: [n] or [n, K], of rows that the model was not trained on.
        labels: of the same shape, of 0 and 1 or bool; NaN or null where a label was not observed.
        objective: as for `mlclf calibrate`, such as "f1", "micro_f1", "precision:0.9" or "cost:1,20".
        score_kind: "probability" or "logit"; never guessed.
        weights: [n], weights of the rows.
        label_weights: [n, K], by which those of the rows are multiplied for a label.
        groups: [n], names of clusters; rows of one are one observation, a row without a name is its own.
        confidence: what constraints (precision, recall, fpr) hold with, if the rows were used for nothing else; None
            makes no claim.
        across_labels: "fdr" controls a set of labels, None each on its own.
        prior: [K] earlier thresholds in the scale of the scores, NaN where there is none, toward which these are drawn.
        method: "auto" shrinks F measures as cross-validation finds best; "plain" takes the best on these rows.

    Returns:
        Thresholds in the scale of the scores: a decision is ``score >= threshold``, both float32, or `.decide(scores)`.

    Raises:
        ConfigError: an option does not exist, or does not go with the objective.
        DataError: shapes differ, a score is missing or outside [0, 1], or a label is not one.
    """
    _check_words(score_kind, method)
    held = columns_of(scores, "scores")
    names, columns = held.names, _scores(held.numbers, score_kind)
    truth = _labels(in_order(columns_of(labels, "labels"), names, "labels"))
    if label_weights is not None:
        label_weights = in_order(columns_of(label_weights, "label_weights"), names, "label_weights")
    num_rows, num_labels = columns.shape
    of_rows = None if weights is None else _numbers(weights, "weights")
    of_cells = None if label_weights is None else _numbers(label_weights, "label_weights")
    earlier = None if prior is None else _numbers(prior, "prior")
    _check_shapes(
        {
            "labels": (truth, columns.shape),
            "weights": (of_rows, (num_rows,)),
            "label_weights": (of_cells, columns.shape),
            "groups": (None if groups is None else np.empty(len(groups)), (num_rows,)),
            "prior": (earlier, (num_labels,)),
        }
    )
    mass = None if of_rows is None else of_rows.reshape(-1)
    if of_cells is not None:
        mass = of_cells.reshape(columns.shape) * (1 if mass is None else mass[:, None])
    tuner = CalibrateOptions(objective, confidence, across_labels).tuner(
        num_labels,
        prior=None if earlier is None else _as_probabilities(earlier, score_kind),
        method=method,
        clustered=groups is not None,
        greatest_weight=None if mass is None else float(mass.max(initial=0.0)),
    )
    identities = row_identities(torch.arange(num_rows)) if groups is None else _identities(groups)
    step = max(1, PIECE_CELLS // max(1, num_labels))
    for start in range(0, num_rows, step):
        part = slice(start, min(start + step, num_rows))
        codes = truth[part]
        weight = None if mass is None else torch.from_numpy(mass[part])
        tuner.update(
            Cells(
                torch.from_numpy(file_logits(np.ascontiguousarray(columns[part].T), score_kind)).t(),
                torch.from_numpy((codes == 1).astype(np.uint8)),
                identities[part],
                torch.from_numpy(~np.isnan(codes)),
                weight if weight is None or weight.dim() == 1 else None,
                weight if weight is not None and weight.dim() == 2 else None,
            )
        )
    return replace(in_file_scale(tuner.thresholds(), score_kind), label_names=names)


def _check_words(score_kind: str, method: str) -> None:
    if score_kind not in (PROBABILITY, LOGIT):
        raise ConfigError(f"score_kind must be 'probability' or 'logit', got {score_kind!r}")
    if method not in ("auto", "plain"):
        raise ConfigError(f"method must be 'auto' or 'plain', got {method!r}")


def _check_shapes(given: Mapping[str, tuple[NDArray[Any] | None, tuple[int, ...]]]) -> None:
    """Refuse an argument whose shape does not go with the scores; a vector may stand as a matrix of one column."""
    for what, (found, wanted) in given.items():
        if found is not None and found.shape not in (wanted, (*wanted, 1)[:2]):
            raise DataError(
                f"{what} must have the shape {list(wanted)} that goes with the scores, got {list(found.shape)}"
            )


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    try:
        return np.asarray(columns_of(values, what).numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numbers ({error})") from error


def _scores(values: Any, kind: str) -> NDArray[np.float32]:
    """[n, K] float32."""
    numbers = _numbers(values, "scores")
    scores = (numbers[:, None] if numbers.ndim == 1 else numbers).astype(np.float32)
    bad = np.isnan(scores)
    if bad.any():
        row, label = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(f"scores must be numbers, found NaN in row {row}, label {label} ({int(bad.sum())} in all)")
    outside = (scores < 0) | (scores > 1)
    if kind == PROBABILITY and outside.any():
        row, label = (int(index) for index in np.argwhere(outside)[0])
        raise DataError(
            f"probabilities must be from 0 to 1, found {float(scores[row, label])!r} in row {row}, label {label}; "
            "if these are logits, say score_kind='logit'"
        )
    return scores


def _labels(values: Any) -> NDArray[np.float64]:
    """[n, K] float64 of 0, 1 and NaN."""
    numbers = _numbers(values, "labels")
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    wrong = ~(np.isnan(numbers) | (numbers == 0) | (numbers == 1))
    if wrong.any():
        row, label = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"labels must be 0, 1 or missing, found {float(numbers[row, label])!r} in row {row}, label {label}"
        )
    return numbers


def _as_probabilities(prior: NDArray[np.float64], kind: str) -> torch.Tensor:
    logits = file_logits(prior.astype(np.float32), kind)
    return torch.sigmoid(torch.from_numpy(logits).double()).float()


def _identities(groups: Sequence[Any]) -> torch.Tensor:
    try:
        column = pa.array(groups, from_pandas=True)
    except pa.ArrowException as error:
        raise DataError(f"groups must be values of one type ({error})") from error
    return with_rows_alone(value_identities(pa.chunked_array([column])), torch.arange(len(column)))
