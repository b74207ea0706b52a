from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.arrow.materialized import materialized
from mlclf.data.labels.counts import ColumnCounter
from mlclf.data.labels.label_columns import UNOBSERVED, LabelColumns
from mlclf.data.labels.label_encoder import make_labels
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.label_lists import num_elements, spread
from mlclf.data.schema.schema import Schema
from mlclf.errors import ConfigError, DataError

_ = UNOBSERVED
HOT = [[0, 1, 0], [1, 1, 0], None, [0, 0, 1]]
KINDS = [
    pa.list_(pa.int64()), pa.large_list(pa.int8()), pa.list_(pa.uint8()), pa.list_(pa.float32()),
    pa.list_(pa.float64()), pa.list_(pa.bool_()), pa.list_(pa.int32(), 3), pa.list_(pa.float32(), 3),
    pa.list_(pa.bool_(), 3), pa.list_view(pa.int64()),
]  # fmt: skip


def plan_of(folder: Path, *columns: Any) -> Plan:
    for index, column in enumerate(columns):
        pq.write_table(pa.table({"x": range(len(column)), "y": column}), folder / f"{index}.parquet", row_group_size=2)
    return make_plan(str(folder))


def array_of(rows: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind.value_type):
        rows = [None if row is None else [None if value is None else bool(value) for value in row] for row in rows]
    return pa.array(rows, kind)


def refused(kind: type[Exception], message: str) -> Any:
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_0_and_1_are_a_label_for_each_element(tmp_path: Path, kind: pa.DataType) -> None:
    schema = find_schema(plan_of(tmp_path, array_of(HOT, kind), pa.nulls(2)), ["y"])
    assert (schema.labels, schema.elements, schema.tags) == (("y",), 3, False)
    assert Schema.from_json(schema.to_json()) == schema
    labels = make_labels(schema, {})
    assert isinstance(labels, LabelColumns)
    assert labels.names == ("y[0]", "y[1]", "y[2]")
    table = pa.table({"y": materialized(array_of(HOT, kind))})
    assert labels.codes(table, "place").tolist() == [[0, 1, 0], [1, 1, 0], [_, _, _], [0, 0, 1]]
    assert labels.codes(table.slice(1, 2), "place").tolist() == [[1, 1, 0], [_, _, _]]
    counter = ColumnCounter(labels, 1)
    counter.add(table, "place", np.ones(4), np.zeros(4, np.int8))
    assert counter.finish().positives.tolist() == [[1, 2, 1]]


def test_elements_are_read_as_columns_are(tmp_path: Path) -> None:
    lists = [[-1, 1, None], [1, -1, -1], [-1, -1, 1]]
    schema = find_schema(plan_of(tmp_path, lists), ["y"])
    labels = make_labels(schema, {})
    assert labels.codes(pa.table({"y": lists}), "p").tolist() == [[0, 1, _], [1, 0, 0], [0, 0, 1]]  # type: ignore[union-attr]
    floats = [[0.0, float("nan")], [1.0, 0.0]]
    assert LabelColumns(("y[0]", "y[1]"), list_column="y").codes(pa.table({"y": floats}), "p").tolist() == [
        [0, _],
        [1, 0],
    ]
    declared = LabelColumns(("y[0]", "y[1]"), {"-100": None, "5": 1}, list_column="y")
    assert declared.codes(pa.table({"y": [[-100, 5], [0, 1]]}), "p").tolist() == [[_, 1], [0, 1]]


def test_what_stands_for_missing_is_to_be_declared(tmp_path: Path) -> None:
    lists = [[0, -100], [1, 0], [0, 1]]
    schema = find_schema(plan_of(tmp_path, lists), ["y"])
    assert schema.elements == 2
    message = (
        "p: label 'y[1]' must be 0, 1 or null, found '-100'; say what the values mean, such as "
        "--set 'data.label_values={\"-100\": null}' (0, 1, or null for not observed)"
    )
    with refused(DataError, message):
        make_labels(schema, {}).encode(pa.table({"y": lists}), "p", np.empty((3, 2), np.uint8))
    declared = make_labels(schema, {"-100": None})
    assert isinstance(declared, LabelColumns)
    assert declared.codes(pa.table({"y": lists}), "p").tolist() == [[0, _], [1, 0], [0, 1]]


