"""Where a condition is true: by pyarrow's functions on arrays, or as an expression to skip row groups by statistics.

In a tree without NOT a term that is unknown may count as false: no row is used that should not be, and none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mlclf.data.where.column_types import NULL, TIME, common_type, compared_type, family, unit_nanoseconds, values_type
from mlclf.data.where.literals import bound, value_set
from mlclf.data.where.syntax import (
    Column,
    Comparison,
    Condition,
    Constant,
    Flag,
    Junction,
    Literal,
    Membership,
    Missing,
)

Values = Any
"""A column: an array, or an expression; pyarrow's functions take both."""

Truth = Any
"""What a condition comes to: an array, scalar or expression of booleans, where null counts as false."""

KERNELS: dict[str, Callable[[Values, Any], Truth]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

NEIGHBOURS = {1: {"<": "<=", "<=": "<=", ">": ">", ">=": ">"}, -1: {"<": "<", "<=": "<", ">": ">=", ">=": ">="}}
"""By the gap of a bound: what a comparison with a literal that no value equals becomes when made with the value."""


@dataclass(frozen=True)
class ConditionEvaluator:
    """Tells where conditions are true on columns whose types suit them.

    Attributes:
        schema: the types; a dictionary counts as its values.
        column: name → its values, looked up where it is a dictionary.
        constant: makes a scalar of a value, as functions of such columns take it.
        sees_nan: whether NaN can be told from numbers, which bounds and counts of nulls cannot.
    """

    schema: pa.Schema
    column: Callable[[str], Values]
    constant: Callable[[Any], Truth]
    sees_nan: bool

    def truth(self, condition: Condition) -> Truth:
        """Where a condition is true."""
        match condition:
            case Junction(every, terms):
                return _joined(pc.and_kleene if every else pc.or_kleene, [self.truth(term) for term in terms])
            case Constant(value):
                return self.constant(value)
            case Missing(column, negated):
                return self._is_valid(column) if negated else self._is_missing(column)
        column = condition.left if isinstance(condition, Comparison) else condition.column
        if family(self._kind(column)) == NULL:
            return self.constant(False)
        match condition:
            case Flag(column, negated):
                values = self.column(column.name)
                return pc.invert(values) if negated else values
            case Membership():
                return self._in_list(condition)
            case Comparison(left, operator, Column() as right):
                return self._compare_columns(left, operator, right)
            case Comparison(left, operator, Literal() as right):
                return self._compare(left, operator, right)

    def _kind(self, column: Column) -> pa.DataType:
        return values_type(self.schema.field(column.name).type)

    def _values(self, column: Column, kind: pa.DataType) -> Values:
        """A column as a type; not cast where it is of that type, since statistics exclude nothing after a cast."""
        values = self.column(column.name)
        own = self._kind(column)
        if compared_type(own) not in (own, kind):
            values = values.cast(compared_type(own), safe=False)  # pyarrow makes no decimal of a boolean at once
        return values if own == kind else values.cast(kind, safe=False)

    def _is_valid(self, column: Column) -> Truth:
        values = self.column(column.name)
        if not pa.types.is_floating(self._kind(column)) or not self.sees_nan:
            return pc.is_valid(values)
        return pc.and_kleene(pc.is_valid(values), pc.invert(pc.is_nan(values)))

    def _is_missing(self, column: Column) -> Truth:
        if not pa.types.is_floating(self._kind(column)):
            return pc.is_null(self.column(column.name))
        return pc.is_null(self.column(column.name), nan_is_null=True) if self.sees_nan else self.constant(True)

    def _in_list(self, term: Membership) -> Truth:
        kind = self._kind(term.column)
        values = value_set(term, kind)
        listed = pc.is_in(self._values(term.column, compared_type(kind)), value_set=values) if len(values) else None
        if not term.negated:
            return self.constant(False) if listed is None else listed
        valid = self._is_valid(term.column)
        return valid if listed is None else pc.and_kleene(valid, pc.invert(listed))

    def _compare(self, column: Column, operator: str, literal: Literal) -> Truth:
        kind = self._kind(column)
        value, gap = bound(literal, kind)
        if gap and operator in ("=", "!="):
            return self.constant(False) if operator == "=" else self._is_valid(column)
        operator = NEIGHBOURS[gap][operator] if gap else operator
        return self._made(operator, self._values(column, compared_type(kind)), self.constant(value), kind)

    def _compare_columns(self, left: Column, operator: str, right: Column) -> Truth:
        kinds = self._kind(left), self._kind(right)
        if family(kinds[1]) == NULL:
            return self.constant(False)
        if family(kinds[0]) == TIME and kinds[0] != kinds[1]:
            return KERNELS[operator](self._nanoseconds(left), self._nanoseconds(right))
        kind = common_type(*kinds)
        return self._made(operator, self._values(left, kind), self._values(right, kind), kind)

    def _made(self, operator: str, left: Values, right: Any, kind: pa.DataType) -> Truth:
        if operator == "!=" and pa.types.is_floating(kind):
            return pc.or_kleene(pc.less(left, right), pc.greater(left, right))  # NaN differs from all, null does not
        return KERNELS[operator](left, right)

    def _nanoseconds(self, column: Column) -> Values:
        """Times as decimals, which hold every time of every unit."""
        kind = self._kind(column)
        whole = self._values(column, pa.int32() if pa.types.is_date32(kind) else pa.int64())
        unit = pa.scalar(Decimal(unit_nanoseconds(kind)), pa.decimal128(14, 0))
        return pc.multiply(whole.cast(pa.decimal128(19, 0)), self.constant(unit))


def _joined(join: Callable[[Truth, Truth], Truth], parts: Sequence[Truth]) -> Truth:
    """Join truths two by two, so that a thousand of them nest ten deep in an expression."""
    while len(parts) > 1:
        parts = [
            join(parts[index], parts[index + 1]) if index + 1 < len(parts) else parts[index]
            for index in range(0, len(parts), 2)
        ]
    return parts[0]
