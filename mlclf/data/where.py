"""`data.where`: which rows are used, as one SQL expression.

SQL's three-valued logic: a comparison with null is neither true nor false, and a row is used only where the whole is
true. NaN in a float column is missing, as everywhere in this library, so it is null here too. Times without a zone,
in the data and in the text, are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrays import one_array
from mlclf.data.conditions import (
    Condition,
    parse_condition,
    terms_of,
)
from mlclf.data.shards import listed
from mlclf.errors import ConfigError

KERNELS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

Truth = Any
"""What a condition comes to: an array, a scalar or an expression of booleans, where null counts as false."""


@dataclass(frozen=True)
class Where:
    """The condition that a row must satisfy to be used.

    Attributes:
        text: as the user wrote it.
        columns: names of the columns that it needs, in order of appearance; none for TRUE.
    """

    text: str
    columns: tuple[str, ...]
    condition: Condition = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def problems(self, schema: pa.Schema, place: str) -> list[str]:
        """What keeps the condition from being evaluated on columns of these types, one line each."""
        found = dict.fromkeys(problem for term in terms_of(self.condition) for problem in _problems(term, schema))
        return [problem.replace("{place}", place) for problem in found]

    def check(self, schema: pa.Schema, place: str) -> None:
        """Refuse columns that are missing or cannot be compared as the condition does.

        Args:
            schema: of one shard; types may differ from shard to shard.
            place: names the shard in messages.

        Raises:
            ConfigError: lists all problems.
        """
        problems = self.problems(schema, place)
        if problems:
            raise ConfigError(listed(problems))

    def mask(self, table: pa.Table, place: str = "the table") -> NDArray[np.bool_]:
        """Whether each row is used: [n] bool.

        Raises:
            ConfigError: the table's columns do not suit.
        """
        self.check(table.schema, place)
        arrays: dict[str, pa.Array] = {}

        def column(name: str) -> pa.Array:
            if name not in arrays:
                arrays[name] = one_array(table.column(name))
            return arrays[name]

        truth = _Evaluation(table.schema, column, pa.scalar, exact=True).truth(self.condition)
        if isinstance(truth, pa.Scalar):
            return np.full(table.num_rows, bool(truth.as_py()))
        return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)

    def expression(self, schema: pa.Schema, constants: Mapping[str, pa.Scalar] | None = None) -> pc.Expression:
        """An expression that is true for every row that is used, such that statistics of row groups may exclude rows.

        It is true for others too: those where a float column that must be null is a number, since statistics say
        nothing of NaN.

        Args:
            schema: the columns' types.
            constants: values of columns that are not in the file.

        Raises:
            ConfigError: the columns do not suit.
        """
        self.check(schema, "the schema")
        known = constants or {}

        def column(name: str) -> pc.Expression:
            if name not in known:
                return (
                    pc.field(name).cast(schema.field(name).type.value_type)
                    if _is_dictionary(schema, name)
                    else pc.field(name)
                )
            return pc.scalar(known[name])

        return _Evaluation(schema, column, pc.scalar, exact=False).truth(self.condition)


def parse_where(text: str) -> Where:
    """Parse an SQL expression of comparisons, AND / OR / NOT, IN, BETWEEN and IS NULL.

    >>> parse_where("age >= 18 AND country IN ('de', 'fr')").columns
    ('age', 'country')

    Raises:
        ConfigError: says what was expected, what was found and where.
    """
    condition, columns = parse_condition(text)
    return Where(text, columns, condition)