TAGS: dict[str, list[Any]] = {
    "other numbers": [[0, 1], [2, 3]],
    "one of them late": [[0], [1]] * 1500 + [[7]],
    "several lengths": [[0, 1], [1], [0], []],
    "empty": [[], None],
    "sentiments": [[-1], [0], [1]],
}


@pytest.mark.parametrize("name", TAGS)
def test_other_lists_of_integers_are_tags(tmp_path: Path, name: str) -> None:
    schema = find_schema(plan_of(tmp_path, pa.array(TAGS[name], pa.list_(pa.int64()))), ["y"])
    assert (schema.tags, schema.elements, schema.notes) == (True, 0, ())


def test_one_can_say_what_lists_hold(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HOT)
    (note,) = find_schema(plan, ["y"]).notes
    assert note == (
        "label 'y' has lists of 0 and 1, 3 in each: element k is the label 'y[k]'; data.label_lists=tags takes them "
        "for tags"
    )
    tags = find_schema(plan, ["y"], label_lists="tags")
    assert (tags.tags, tags.elements) == (True, 0)
    assert find_schema(plan, ["y"], label_lists="elements").elements == 3
    assert num_elements(plan, "y", "integers", "elements") == 3
    with refused(ConfigError, "data.label_lists=tags: tags are text or integers, and column 'y' holds neither; "
                 "leave it out"):  # fmt: skip
        num_elements(plan, "y", "floats", "tags")
    with refused(
        ConfigError, "data.label_lists=elements: elements are 0 and 1, and column 'y' holds text; leave it out"
    ):
        num_elements(plan, "y", "strings", "elements")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    message = (
        f"{path} row group 0: column 'y' has lists of 0 and 1 with 3 and with 4 elements: elements that are labels "
        "must be as many in each list, and tags are in a list once; write one column a label, or say that these are "
        "tags with --set data.label_lists=tags"
    )
    plan = plan_of(tmp_path, [[0, 1, 0], [0, 1, 0, 1]])
    with refused(DataError, message):
        find_schema(plan, ["y"])
    assert find_schema(plan, ["y"], label_lists="tags").tags
    hollow = plan_of(tmp_path, pa.array([[], None], pa.list_(pa.float32())))
    with refused(DataError, "column 'y' has no list with an element; name another column with --labels"):
        find_schema(hollow, ["y"])


def test_lists_of_another_length_are_refused() -> None:
    message = (
        "place: column 'y' must have lists of 2 labels, found one of 3; make them of one length, null for not observed"
    )
    with refused(DataError, message):
        spread(pa.table({"y": [[0, 1], None, [0, 1, 1]]}), "y", ["a", "b"], "place")


def test_lists_of_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^label 'y' must be bool, numbers or strings, got list<element: list<"):
        find_schema(plan_of(tmp_path, [[[0]], [[1]]]), ["y"])


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.sampled_from([0, 1, None]), min_size=4, max_size=4), max_size=12),
    kind=st.sampled_from([pa.list_(pa.int8()), pa.large_list(pa.float64()), pa.list_(pa.bool_(), 4)]),
    skip=st.integers(0, 3),
)
def test_spread_gives_each_element_its_column(rows: list[Any], kind: pa.DataType, skip: int) -> None:
    table = pa.table({"y": array_of(rows, kind).slice(skip)})
    codes = LabelColumns(tuple("abcd"), list_column="y").codes(table, "place")
    expected = [[_] * 4 if row is None else [_ if value is None else value for value in row] for row in rows[skip:]]
    assert codes.tolist() == expected
