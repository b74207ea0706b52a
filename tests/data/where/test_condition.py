from __future__ import annotations

import datetime as dt
import math
import operator
import pickle
import re
import sqlite3
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_conditions import COLUMNS, TIMES, conditions, tables

from mlclf.data.where.condition import parse_where
from mlclf.data.where.literals import nanoseconds
from mlclf.errors import ConfigError

SQL_NAMES = [name for name in COLUMNS if name not in TIMES]
PYTHON = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def kept(text: str, values: Any, kind: pa.DataType | None = None) -> list[int]:
    """Indices of the values that are kept, of a column called x."""
    return np.flatnonzero(parse_where(text).mask(pa.table({"x": pa.array(values, kind)}))).tolist()


# ---- against oracles


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(table=tables(), text=conditions(SQL_NAMES))
def test_mask_is_that_of_sqlite(table: pa.Table, text: str) -> None:
    with sqlite3.connect(":memory:") as database:
        names = ", ".join(f'"{name}"' for name in SQL_NAMES)
        database.execute(f"CREATE TABLE data ({names})")
        rows = [[as_sql(row[name]) for name in SQL_NAMES] for row in table.to_pylist()]
        database.executemany(f"INSERT INTO data VALUES ({', '.join('?' * len(SQL_NAMES))})", rows)
        found = {row for (row,) in database.execute(f"SELECT rowid - 1 FROM data WHERE {text}")}
    database.close()
    mask = parse_where(text).mask(table)
    assert mask.dtype == np.bool_
    assert set(np.flatnonzero(mask).tolist()) == found


def as_sql(value: Any) -> Any:
    """SQLite makes NULL of NaN by itself."""
    return float(value) if isinstance(value, Decimal | np.floating) else value


WIDTHS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.uint8(): st.integers(0, 255),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.decimal128(20, 0): st.integers(-(10**20) + 1, 10**20 - 1).map(Decimal),
    pa.decimal128(5, 3): st.integers(-99_999, 99_999).map(
        lambda units: Decimal((int(units < 0), (*digits(units),), -3))
    ),
    pa.decimal256(50, 10): st.integers(-(10**30), 10**30).map(Decimal),
    pa.decimal32(7, 2): st.integers(-(10**5) + 1, 10**5 - 1).map(Decimal),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.dictionary(pa.int16(), pa.int64()): st.integers(-(2**63), 2**63 - 1),
}


def digits(number: int) -> list[int]:
    return [int(digit) for digit in str(abs(number))]


