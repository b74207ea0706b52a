"""Metrics by a column are those of its rows alone; too many values are pooled, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch
from made_cells import made_cells, part_of, scores_of

from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.evaluation.by_column import SlicedEvaluation
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.errors import DataError

THRESHOLDS = torch.tensor([0.2, 0.5, 0.05, 0.9])
NAMES = ["a", "b", "c", "d"]
HALVES = torch.full((4,), 0.5, dtype=torch.float64)


def made(rows: int = 90, values: int = 3) -> tuple[pa.Array, Cells]:
    column = pa.array([None if row % 10 == 9 else f"v{row % values}" for row in range(rows)])
    return column, made_cells(0, rows, weighted=False)


def evaluated(column: pa.Array, cells: Cells, **options: Any) -> SlicedEvaluation:
    by = SlicedEvaluation("site", THRESHOLDS, **options)
    for start in range(0, len(cells), 37):
        part = part_of(cells, slice(start, start + 37))
        by.update(column[start : start + 37], part, scores_of(part.logits))
    return by


def report(by: SlicedEvaluation) -> dict[str, Any]:
    document: dict[str, Any] = by.report(NAMES, HALVES)["by"]
    return document


def alone(cells: Cells, num_bins: int) -> dict[str, Any]:
    evaluation = Evaluation(THRESHOLDS, num_bins)
    evaluation.update(cells, scores_of(cells.logits))
    return evaluation.report(NAMES, HALVES)


def same(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got["rows"] == want["rows"]
    for name in ("macro", "micro", "ranking", "labels"):
        assert flat(got[name]) == pytest.approx(flat(want[name]), abs=1e-9, nan_ok=True)


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, float | None]:
    found = {}
    for name, value in document.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_each_value_is_evaluated_as_if_alone(kind: pa.DataType) -> None:
    column, cells = made()
    by = evaluated(column.cast(kind), cells)
    document = report(by)
    assert document["column"] == "site"
    assert list(document["values"]) == ["v0", "v1", "v2"]
    assert (document["other"], document["pooled_values"]) == (None, 0)
    for value, got in [*document["values"].items(), (None, document["missing"])]:
        chosen = torch.tensor([found == value for found in column.to_pylist()])
        same(got, alone(cells.where(chosen), by.num_bins))


def test_values_past_the_limit_are_pooled_and_counted() -> None:
    column, cells = made(values=7)
    by = evaluated(column, cells, most_values=4)
    document = report(by)
    assert list(document["values"]) == ["v0", "v1", "v2", "v3"]
    assert document["pooled_values"] == 3
    chosen = torch.tensor([found in ("v4", "v5", "v6") for found in column.to_pylist()])
    same(document["other"], alone(cells.where(chosen), by.num_bins))
    rows = sum(value["rows"] for value in [*document["values"].values(), document["other"], document["missing"]])
    assert rows == 90


def test_numbers_are_values_by_their_text() -> None:
    _, cells = made(6)
    document = report(evaluated(pa.array([1, 2, None, 1, 1, 1]), cells))
    assert {value: found["rows"] for value, found in document["values"].items()} == {"1": 4, "2": 1}


def test_parts_merge() -> None:
    column, cells = made(values=7)
    whole, head = evaluated(column, cells), evaluated(column[:31], part_of(cells, slice(0, 31)))
    head.merge(evaluated(column[31:], part_of(cells, slice(31, None))))
    got, want = report(head), report(whole)
    assert got["values"].keys() == want["values"].keys()
    for value, document in want["values"].items():
        same(got["values"][value], document)
    same(got["missing"], want["missing"])


def test_a_value_that_a_part_pooled_is_pooled_in_the_whole() -> None:
    cells = made_cells(0, 6, masked=False, weighted=False)
    head = evaluated(pa.array(["x", "y", "z"]), part_of(cells, slice(0, 3)), most_values=2)  # pools z
    tail = evaluated(pa.array(["z", "x", "x"]), part_of(cells, slice(3, 6)), most_values=2)  # has its own z
    head.merge(tail)
    document = report(head)
    assert {value: found["rows"] for value, found in document["values"].items()} == {"x": 3, "y": 1}
    assert document["other"]["rows"] == 2
    assert document["pooled_values"] == 1


def test_bins_and_values_fit_the_budget() -> None:
    for num_labels, budget in ((4, 1 << 22), (100, 1 << 28), (5000, 1 << 28)):
        by = SlicedEvaluation("site", torch.full((num_labels,), 0.5), budget_bytes=budget)
        assert num_labels * by.num_bins * 24 * (by.most_values + 2) <= budget
    message = (
        "metrics by a column of 50,000 labels need 1,228,800,000 bytes for two values, got a budget of 268,435,456"
    )
    with pytest.raises(DataError, match=message):
        SlicedEvaluation("site", torch.full((50_000,), 0.5))


def test_values_are_one_a_row() -> None:
    column, cells = made()
    with pytest.raises(ValueError, match=r"^values must be one a row, got 3 for 90 rows$"):
        SlicedEvaluation("site", THRESHOLDS).update(column[:3], cells, scores_of(cells.logits))
