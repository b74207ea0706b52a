"""`data.where`: which rows are used, as one SQL expression.

SQL's three-valued logic: a comparison with null is neither true nor false, and a row is used only where the whole is
true. NaN in a float column is missing, as everywhere in this library, so it is null here too. Times without a zone,
in the data and in the text, are UTC.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.where.column_types import NULL, family, values_type
from mlclf.data.where.evaluator import ConditionEvaluator
from mlclf.data.where.literals import UnsuitedError, bound, value_set
from mlclf.data.where.parser import parse_condition
from mlclf.data.where.syntax import Column, Comparison, Condition, Flag, Literal, Membership, Term, columns_of, terms_of
from mlclf.errors import ConfigError
from mlclf.messages import listed


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
        """What keeps the condition from being evaluated on columns of these types: one line each."""
        problems = [problem for term in terms_of(self.condition) for problem in _problems(term, schema, place)]
        return [f"data.where: {problem}" for problem in dict.fromkeys(problems)]

    def check(self, schema: pa.Schema, place: str) -> None:
        """Refuse columns that are missing, or that cannot be compared as the condition does.

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

        truth = ConditionEvaluator(table.schema, column, pa.scalar, sees_nan=True).truth(self.condition)
        if isinstance(truth, pa.Scalar):
            return np.full(table.num_rows, bool(truth.as_py()))
        return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)

    def expression(self, schema: pa.Schema, constants: Mapping[str, pa.Scalar] | None = None) -> pc.Expression:
        """An expression that is true, or would be by statistics of row groups, for every row that is used.

        It can be true for other rows: where a float column must be null, statistics exclude nothing, since they say
        nothing of NaN. So `mask` still has to be applied to what is read.

        Args:
            schema: the columns' types.
            constants: values of columns that are not in the file.

        Raises:
            ConfigError: the columns do not suit.
        """
        self.check(schema, "the schema")
        known = constants or {}

        def column(name: str) -> pc.Expression:
            if name in known:
                return pc.scalar(known[name])
            kind = schema.field(name).type
            return pc.field(name).cast(values_type(kind)) if pa.types.is_dictionary(kind) else pc.field(name)

        return ConditionEvaluator(schema, column, pc.scalar, sees_nan=False).truth(self.condition)


def parse_where(text: str) -> Where:
    """Parse an SQL expression of comparisons, AND / OR / NOT, IN, BETWEEN and IS NULL.

    >>> parse_where("age >= 18 AND country IN ('de', 'fr')").columns
    ('age', 'country')

    Raises:
        ConfigError: says what was expected, what was found, and at which character, counted from 1.
    """
    condition, columns = parse_condition(text)
    return Where(text, columns, condition)


def _problems(term: Term, schema: pa.Schema, place: str) -> list[str]:
    """What is wrong with a term on columns of these types."""
    columns = columns_of(term)
    problems = [_missing(column, schema.names, place) for column in columns if column.name not in schema.names]
    if problems or not isinstance(term, Comparison | Membership | Flag):
        return problems
    kinds = {column.name: schema.field(column.name).type for column in columns}
    described = {name: f"column {name!r} ({kind}) in {place}" for name, kind in kinds.items()}
    if isinstance(term, Flag):
        boolean = all(pa.types.is_boolean(kind) or pa.types.is_null(kind) for kind in map(values_type, kinds.values()))
        hint = "must be boolean to stand alone; compare it with a value"
        return [] if boolean else [f"{described[term.column.name]} {hint}"]
    apart = [name for name, kind in kinds.items() if family(kind) is None]
    if apart:
        return [f"{described[name]} cannot be compared; only IS NULL and IS NOT NULL suit it" for name in apart]
    if isinstance(term, Comparison) and isinstance(term.right, Column):
        families = {family(kind) for kind in kinds.values()} - {NULL}
        pair = " and ".join(f"{column.name!r} ({kinds[column.name]})" for column in columns)
        hint = "convert one where the data is written"
        return [f"columns {pair} in {place} cannot be compared with each other; {hint}"] if len(families) > 1 else []
    kind = values_type(kinds[columns[0].name])
    try:
        if family(kind) == NULL:
            return []
        if isinstance(term, Membership):
            value_set(term, kind)
        elif isinstance(term.right, Literal):
            bound(term.right, kind)
    except UnsuitedError as error:
        return [f"{described[columns[0].name]} {error}"]
    return []


def _missing(column: Column, names: Sequence[str], place: str) -> str:
    near = difflib.get_close_matches(column.name, names, n=3, cutoff=0.5) or list(names[:5])
    hint = "; a string stands in 'single quotes'" if column.is_quoted else ""
    return f"no column {column.name!r} in {place}; the nearest columns are {', '.join(map(repr, near))}{hint}"