@settings(max_examples=600, deadline=None)
@given(data=st.data(), sign=st.sampled_from(list(PYTHON)))
def test_numbers_of_every_width_compare_exactly(data: st.DataObject, sign: str) -> None:
    kind = data.draw(st.sampled_from(list(WIDTHS)))
    values = data.draw(st.lists(WIDTHS[kind], min_size=1, max_size=5))
    near = st.sampled_from([value for value in values if math.isfinite(value)] or [0])
    shift = st.sampled_from([0, 1, -1, Fraction(1, 4), Fraction(-1, 2), 2**64, -(2**64), 10**60])
    literal = Fraction(data.draw(near)) + data.draw(shift)
    text = str(Decimal(literal.numerator * 10**1100 // literal.denominator).scaleb(-1100).normalize())
    text = f"{round(literal)}" if len(text) > 300 else text
    literal = Fraction(text)
    rounded = as_float(literal, kind) if pa.types.is_floating(kind) else literal
    expected = [row for row, value in enumerate(values) if PYTHON[sign](exact(value), rounded)]
    assert kept(f"x {sign} {text}", values, kind) == expected
    assert kept(f"NOT x {sign} {text}", values, kind) == sorted(set(range(len(values))) - set(expected))
    if sign == "=":
        assert kept(f"x IN (7e30, {text})", values, kind) == [
            row for row, value in enumerate(values) if exact(value) in (rounded, as_float(Fraction("7e30"), kind))
        ]


def exact(value: Any) -> Any:
    return Fraction(value) if math.isfinite(value) else float(value)


def as_float(literal: Fraction, kind: pa.DataType) -> Any:
    """The literal as the type stores it; exact where it is too large."""
    if not pa.types.is_floating(kind):
        return literal
    with np.errstate(over="ignore"):
        rounded = float(kind.to_pandas_dtype()(float(literal)))
    return literal if math.isinf(rounded) else rounded


@settings(max_examples=200, deadline=None)
@given(data=st.data(), sign=st.sampled_from(list(PYTHON)))
def test_times_of_every_unit_compare_exactly(data: st.DataObject, sign: str) -> None:
    units = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    kind = data.draw(
        st.sampled_from(
            [pa.date32(), pa.date64(), *(pa.timestamp(unit, zone) for unit in units for zone in (None, "UTC"))]
        )
    )
    unit = 86_400 * 10**9 if kind == pa.date32() else units["ms" if kind == pa.date64() else kind.unit]
    moment = data.draw(st.datetimes(dt.datetime(1680, 1, 1), dt.datetime(2250, 1, 1)))
    text = moment.isoformat(data.draw(st.sampled_from([" ", "T"])))
    if data.draw(st.booleans()):
        text = text.partition(":")[0] + ":00"
    literal = nanoseconds(text)
    assert literal is not None
    values = [literal // unit + shift for shift in (-1, 0, 1)]
    array = pa.array(values, pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    expected = [row for row, value in enumerate(values) if PYTHON[sign](value * unit, literal)]
    assert kept(f"x {sign} '{text}'", array) == expected
    assert kept(f"x IN ('{text}')", array) == [row for row, value in enumerate(values) if value * unit == literal]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), sign=st.sampled_from(list(PYTHON)))
def test_columns_of_different_types_compare_exactly(data: st.DataObject, sign: str) -> None:
    exact_kinds = [kind for kind in WIDTHS if not pa.types.is_floating(kind)]
    left, right = (data.draw(st.sampled_from(exact_kinds)) for _ in range(2))
    pairs = data.draw(st.lists(st.tuples(WIDTHS[left], WIDTHS[right]), min_size=1, max_size=5))
    pairs += [(value, value) for value in (0, 5)]
    table = pa.table({"a": pa.array([a for a, _ in pairs], left), "b": pa.array([b for _, b in pairs], right)})
    expected = [PYTHON[sign](Fraction(a), Fraction(b)) for a, b in pairs]
    assert parse_where(f"a {sign} b").mask(table).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(max_size=40)
    | st.lists(st.sampled_from(["a", "(", ")", "NOT", "IN", "1", "'", "=", "-", "IS", "AND"])).map(" ".join)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        where = parse_where(text)
    except ConfigError as error:
        assert str(error).startswith("data.where: ")  # noqa: PT017
    else:
        assert str(where) == text


# ---- values


def test_null_and_nan_are_neither_true_nor_false() -> None:
    values = [1.0, None, math.nan, 5.0, math.inf]
    assert kept("x > 2", values) == [3, 4]
    assert kept("NOT x > 2", values) == [0]
    assert kept("x != 5", values) == [0, 4]
    assert kept("x NOT IN (5)", values) == [0, 4]
    assert kept("x = x", values) == [0, 3, 4]
    assert kept("x != x", values) == []
    assert kept("x IS NULL", values) == [1, 2]
    assert kept("x IS NOT NULL", values) == [0, 3, 4]
    assert kept("x NOT BETWEEN 2 AND 9", values) == [0, 4]
    assert kept("x > 2 OR TRUE", values) == [0, 1, 2, 3, 4]
    assert kept("x > 2 AND FALSE", values) == []


@pytest.mark.parametrize(
    ("text", "values", "kind", "expected"),
    [
        ("x < 300", [0, 255], pa.uint8(), [0, 1]),
        ("x > -1", [0, 255, None], pa.uint8(), [0, 1]),
        ("x = -1", [0, 255], pa.uint8(), []),
        ("x != 300", [0, 255, None], pa.uint8(), [0, 1]),
        ("x NOT IN (300, -1)", [0, 255, None], pa.uint8(), [0, 1]),
        ("x IN (300, 1.5)", [0, 255, 1], pa.uint8(), []),
        ("x > 1.5", [1, 2], pa.int8(), [1]),
        ("x <= 1.5", [1, 2], pa.int8(), [0]),
        ("x >= -1.5", [-2, -1], pa.int8(), [1]),
        ("x = 2.0", [1, 2], pa.int8(), [1]),
        ("x = 9007199254740993", [2**53, 2**53 + 1], pa.int64(), [1]),
        ("x IN (9007199254740993)", [2**53, 2**53 + 1], pa.int64(), [1]),
        ("x = 18446744073709551615", [2**64 - 1, 0], pa.uint64(), [0]),
        ("x = 0.1", [0.1, 0.2], pa.float32(), [0]),
        ("x <= .1", [0.1, 0.2], pa.float32(), [0]),
        ("x IN (1e-1)", [0.1, 0.2], pa.float16(), [0]),
        ("x IN (0)", [0.0, -0.0, 1.0], pa.float64(), [0, 1]),
        ("x = -0.0", [0.0, -0.0, 1.0], pa.float32(), [0, 1]),
        ("x > 1e39", [3e38, math.inf], pa.float32(), [1]),
        ("x = 1e39", [3e38, math.inf], pa.float32(), []),
        ("x > -1e309", [-math.inf, -1e308], pa.float64(), [1]),
        ("x <= 70000", [65504, math.inf], pa.float16(), [0]),
        ("x >= 1.5", [Decimal("1.49"), Decimal("1.50")], pa.decimal128(5, 2), [1]),
        ("x = 1.505", [Decimal("1.50"), Decimal("1.51")], pa.decimal128(5, 2), []),
        ("x < 99999", [Decimal("999.99")], pa.decimal128(5, 2), [0]),
        ("x", [True, False, None], pa.bool_(), [0]),
        ("NOT x", [True, False, None], pa.bool_(), [1]),
        ("x = TRUE", [True, False, None], pa.bool_(), [0]),
        ("x = 1", [True, False, None], pa.bool_(), [0]),
        ("x != true", [True, False, None], pa.bool_(), [1]),
        ("x < 300", [True, False, None], pa.bool_(), [0, 1]),
        ("x IN (0, 2)", [True, False, None], pa.bool_(), [1]),
        ("x = TRUE", [1, 0, 2], pa.int8(), [0]),
        ("x >= '2024-02-01'", [dt.date(2024, 1, 31), dt.date(2024, 2, 1)], pa.date32(), [1]),
        ("x <= '2024-01-31 12:00'", [dt.date(2024, 1, 31), dt.date(2024, 2, 1)], pa.date32(), [0]),
        ("x = '2024-01-31T12:00:00+02:00'", [dt.datetime(2024, 1, 31, 10)], pa.timestamp("ns", "America/Lima"), [0]),
        ("x = '2024-01-31 12:00:00 -0230'", [dt.datetime(2024, 1, 31, 14, 30)], pa.timestamp("s"), [0]),
        ("x = '2024-01-31 12:00Z'", [dt.datetime(2024, 1, 31, 12)], pa.timestamp("ms"), [0]),
        ("x < '9999-12-31'", [dt.datetime(2024, 1, 31, 12)], pa.timestamp("ns"), [0]),
        ("x = 'it''s'", ["it's", "its"], pa.string(), [0]),
        ("x IN ('日本', 'é')", ["日本", "e", None], pa.dictionary(pa.int8(), pa.string()), [0]),
        ("x >= 'b'", ["a", "b", "B"], pa.string_view(), [1]),
        ("x IN ('b')", ["a", "b", "B"], pa.string_view(), [1]),
        ("x IS NULL", [None, 1], pa.null(), None),
        ("x IS NULL", [[1], None, []], pa.list_(pa.int8()), [1]),
        ("x = 1 OR x IS NULL", [None, None], pa.null(), [0, 1]),
        ("NOT x", [None, None], pa.null(), []),
        ("x != 'a'", [None, None], pa.null(), []),
        ("x = x", [None, None], pa.null(), []),
        ("5 BETWEEN x AND x", [4, 5], pa.int8(), [1]),
        ("x > +1", [1, 2], pa.int8(), [1]),
        ("NOT NOT x = 1", [1, 2], pa.int8(), [0]),
        ("x = 1 OR x = 2 AND x = 3", [1, 2, 3], pa.int8(), [0]),
        ("x = 1 OR x = 2 OR x = 3", [1, 2, 3, 4], pa.int8(), [0, 1, 2]),
        ("x > 0 AND x < 9 AND x != 2 AND x != 4 AND x != 3", [1, 2, 3, 4], pa.int8(), [0]),
        ("not x = 1 and x < 3", [1, 2, 3], pa.int8(), [1]),
        ("x\n>=\t2", [1, 2, 3], pa.int8(), [1, 2]),
    ],
)  # fmt: skip
def test_values(text: str, values: list[Any], kind: pa.DataType, expected: list[int] | None) -> None:
    if expected is None:
        values, expected = [None, None], [0, 1]
    if kind == pa.float16():
        values = [np.float16(value) for value in values]
    assert kept(text, values, kind) == expected
    assert kept(f"NOT NOT ({text})", values, kind) == expected
    assert kept(text, [], kind) == []


def test_times_and_dates_compare_across_units_and_beyond_their_ranges() -> None:
    far = pa.array([2**62, 86_400], pa.int64()).cast(pa.timestamp("s"))
    table = pa.table(
        {"a": far, "b": pa.array([5, 86_400 * 10**9], pa.timestamp("ns", "UTC")), "c": pa.array([1, 1], pa.date32())}
    )
    assert parse_where("a = b").mask(table).tolist() == [False, True]
    assert parse_where("a > b").mask(table).tolist() == [True, False]
    assert parse_where("c = b").mask(table).tolist() == [False, True]
    assert parse_where("c >= a").mask(table).tolist() == [False, True]


def test_integers_of_any_sign_compare_up_to_their_ends() -> None:
    table = pa.table(
        {
            "a": pa.array([2**64 - 1, 3], pa.uint64()),
            "b": pa.array([3, 3], pa.uint8()),
            "c": pa.array([-1, 3], pa.int64()),
        }
    )
    assert parse_where("a > b").mask(table).tolist() == [True, False]
    assert parse_where("a = c").mask(table).tolist() == [False, True]
    assert parse_where("b > c").mask(table).tolist() == [True, False]


def test_text_columns_of_different_types_compare() -> None:
    table = pa.table(
        {
            "a": pa.array(["x", "y", None]),
            "b": pa.array(["x", "x", "x"], pa.string_view()),
            "c": pa.array(list("yyy")).dictionary_encode(),
        }
    )
    assert parse_where("a = b").mask(table).tolist() == [True, False, False]
    assert parse_where("a < c").mask(table).tolist() == [True, False, False]
    assert parse_where("b < c").mask(table).tolist() == [True, True, True]


def test_names() -> None:
    names = ["größe", "a.b", "in", 'say "x"', "with space", "`", "日本", ""]
    table = pa.table({name: [0, 1] for name in names})
    text = "größe = 1 AND 日本 = 1 AND a.b = 1 AND `in` = 1 AND ```` = 1 AND `with space` = 1"
    text += ' AND "say ""x""" = 1 AND "" = 1'
    where = parse_where(text)
    assert where.columns == ("größe", "日本", "a.b", "in", "`", "with space", 'say "x"', "")
    assert where.mask(table).tolist() == [False, True]


def test_what_a_condition_says_of_itself() -> None:
    where = parse_where("b > 1 AND  a < b or c is null")
    assert str(where) == where.text == "b > 1 AND  a < b or c is null"
    assert where.columns == ("b", "a", "c")
    assert where == parse_where(where.text)
    again = pickle.loads(pickle.dumps(where))
    table = pa.table({"a": [1, 2, 3], "b": [2, 2, 2], "c": [1, 1, None]})
    assert again.mask(table).tolist() == where.mask(table).tolist() == [True, False, True]


def test_constants_need_no_column() -> None:
    table = pa.table({"x": [1, 2]})
    assert parse_where("TRUE").columns == ()
    assert parse_where("TRUE").mask(table).tolist() == [True, True]
    assert parse_where("NOT true").mask(table).tolist() == [False, False]


def test_columns_in_chunks_and_many_terms() -> None:
    table = pa.concat_tables(
        [pa.table({"x": [row], "d": pa.array([f"{row}"]).dictionary_encode()}) for row in range(9)]
    )
    assert parse_where("x >= 4 AND d < '6'").mask(table).tolist() == [row in (4, 5) for row in range(9)]
    many = " OR ".join(f"x = {number}" for number in range(5, 5000))
    assert parse_where(many).mask(table).tolist() == [row >= 5 for row in range(9)]
    listed = ", ".join(map(str, range(5, 50_000)))
    assert parse_where(f"x IN ({listed})").mask(table).tolist() == [row >= 5 for row in range(9)]
    assert parse_where(f"{'NOT ' * 10_001}x = 3").mask(table).tolist() == [row != 3 for row in range(9)]
    deep = "(" * 50 + "x = 3" + ")" * 50
    assert parse_where(deep).mask(table).tolist() == [row == 3 for row in range(9)]


# ---- messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age >= ", "expected a value after '>=', found end of text (character 7): age >= "),
        ("", "expected a condition, found end of text (character 0): "),
        ("a AND", "expected a condition, found end of text (character 5): a AND"),
        ("a\nAND %", "expected a condition, found '%' (character 7): a AND %"),
        ("18abc > 3", "expected a condition, found '18abc' (character 1): 18abc > 3"),
        ("age + 1 > 3", "expected a comparison after column 'age', found '+' (character 5): age + 1 > 3"),
        ("5", "expected a comparison after 5, found end of text (character 1): 5"),
        ("true 1", "expected a comparison after TRUE, found '1' (character 6): true 1"),
        ("a < -b", "expected a number after '-', found 'b' (character 6): a < -b"),
        ("a = 1 b", "expected AND, OR or end of text, found 'b' (character 7): a = 1 b"),
        ("a < 5 < 7", "expected AND, OR or end of text, found '<' (character 7): a < 5 < 7"),
        ("a = 1)", "expected AND, OR or end of text, found ')' (character 6): a = 1)"),
        ("(a = 1", "expected AND, OR or ')', found end of text (character 6): (a = 1"),
        ("a IN 1", "expected '(' after IN, found '1' (character 6): a IN 1"),
        ("a IN ()", "expected a value in the list of IN, found ')' (character 7): a IN ()"),
        ("a IN (1 2)", "expected ',' or ')' in the list of IN, found '2' (character 9): a IN (1 2)"),
        (
            "a IN (b)",
            (
                "the list of IN takes values, found column 'b'; a string stands in 'single quotes', columns are "
                "compared with = (character 7): a IN (b)"
            ),
        ),
        ("a BETWEEN", "expected a value after BETWEEN, found end of text (character 9): a BETWEEN"),
        (
            "a BETWEEN 1 OR 2",
            "expected AND and the upper bound of BETWEEN, found 'OR' (character 13): a BETWEEN 1 OR 2",
        ),
        (
            "a BETWEEN 1 AND",
            "expected a value after AND, the upper bound of BETWEEN, found end of text (character 15): a BETWEEN 1 AND",
        ),
        ("a IS 3", "expected NULL or NOT NULL after IS, found '3' (character 6): a IS 3"),
        ("a IS NOT 3", "expected NULL after IS NOT, found '3' (character 10): a IS NOT 3"),
        ("a NOT 3", "expected IN or BETWEEN after NOT, found '3' (character 7): a NOT 3"),
        ("a = NULL", "NULL cannot be compared or listed; write IS NULL or IS NOT NULL (character 5): a = NULL"),
        ("a IN (null)", "NULL cannot be compared or listed; write IS NULL or IS NOT NULL (character 7): a IN (null)"),
        (
            "a like 'x%'",
            (
                "LIKE is not supported; what is: = == != <> < <= > >=, [NOT] IN, [NOT] BETWEEN, IS [NOT] NULL, AND, "
                "OR, NOT (character 3): a like 'x%'"
            ),
        ),
        (
            "'age' > 3",
            (
                "expected a column, found the value 'age'; column names stand without quotes, in \"double quotes\" or "
                "in `backticks` (character 1): 'age' > 3"
            ),
        ),
        (
            "a = 1 OR 5 BETWEEN 1 AND a",
            (
                'expected a column, found the value 5; column names stand without quotes, in "double quotes" or '
                "in `backticks` (character 10): a = 1 OR 5 BETWEEN 1 AND a"
            ),
        ),
        (
            "1 IN (2)",
            (
                'expected a column, found the value 1; column names stand without quotes, in "double quotes" or '
                "in `backticks` (character 1): 1 IN (2)"
            ),
        ),
        ("a = 'abc", "expected a closing ' of the string that begins here (character 5): a = 'abc"),
        ('"a = 3', 'expected a closing " of the column name that begins here (character 1): "a = 3'),
        ("`a = 3", "expected a closing ` of the column name that begins here (character 1): `a = 3"),
        ("a = '\udcff'", "expected text in UTF-8, found bytes that are not (character 6): a = '?'"),
        (
            "a = 1e999",
            (
                "a number must have at most 400 digits and an exponent of at most 400, found "
                "1e999 (character 5): a = 1e999"
            ),
        ),
        (
            "a = -1e-99999999999999999999999999999999999999999",
            (
                "a number must have at most 400 digits and an exponent of at most 400, found "
                "-1e-99999999999999999999999999999999999… (character 5): a = "
                "-1e-99999999999999999999999999999999999999999"
            ),
        ),
        ("(" * 10_000, f"parentheses must be at most 50 deep (character 51): {'(' * 110}…"),
        (
            "a = 1 AND " * 20 + "%" + " OR b = 2" * 20,
            f"expected a condition, found '%' (character 201): …{'a = 1 AND ' * 6}%{' OR b = 2' * 6} OR b…",
        ),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape("data.where: " + message) + r"\Z"):
        parse_where(text)


def test_a_text_can_be_too_long() -> None:
    message = (
        "data.where: must have at most 1,000,000 characters, got 1,000,005; put a column into the data that says which "
        "rows to use"
    )
    with pytest.raises(ConfigError, match=re.escape(message) + r"\Z"):
        parse_where("a = 1" + " " * 1_000_000)


SCHEMA = pa.schema(
    {
        "age": pa.int64(),
        "name": pa.string(),
        "city": pa.dictionary(pa.int8(), pa.string()),
        "born": pa.date32(),
        "seen": pa.timestamp("us"),
        "tags": pa.list_(pa.string()),
        "raw": pa.binary(),
        "clock": pa.time32("s"),
        "flag": pa.bool_(),
        "price": pa.decimal128(5, 2),
    }
)
NUMBER = "write a number, without quotes"
STRING = "write the value in 'single quotes'"
TIME = "write a date or time such as '2024-01-31' or '2024-01-31 12:30:00'"
ONLY_NULL = "cannot be compared; only IS NULL and IS NOT NULL suit it"
CITY = "dictionary<values=string, indices=int8, ordered=0>"
ALL = "'age', 'name', 'city', 'born', 'seen'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aged > 3", "no column 'aged' in F; the nearest columns are 'age', 'tags', 'name'"),
        ("PRICE IS NULL", f"no column 'PRICE' in F; the nearest columns are {ALL}"),
        ("name = `xxx`", f"no column 'xxx' in F; the nearest columns are {ALL}"),
        (
            'name = "xxx"',
            f"no column 'xxx' in F; the nearest columns are {ALL}; a string stands in 'single quotes'",
        ),
        ("age = '3'", f"column 'age' (int64) in F cannot be compared with '3'; {NUMBER}"),
        ("price IN (1, '3')", f"column 'price' (decimal128(5, 2)) in F cannot be compared with '3'; {NUMBER}"),
        ("flag = 'yes'", f"column 'flag' (bool) in F cannot be compared with 'yes'; {NUMBER}"),
        ("name = 3", f"column 'name' (string) in F cannot be compared with 3; {STRING}"),
        ("city = TRUE", f"column 'city' ({CITY}) in F cannot be compared with TRUE; {STRING}"),
        ("born > 3", f"column 'born' (date32[day]) in F cannot be compared with 3; {TIME}"),
        ("seen > 'now'", f"column 'seen' (timestamp[us]) in F cannot be compared with 'now'; {TIME}"),
        ("seen > '2024-02-30'", f"column 'seen' (timestamp[us]) in F cannot be compared with '2024-02-30'; {TIME}"),
        (
            "seen > '2024-02-01 00:00+99:00'",
            f"column 'seen' (timestamp[us]) in F cannot be compared with '2024-02-01 00:00+99:00'; {TIME}",
        ),
        ("tags = 'a'", f"column 'tags' ({SCHEMA.field('tags').type}) in F {ONLY_NULL}"),
        ("raw IN ('a')", f"column 'raw' (binary) in F {ONLY_NULL}"),
        ("born < clock", f"column 'clock' (time32[s]) in F {ONLY_NULL}"),
        ("age", "column 'age' (int64) in F must be boolean to stand alone; compare it with a value"),
        ("NOT name", "column 'name' (string) in F must be boolean to stand alone; compare it with a value"),
        (
            "age = name",
            (
                "columns 'age' (int64) and 'name' (string) in F cannot be compared with each other; "
                "convert one where the data is written"
            ),
        ),
    ],
)
def test_columns_that_do_not_suit(text: str, message: str) -> None:
    where = parse_where(text)

    def whole(place: str) -> str:
        return "^" + re.escape("data.where: " + message.replace(" in F", f" in {place}", 1))

    with pytest.raises(ConfigError, match=whole("f.parquet") + r"\Z"):
        where.check(SCHEMA, "f.parquet")
    with pytest.raises(ConfigError, match=whole("the table") + r"\Z"):
        where.mask(SCHEMA.empty_table())
    with pytest.raises(ConfigError, match=whole("the schema") + r"\Z"):
        where.expression(SCHEMA)


def test_problems_come_together_each_once() -> None:
    where = parse_where("(agee > 3 OR agee < 1) AND name = 4 AND NOT (age BETWEEN 'a' AND 3 OR tags IS NULL)")
    lines = [
        "data.where: no column 'agee' in f.parquet; the nearest columns are 'age', 'tags', 'seen'",
        "data.where: column 'name' (string) in f.parquet cannot be compared with 4; write the value in 'single quotes'",
        "data.where: column 'age' (int64) in f.parquet cannot be compared with 'a'; write a number, without quotes",
    ]
    assert where.problems(SCHEMA, "f.parquet") == lines
    with pytest.raises(ConfigError, match="^" + re.escape("\n".join(lines)) + r"\Z"):
        where.check(SCHEMA, "f.parquet")
    parse_where("flag AND tags IS NULL AND raw IS NOT NULL AND age = 3 AND name != city").check(SCHEMA, "f.parquet")
