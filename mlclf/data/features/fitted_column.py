"""What a role of columns is: the interface that every role implements, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.config.settings import Features as FeatureSettings
from mlclf.data.features.token_ids import TokenIds


@dataclass(frozen=True)
class FeatureColumn:
    """One input: a column with its role, or the `indices` column of a sparse pair with its `values` column.

    Attributes:
        width: elements of an embedding, else 0.
        values_column: the second column of a sparse pair, else None.
    """

    name: str
    role: str
    width: int = 0
    values_column: str | None = None


class EncodingOptions(NamedTuple):
    """How columns become inputs, as the settings `features.*` say.

    Attributes:
        standardize: whether numbers are scaled to mean 0 and deviation 1.
        vocabulary_levels: most levels of a column that are kept; the rest count as `other`.
        hash_limit: distinct levels of a column beyond which it is hashed.
        hash_buckets: buckets of a hashed column, a power of two.
    """

    standardize: bool
    vocabulary_levels: int
    hash_limit: int
    hash_buckets: int

    @classmethod
    def of(cls, settings: FeatureSettings) -> EncodingOptions:
        return cls(settings.standardize, settings.vocabulary_levels, settings.hash_limit, settings.hash_buckets)


@dataclass
class FittedColumn(ABC):
    """A column in its role: fitted to training rows, it turns rows into dense inputs or into ids of a vocabulary.

    A role is one subclass and one line in `mlclf.data.features.roles`; nothing else asks which role a column has. A
    column is made by `fresh`, given every training row by `fit`, and fixed by `finish`; then it encodes. `state` and
    `arrays` are what a run keeps of it, from which `restore` makes it again. A role overrides `encode_dense` and
    `dense_names`, or sets `gives_ids` and overrides `encode_ids`, `vocabulary_names` and `vocabulary_size`.
    """

    role: ClassVar[str]
    """Its name in `features.roles`, `schema.json` and `features.json`."""

    families: ClassVar[tuple[str, ...]]
    """Families of Arrow types (`mlclf.data.arrow.families`) that a column of this role may have."""

    suggested_by: ClassVar[tuple[str, ...]] = ()
    """Families whose columns have this role unless another one is declared."""

    undecided: ClassVar[tuple[str, ...]] = ("null",)
    """Families that a file may have beside `families`, since they say nothing against what other files hold."""

    second_families: ClassVar[tuple[str, ...]] = ()
    """Families of the second column, for a role of two columns."""

    needs_width: ClassVar[bool] = False
    """Whether the lists of all rows have one length, which the schema keeps."""

    takes_splines: ClassVar[bool] = False
    """Whether the column is one number a row, whose effect may follow a linear spline."""

    gives_ids: ClassVar[bool] = False
    """Whether rows become ids of a vocabulary, not dense inputs."""

    has_one_id: ClassVar[bool] = False
    """Whether every row has exactly one id."""

    smaller: ClassVar[str] = "lower features.hash_buckets or features.vocabulary_levels"
    """What makes its vocabulary smaller, for messages."""

    name: str

    # ── from the schema ─────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def second_column(cls, name: str) -> str | None:
        """The name of the column that belongs to a column of this name; None for a role of one column."""
        return None

    @classmethod
    def accepts(cls, column: FeatureColumn, family: str) -> bool:
        """Whether a column of this family, as the schema describes it, can have this role."""
        return family.partition(":")[0] in cls.families

    @classmethod
    def row_bytes(cls, column: FeatureColumn, items: float) -> float:
        """Bytes that a row takes when encoded, with so many values in the column's list."""
        return 8 * items

    @classmethod
    def fitting_bytes(cls, options: EncodingOptions) -> int:
        """Bytes that fitting takes whatever the data."""
        return 0

    # ── fitting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    @abstractmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        """The column before the first row."""

    @abstractmethod
    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        """Add rows of training: a table, where they are from (for messages), and their weights [n], None for 1."""

    @abstractmethod
    def finish(self) -> None:
        """Fix the inputs after the last row."""

    @abstractmethod
    def warning(self) -> str | None:
        """A sentence where the column is left out or changed."""

    # ── encoding ────────────────────────────────────────────────────────────────────────────────────────────────────

    def dense_names(self) -> list[str]:
        """Names of the dense inputs."""
        return []

    @property
    def num_dense(self) -> int:
        return len(self.dense_names())

    @property
    def num_values(self) -> int:
        """Dense inputs that are the column's values; what says that they are missing comes after them."""
        return 0

    @property
    def scaling(self) -> tuple[float, float]:
        """Mean and deviation by which the one input of a column is scaled for which `is_float32_in` holds."""
        return 0.0, 1.0

    def unscaled(self, value: float) -> float:
        """The value of the column whose one input is `value`."""
        return value

    def encode_dense(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:  # noqa: B027  # may give none
        """Write the dense inputs of rows to `out` [number of inputs, n] float32."""

    def is_float32_in(self, table: pa.Table) -> bool:
        """Whether the column is one input, float32 without nulls, that float32 can scale without harm."""
        return False

    @property
    def vocabulary_size(self) -> int:
        return 0

    def vocabulary_names(self) -> list[str]:
        """Names of the entries of the vocabulary."""
        return []

    @property
    def distinct_values(self) -> int:
        """Levels that were found where every row has one; 0 for other columns."""
        return 0

    def encode_ids(self, table: pa.Table, where: str) -> TokenIds:
        """The ids of each row, counted from 0 in the column's own vocabulary."""
        return TokenIds(np.zeros(table.num_rows, np.int64), np.zeros(0, np.int64))

    def counted(self) -> list[str]:
        """What encoding met and repaired since it was last asked, a line each."""
        return []

    # ── what a run keeps ────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `features.json` holds of it beside its name and role."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `features.safetensors` holds of it."""
        return {}

    @classmethod
    @abstractmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state` and `arrays`."""
