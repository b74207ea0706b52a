"""Scores and labels that are held in memory: arrays, tensors, lists, and frames whose columns have names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mlclf.errors import DataError
from mlclf.messages import some_of

SCORE_PREFIX = "score_"


@dataclass(frozen=True)
class Columns:
    """Numbers [n] or [n, K], and the K names of the columns where what held them has names."""

    numbers: NDArray[Any]
    names: tuple[str, ...] | None


def columns_of(values: Any, what: str) -> Columns:
    """The numbers of an array, a tensor, a list, or a frame of Arrow, polars or pandas, and its names; NaN for missing.

    Raises:
        DataError: it has more than two dimensions, or NumPy makes no array of it.
    """
    if isinstance(values, torch.Tensor):
        return Columns(np.asarray(values.detach().cpu().numpy()), None)
    if isinstance(values, pa.Table):
        found = [values.column(name).to_numpy() for name in values.column_names]
        return Columns(_with_nan(np.column_stack(found)), tuple(values.column_names))
    names = getattr(values, "columns", None)
    try:
        numbers = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be numbers in rows and columns ({error})") from error
    if numbers.ndim not in (1, 2):
        raise DataError(f"{what} must have one or two dimensions, got {numbers.ndim}")
    return Columns(_with_nan(numbers), None if names is None else tuple(map(str, names)))


def _with_nan(values: NDArray[Any]) -> NDArray[Any]:
    """Values with NaN for None and for what stands for a missing value in columns of Python objects."""
    if values.dtype != np.object_:
        return values
    return np.array([np.nan if _is_missing(value) else value for value in values.flat], object).reshape(values.shape)


def _is_missing(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas' NA equals nothing, and does not say so
        return True


def in_order(found: Columns, wanted: Sequence[str] | None, what: str) -> NDArray[Any]:
    """The numbers with the columns in the order of the names that are wanted; as they are where either has none.

    A score may be named as its label is, or with `score_` before it. A single column needs no name.

    Raises:
        DataError: the names are not the same ones, or one is there twice.
    """
    numbers, names = found.numbers, found.names
    if names is None or wanted is None or len(names) < 2 or tuple(names) == tuple(wanted):
        return numbers
    places = {_label(name): place for place, name in enumerate(names)}
    labels = [_label(name) for name in wanted]
    if len(places) < len(names) or set(places) != set(labels):
        raise DataError(
            f"{what} must have the columns {some_of(wanted, 5, 100)}, in any order, got {some_of(names, 5, 100)}; "
            "name them alike, or give arrays, whose columns are taken as they stand"
        )
    return numbers[:, [places[label] for label in labels]]


def _label(name: str) -> str:
    return name.removeprefix(SCORE_PREFIX)
