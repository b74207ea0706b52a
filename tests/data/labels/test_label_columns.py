from __future__ import annotations

import json
import re
import shlex
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlclf.data.arrow.lists import bits_of, list_parts
from mlclf.data.labels.counts import ColumnCounter, TagCounter
from mlclf.data.labels.label_columns import UNOBSERVED, LabelColumns
from mlclf.data.labels.label_encoder import Labels, make_labels
from mlclf.data.labels.tags import TagList
from mlclf.data.schema.schema import Schema
from mlclf.errors import DataError

WHERE = "a.parquet row group 0"
_ = UNOBSERVED

COLUMNS: list[tuple[pa.DataType, list[Any], list[int]]] = [
    (pa.bool_(), [True, False, None], [1, 0, _]),
    *((kind, [1, 0, None], [1, 0, _]) for kind in (pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64())),
    *((kind, [1, -1, None], [1, 0, _]) for kind in (pa.int8(), pa.int64(), pa.float32(), pa.decimal128(5, 2))),
    (pa.float16(), [np.float16(1), np.float16(0), None, np.float16("nan")], [1, 0, _, _]),
    *((kind, [1.0, 0.0, None, float("nan")], [1, 0, _, _]) for kind in (pa.float32(), pa.float64())),
    (pa.decimal128(5, 2), [Decimal("1.00"), Decimal("0.00"), None], [1, 0, _]),
    (pa.null(), [None, None], [_, _]),
    *((kind, ["YES", "no", None, "Yes"], [1, 0, _, 1]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.string(), ["y", "N", None], [1, 0, _]),
    (pa.string(), ["TRUE", "false", None], [1, 0, _]),
    (pa.string(), ["t", "F", None], [1, 0, _]),
    (pa.string(), ["1", "0", None], [1, 0, _]),
    (pa.string(), ["1", "-1", None], [1, 0, _]),
    (pa.dictionary(pa.int8(), pa.string()), ["yes", "no", None, "yes"], [1, 0, _, 1]),
]


def codes_of(labels: Labels, table: pa.Table) -> NDArray[np.uint8]:
    """Codes of every cell, after what is said of their being complete was seen to be true."""
    codes = np.full((table.num_rows, len(labels.names)), 9, np.uint8)
    assert labels.encode(table, WHERE, codes) == (not (codes == UNOBSERVED).any())
    return codes


@pytest.mark.parametrize(("kind", "values", "expected"), COLUMNS, ids=[f"{case[0]}-{case[1][1]}" for case in COLUMNS])
def test_every_way_of_writing_a_label(kind: pa.DataType, values: list[Any], expected: list[int]) -> None:
    array = pa.array(values, kind)
    table = pa.table({"y": pa.chunked_array([array, array.slice(1)])})
    for declared in ({}, {"unused": 1}):
        codes = codes_of(LabelColumns(("y",), declared), table)
        assert codes.dtype == np.uint8
        assert codes[:, 0].tolist() == expected + expected[1:]


def test_mappings_are_said() -> None:
    labels = LabelColumns(("a", "b", "c", "d"))
    table = pa.table({"a": [1, -1], "b": ["Yes", "NO"], "c": [0, 1], "d": ["no", None]})
    assert codes_of(labels, table).tolist() == [[1, 1, 0, 0], [0, 0, 1, _]]
    assert labels.mappings() == [
        "labels 'a': '-1' is read as 0, '1' as 1",
        "labels 'b', 'd': 'no' is read as 0, 'yes' as 1",
    ]


def test_declared_values_come_first() -> None:
    declared = {"2": 1, "9": None, "spam": 1, "ham": 0, "0": 1, "1": 0}
    table = pa.table({"a": [2, 9, 0, 1, None], "b": ["spam", "ham", "9", "yes", None], "c": [2.0, 9.0, -1.0, 1.0, None],
                      "d": [True, False, None, True, True]})  # fmt: skip
    codes = codes_of(LabelColumns(tuple("abcd"), declared), table)
    assert codes.T.tolist() == [[1, _, 1, 0, _], [1, 0, _, 1, _], [1, _, 0, 0, _], [0, 1, _, 0, 0]]


SAY = "say what the values mean, such as --set 'data.label_values="
OR = "' (0, 1, or null for not observed)"
LISTS = "; classes and tags are to be in a column of lists"
REFUSED: list[tuple[list[Any], str]] = [
    ([0, 1, 2, 3], "must be 0, 1 or null, found '2', '3'; " + SAY + '{"2": null, "3": null}' + OR + LISTS),
    ([0.0, 2.0], "must be 0, 1 or null, found '2'; " + SAY + '{"2": 1}' + OR),
    ([1, 2], "must be 0, 1 or null, found '2'; " + SAY + '{"1": 0, "2": 1}' + OR),
    ([0, 1, -100], "must be 0, 1 or null, found '-100'; " + SAY + '{"-100": null}' + OR),
    ([0.5, float("inf")], "must be 0, 1 or null, found '0.5', 'inf'; " + SAY + '{"0.5": 0, "inf": 1}' + OR),
    (["spam", "ham", None], "must be 0, 1 or null, found 'ham', 'spam'; " + SAY + '{"ham": 0, "spam": 1}' + OR),
    (["maybe", "no"], "must be 0, 1 or null, found 'maybe'; " + SAY + '{"maybe": 1}' + OR),
    (["", "no"], "must be 0, 1 or null, found ''; " + SAY + '{"": null}' + OR),
    (['a"b', "no"], "must be 0, 1 or null, found 'a\"b'; " + SAY + '{"a\\"b": 1}' + OR),
    (["it's", "no"], 'must be 0, 1 or null, found "it\'s"; ' + SAY + '{"it\'"\'"\'s": 1}' + OR),
    (
        ["a" * 300, "no"],
        (
            f"must be 0, 1 or null, found '{'a' * 39}…'; say what the values mean, under data.label_values in a file "
            "for --config (0, 1, or null for not observed)"
        ),
    ),
    (
        list("hbcdega"),
        "must be 0, 1 or null, found 'a', 'b', 'c', 'd', 'e' and 2 more; "
        + SAY
        + '{"a": 0, "b": null, "c": null, "d": null, "e": 1}'
        + OR
        + LISTS,
    ),
    (
        [0, 1, -1],
        (
            "holds both 0 and -1, so what means negative is not known; "
            'say it, such as --set \'data.label_values={"-1": null, "0": 0}\' (null is not observed)'
        ),
    ),
    (
        ["yes", "f"],
        (
            "mixes the words of f/t and no/yes; "
            'say what each value means, such as --set \'data.label_values={"f": 0, "yes": 1}\''
        ),
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_other_values_are_refused(values: list[Any], message: str) -> None:
    whole = f"{WHERE}: label 'y' {message}"
    with pytest.raises(DataError, match=f"^{re.escape(whole)}$"):
        codes_of(LabelColumns(("y",)), pa.table({"y": values}))


VALUES = st.sampled_from(
    ["0", "1", "2", "-1", "0.5", "7", "-100", "yes", "No", "t", "on", "off", "maybe", "Y", "", "é"]
)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(VALUES, min_size=2, max_size=6, unique=True))
def test_hints_can_be_pasted_and_never_make_all_values_positive(values: list[str]) -> None:
    table, declared = pa.table({"y": values}), dict[str, int | None]()
    for _again in range(8):
        try:
            codes = codes_of(LabelColumns(("y",), declared), table)[:, 0].tolist()
            break
        except DataError as error:
            hint = re.search(r"--set (.*?\}')", str(error))
            assert hint is not None
            (text,) = shlex.split(hint[1])
            declared |= json.loads(text.removeprefix("data.label_values="))
    else:
        pytest.fail("no end of hints")
    assert not declared or set(codes) != {1}, declared


MET: list[tuple[list[Any], dict[str, int | None]]] = [
    (["Yes", "No"], {"Yes": 0, "No": 1}),
    ([1, 0], {"1": 0, "0": 1}),
    ([1.0, 0.0], {"1.0": 0, "0": 1}),
    ([True, False], {"true": 0, "False": 1}),
    ([True, False], {"1": 0, "0": 1}),
    ([True, None, False], {"TRUE": 0, "0": 1}),
    ([2.5, 10.0, -1.0], {"2.50": 1, "1e1": 0, "-1": 0}),
    (["a", "b"], {"a": 1, "b": 0, "unknown": None}),
]


@pytest.mark.parametrize(("values", "declared"), MET)
def test_declared_values_are_met_as_text_number_or_truth(values: list[Any], declared: dict[str, int | None]) -> None:
    labels = LabelColumns(("y",), declared)
    codes = codes_of(labels, pa.table({"y": values}))[:, 0].tolist()
    expected = list(declared.values())[: len(values)]
    if None in values:
        expected.insert(values.index(None), None)
    assert codes == [_ if code is None else code for code in expected]
    unmet = [
        f"data.label_values: no label has the value {value!r} in any row" for value in declared if value == "unknown"
    ]
    assert labels.check_declared() == unmet


UNMET: list[tuple[list[Any], dict[str, int | None], str, str]] = [
    (["Yes", "No"], {"YES": 0, "NO": 1}, "'YES', 'NO'", "'No', 'Yes'"),
    (["Yes", "No"], {"Yes": 1, "NO": None}, "'NO'", "'No', 'Yes'"),
    (["yes", "no"], {"yes ": 0, "no": 1}, "'yes '", "'no', 'yes'"),
    ([0, 1], {"true": 1, "false": 0}, "'true', 'false'", "'0', '1'"),
    (["0", "1"], {"0.0": 1, "1": 0}, "'0.0'", "'0', '1'"),
    ([True, False], {"yes": 0, "no": 1}, "'yes', 'no'", "'0', '1'"),
    ([None, None], {"a": 1}, "'a'", "none"),
]


@pytest.mark.parametrize(("values", "declared", "unmet", "found"), UNMET)
def test_declared_values_that_match_nothing_are_refused(
    values: list[Any], declared: dict[str, int | None], unmet: str, found: str
) -> None:
    labels = LabelColumns(("y",), declared)
    kind = pa.string() if values == [None, None] else None
    codes_of(labels, pa.table({"y": pa.array(values, kind)}))
    message = (
        f"data.label_values: every value must be one of the labels', found {unmet} in no row that was read; "
        f"the labels hold {found}: write the values as the data has them, or leave them out"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        labels.check_declared()


def test_kinds_are_not_mixed_across_tables_either() -> None:
    labels = LabelColumns(("y",))
    codes_of(labels, pa.table({"y": [0, 1]}))
    for _again in range(2):
        with pytest.raises(DataError, match="holds both 0 and -1"):
            codes_of(labels, pa.table({"y": [-1, 1]}))


TAGS = st.lists(st.none() | st.lists(st.sampled_from(["a", "b", "c", "é", "a b", ""]), max_size=5), max_size=12)
LIST_KINDS = [
    pa.list_(pa.string()),
    pa.large_list(pa.string()),
    pa.list_(pa.large_string()),
    pa.list_(pa.dictionary(pa.int32(), pa.string())),
]


@settings(max_examples=60, deadline=None)
@given(rows=TAGS, kind=st.sampled_from(LIST_KINDS), skip=st.integers(0, 3), known=st.permutations(["a", "b", "é"]))
def test_tags_are_those_of_each_row(rows: list[list[str] | None], kind: Any, skip: int, known: list[str]) -> None:
    tags = TagList("t")
    tags.set_names(known)
    array = pa.array(rows, pa.list_(pa.string())).cast(kind).slice(skip)
    codes = codes_of(tags, pa.table({"t": array}))
    kept = rows[skip:]
    expected = [[_] * 3 if row is None else [int(tag in row) for tag in known] for row in kept]
    assert codes.tolist() == expected
    assert tags.unseen_tags == sum(len(set(row or []) - set(known)) for row in kept)


def test_integer_tags_are_exact() -> None:
    counter = TagCounter(tags := TagList("t"), 1)
    counter.add(pa.table({"t": [[2**53 + 1, 2**53], [2**53 + 1]]}), WHERE, np.ones(2), np.zeros(2, np.int8))
    counter.finish()
    assert tags.names == (str(2**53 + 1), str(2**53))


@settings(max_examples=60, deadline=None)
@given(tables=st.lists(TAGS, max_size=4), data=st.data())
def test_tags_are_counted_in_every_row_also_before_they_turn_up(
    tables: list[list[list[str] | None]], data: Any
) -> None:
    tags = TagList("t")
    counter = TagCounter(tags, 2)
    seen: list[tuple[list[str] | None, float, int]] = []
    for rows in tables:
        weights = np.array(
            data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=len(rows), max_size=len(rows)))
        )
        parts = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))), np.int8)
        counter.add(pa.table({"t": pa.array(rows, pa.list_(pa.string()))}), WHERE, weights, parts)
        seen += zip(rows, weights.tolist(), parts.tolist(), strict=True)
    counts = counter.finish()
    found = {tag for row, _weight, _part in seen for tag in row or []}
    number = {tag: sum(tag in (row or []) for row, _weight, _part in seen) for tag in found}
    assert tags.names == tuple(sorted(found, key=lambda tag: (-number[tag], tag)))
    for part in range(2):
        mine = [(row, weight) for row, weight, of in seen if of == part and row is not None]
        for index, tag in enumerate(tags.names):
            assert counts.positives[part, index] == sum(weight for row, weight in mine if tag in row)
            assert counts.totals[part, index] == sum(weight for _row, weight in mine)
            assert counts.positive_rows[part, index] == sum(tag in row for row, weight in mine if weight)
            assert counts.rows[part, index] == sum(weight > 0 for _row, weight in mine)


