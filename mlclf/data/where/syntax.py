"""A condition on rows as a tree of AND, OR and terms.

There is no NOT: it is pushed down to the terms, which three-valued logic allows (NOT a < 1 is a >= 1, and both are
unknown where `a` is null). So a term that is unknown may count as false.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


@dataclass(frozen=True)
class Column:
    """A column by its name; `is_quoted` tells whether it was written in double quotes."""

    name: str
    is_quoted: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Literal:
    """A value: an exact number, a string or a boolean, and how it was written."""

    value: Fraction | str | bool
    text: str


@dataclass(frozen=True)
class Comparison:
    """`left operator right`, with one of = != < <= > >=; the left side is a column."""

    left: Column
    operator: str
    right: Column | Literal


@dataclass(frozen=True, eq=False)
class Membership:
    """`column [NOT] IN (values)`; hashed by identity, since lists can be long."""

    column: Column
    values: tuple[Literal, ...]
    negated: bool = False


@dataclass(frozen=True)
class Missing:
    """`column IS [NOT] NULL`."""

    column: Column
    negated: bool = False


@dataclass(frozen=True)
class Flag:
    """`[NOT] column`, of a boolean column."""

    column: Column
    negated: bool = False


@dataclass(frozen=True)
class Constant:
    """TRUE or FALSE."""

    value: bool


@dataclass(frozen=True)
class Junction:
    """Terms joined by AND (`every`) or OR."""

    every: bool
    terms: tuple[Condition, ...]


Term = Comparison | Membership | Missing | Flag | Constant
Condition = Term | Junction


def terms_of(condition: Condition) -> list[Term]:
    """The terms of a condition, in order."""
    if not isinstance(condition, Junction):
        return [condition]
    return [term for part in condition.terms for term in terms_of(part)]


def columns_of(term: Term) -> tuple[Column, ...]:
    """The columns that a term names."""
    match term:
        case Comparison(left, _, Column() as right):
            return left, right
        case Comparison(left):
            return (left,)
        case Constant():
            return ()
    return (term.column,)


def opposite(condition: Condition) -> Condition:
    """The condition that is true where this one is false, and unknown where it is unknown."""
    match condition:
        case Junction(every, terms):
            return Junction(not every, tuple(map(opposite, terms)))
        case Comparison(left, operator, right):
            return Comparison(left, OPPOSITE[operator], right)
        case Membership(column, values, negated):
            return Membership(column, values, not negated)
        case Missing(column, negated):
            return Missing(column, not negated)
        case Flag(column, negated):
            return Flag(column, not negated)
        case Constant(value):
            return Constant(not value)


def cut(text: str, width: int = 40) -> str:
    """A text, its end left out where it is long."""
    return text if len(text) <= width else text[: width - 1] + "…"
