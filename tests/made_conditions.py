"""Random tables and conditions on them, for tests of `data.where`."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

WORDS = ["", "a", "b", "ab", "B", "é", "日本", "it's", 'say "x"', "\U0001f600", "z" * 70]
QUARTERS = st.integers(-1200, 1200).map(lambda number: number / 4)
"""Numbers that every type of numbers with fractions holds exactly."""

FLOATS = QUARTERS | st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf")])
LARGE = st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**62 + 1]) | st.integers(-5, 5)
DAYS = st.integers(-3, 3).map(lambda day: dt.date(2024, 1, 1) + dt.timedelta(day))
MOMENTS = st.integers(-3, 3).map(lambda hours: dt.datetime(2024, 1, 1) + dt.timedelta(hours=12 * hours))

NUMBERS = {
    "small": (pa.int8(), st.integers(-128, 127)),
    "large": (pa.int64(), LARGE),
    "byte": (pa.uint8(), st.integers(0, 255)),
    "count": (pa.uint64(), LARGE.map(abs).filter(lambda value: value < 2**63)),
    "half": (pa.float16(), FLOATS.map(np.float16)),
    "single": (pa.float32(), FLOATS),
    "double": (pa.float64(), FLOATS),
    "price": (pa.decimal128(9, 2), QUARTERS.map(Decimal)),
    "flag": (pa.bool_(), st.booleans()),
}
TEXTS = {
    "word": (pa.string(), st.sampled_from(WORDS)),
    "long word": (pa.large_string(), st.sampled_from(WORDS)),
    "order": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(WORDS)),
    "view": (pa.string_view(), st.sampled_from(WORDS)),
}
TIMES = {
    "day": (pa.date32(), DAYS),
    "moment": (pa.timestamp("us"), MOMENTS),
    "second": (pa.timestamp("s"), MOMENTS),
    "instant": (pa.timestamp("ns", "Europe/Berlin"), MOMENTS),
}
COLUMNS = {**NUMBERS, **TEXTS, **TIMES, "void": (pa.null(), st.none())}


@st.composite
def tables(draw: st.DrawFn, max_rows: int = 12) -> pa.Table:
    """Tables of all the columns above; some columns have few values, so that row groups can hold one value alone."""
    rows = draw(st.integers(0, max_rows))
    chosen = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))  # rows differ more than Hypothesis would make them
    arrays = {}
    for name, (kind, values) in COLUMNS.items():
        few = draw(st.lists(st.none() | values, min_size=1, max_size=4))
        arrays[name] = pa.array([few[index] for index in chosen.integers(0, len(few), rows)], kind)
    return pa.table(arrays)


def quoted(name: str) -> st.SearchStrategy[str]:
    """Ways to write a column's name; SQLite knows `order` as a keyword."""
    bare = [name] if name.isidentifier() and name != "order" else []
    return st.sampled_from([*bare, f'"{name}"', f"`{name}`"])


def literal_of(name: str) -> st.SearchStrategy[str]:
    """Ways to write a value that the column can be compared with."""
    if name in TEXTS:
        return st.sampled_from(WORDS).map(lambda word: "'" + word.replace("'", "''") + "'")
    if name in TIMES:
        return st.one_of(DAYS.map(lambda day: f"'{day}'"), MOMENTS.map(lambda moment: f"'{moment}'"))
    numbers = st.one_of(QUARTERS.map(str), st.integers(-300, 300).map(str), LARGE.map(str), st.just("1e3"))
    return numbers | st.sampled_from(["TRUE", "false", "0", "1"])


def _comparable(name: str, other: str) -> bool:
    if {name, other} == {"large", "count"}:
        return True
    floats = {"half", "single", "double"}
    # SQLite compares large integers with floats exactly, where this library, as most databases, makes floats of them.
    apart = (name in floats and other in ("large", "count")) or (other in floats and name in ("large", "count"))
    families = [NUMBERS, TEXTS, TIMES]
    return not apart and any(name in family and other in family for family in families)


@st.composite
def terms(draw: st.DrawFn, names: list[str]) -> str:
    """One term on one of the columns."""
    name = draw(st.sampled_from(names))
    column = draw(quoted(name))
    negation = draw(st.sampled_from(["", "NOT "]))
    partners = [other for other in names if _comparable(name, other)]
    other = st.sampled_from(partners).flatmap(quoted) if partners else st.just("1")
    value = st.one_of(literal_of(name), literal_of(name), other)
    operator = draw(st.sampled_from(["=", "==", "!=", "<>", "<", "<=", ">", ">="]))
    match draw(st.sampled_from(["compare", "compare", "mirror", "in", "between", "null", "flag"])):
        case "compare":
            return f"{column} {operator} {draw(value)}"
        case "mirror":
            return f"{draw(literal_of(name))}{operator}{column}"
        case "in":
            return f"{column} {negation}IN ({', '.join(draw(st.lists(literal_of(name), min_size=1, max_size=4)))})"
        case "between":
            return f"{column} {negation}between {draw(value)} and {draw(value)}"
        case "flag" if name == "flag":
            return negation + column
    return f"{column} IS {negation}NULL"


def conditions(names: list[str]) -> st.SearchStrategy[str]:
    """Texts of AND, OR, NOT and parentheses over terms on the columns."""
    return st.recursive(
        st.one_of(*[terms(names)] * 8, st.sampled_from(["TRUE", "FALSE"])),
        lambda inner: st.one_of(
            inner.map(lambda text: f"NOT ({text})"),
            st.lists(inner, min_size=2, max_size=5).map(lambda parts: "(" + " AND ".join(parts) + ")"),
            st.lists(inner, min_size=2, max_size=5).map(lambda parts: "(" + " or ".join(parts) + ")"),
        ),
        max_leaves=10,
    )