def test_label_columns_are_counted() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (50, 3))
    weights, parts = rng.choice([0.0, 1.0, 0.25], 50), rng.integers(0, 2, 50).astype(np.int8)
    columns = {str(k): [None if code == _ else int(code) for code in codes[:, k]] for k in range(3)}
    counter = ColumnCounter(LabelColumns(("0", "1", "2")), 2)
    counter.add(pa.table(columns), WHERE, weights, parts)
    counts = counter.finish()
    for part in range(2):
        for label in range(3):
            mine = [(codes[i, label], weights[i]) for i in range(50) if parts[i] == part]
            assert counts.positives[part, label] == sum(weight for code, weight in mine if code == 1)
            assert counts.totals[part, label] == sum(weight for code, weight in mine if code != _)
            assert counts.positive_rows[part, label] == sum(weight > 0 for code, weight in mine if code == 1)
            assert counts.rows[part, label] == sum(weight > 0 for code, weight in mine if code != _)


def test_a_null_inside_a_list_is_refused() -> None:
    message = (
        f"{WHERE}: column 't' has a list with a null inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        codes_of(TagList("t"), pa.table({"t": [["a", None], None]}))


def test_shards_without_a_tag() -> None:
    tags = TagList("t")
    tags.set_names(["a"])
    assert codes_of(tags, pa.table({"t": pa.nulls(2)})).tolist() == [[_], [_]]
    assert codes_of(tags, pa.table({"t": pa.array([[], None], pa.list_(pa.null()))})).tolist() == [[0], [_]]


def test_list_parts_of_slices() -> None:
    array = pa.array([[1], [2, 3], None, [], [4]])
    offsets, values = list_parts(array.slice(1, 4))
    assert (offsets.tolist(), values.to_pylist()) == ([0, 2, 2, 2, 3], [2, 3, 4])


def test_the_encoder_follows_the_schema() -> None:
    assert make_labels(Schema((), ("a", "b")), {"x": 1}) == LabelColumns(("a", "b"), {"x": 1})
    tags = make_labels(Schema((), ("t",), tags=True), {}, ["b", "a"])
    assert isinstance(tags, TagList)
    assert tags.names == ("b", "a")


@pytest.mark.parametrize("start", [0, 1, 7, 8, 13])
@pytest.mark.parametrize("length", [0, 1, 9, 64, 100])
def test_bits_of_slices(start: int, length: int) -> None:
    values = np.random.default_rng(0).random(200) < 0.4
    found = bits_of(pa.array(values).slice(start, length))
    assert found.dtype == np.uint8
    assert found.tolist() == values[start : start + length].tolist()
