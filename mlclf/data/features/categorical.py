"""Categorical columns → ids: one level a row, by vocabulary or, where there are too many, by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.families import SINGLE
from mlclf.data.arrow.identities import canonical, levels_of
from mlclf.data.arrow.murmur import murmur3_32
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.token_ids import TokenIds
from mlclf.machine.tally import Tally

LEAST_ROWS, IDENTIFIER_SHARE = 100, 0.95
"""Of so many rows and more, a column with so many distinct values a row names the rows."""

MISSING, OTHER = 0, 1
"""Ids of the first two entries of every vocabulary."""


@dataclass
class CategoricalColumn(FittedColumn):
    """One level (category) a row.

    Vocabulary entries: missing, other, then the levels by falling count, ties by code point. A column with more
    distinct levels than `hash_limit` is hashed instead: missing, then one entry for each bucket. A column without a
    level, with the same one in every row, or with one of its own in nearly every row, has no vocabulary and gives no
    ids.

    Attributes:
        levels: the kept levels, as canonical text (`mlclf.data.arrow.identities`).
        buckets: number of hash buckets, 0 while the vocabulary is used.
        is_constant: whether every row has the one level.
        texts_of: how levels are written; None for canonically, as all are but those of runs of an earlier format.
        identified: distinct values, where the column is left out because nearly every row has its own.
        unseen: levels met by `encode_ids` that the vocabulary does not have.
    """

    role = "categorical"
    families: ClassVar[tuple[str, ...]] = (*SINGLE, "null")
    suggested_by: ClassVar[tuple[str, ...]] = ("string",)
    gives_ids = True
    has_one_id = True

    max_levels: int = 0
    hash_limit: int = 0
    hash_buckets: int = 0
    levels: tuple[str, ...] = ()
    buckets: int = 0
    is_constant: bool = False
    texts_of: Callable[[pa.Array], pa.Array] | None = None
    unseen: Tally = field(default_factory=Tally)
    dropped_levels: int = 0
    identified: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _missing: int = 0
    _known: pa.Array | None = None

    @classmethod
    def fresh(cls, column: FeatureColumn, options: EncodingOptions) -> Self:
        return cls(column.name, options.vocabulary_levels, options.hash_limit, options.hash_buckets)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        """Count the levels of a table (rows of weight 0 too)."""
        array = one_array(table.column(self.name), keeps_dictionary=True)
        levels = self._levels(array, where)[1]
        if self.buckets:
            return
        codes, texts = levels_of(levels, self.texts_of)
        numbers = np.bincount(codes, minlength=len(texts) + 1).tolist()
        self._missing += self._num_missing(array, numbers[-1])
        self._counts.update(
            {level: number for level, number in zip(texts.to_pylist(), numbers, strict=False) if number}
        )
        if len(self._counts) > self.hash_limit:
            self.buckets = self.hash_buckets
            self._counts.clear()

    def finish(self) -> None:
        if not self.buckets:
            ranked = sorted(self._counts, key=lambda level: (-self._counts[level], level))
            self.dropped_levels = max(0, len(ranked) - self.max_levels)
            self.levels = tuple(ranked[: self.max_levels])
            if self.has_one_id and not self._missing:
                self.is_constant = len(ranked) == 1
                self._drop_identifier(len(ranked))
        self._counts = Counter()
        self._known = pa.array(self.levels, pa.string())

    def _drop_identifier(self, distinct: int) -> None:
        """Leave the levels out where nearly every row has one of its own: they tell nothing of other rows."""
        rows = sum(self._counts.values())
        if rows >= LEAST_ROWS and distinct >= IDENTIFIER_SHARE * rows:
            self.identified, self.levels, self.dropped_levels = distinct, (), 0

    @property
    def is_dropped(self) -> bool:
        return not self.buckets and (self.is_constant or not self.levels)

    @property
    def vocabulary_size(self) -> int:
        if self.is_dropped:
            return 0
        return 1 + self.buckets if self.buckets else 2 + len(self.levels)

    def vocabulary_names(self) -> list[str]:
        if self.is_dropped:
            return []
        if self.buckets:
            return [f"{self.name}:missing", *(f"{self.name}#{bucket}" for bucket in range(self.buckets))]
        return [f"{self.name}:missing", f"{self.name}:other", *(f"{self.name}={level}" for level in self.levels)]

    @property
    def distinct_values(self) -> int:
        return len(self.levels)

    def warning(self) -> str | None:
        if self.buckets:
            return (
                f"column {self.name!r} has more than {self.hash_limit:,} distinct values; "
                f"it is hashed to {self.buckets:,} buckets"
            )
        if self.identified:
            return (
                f"column {self.name!r} has {self.identified:,} distinct values, nearly one a row, which tell nothing "
                "of other rows; it is left out"
            )
        if not self.levels:
            return f"column {self.name!r} has no {'value' if self.has_one_id else 'token'} in any row; it is left out"
        if self.is_constant:
            level = self.levels[0] if len(self.levels[0]) <= 40 else self.levels[0][:39] + "…"
            return f"column {self.name!r} is constant ({level!r}); it is left out"
        if self.dropped_levels:
            return f"column {self.name!r}: {self.dropped_levels:,} rarest levels count as 'other'"
        return None

    def encode_ids(self, table: pa.Table, where: str) -> TokenIds:
        if self.is_dropped:
            return super().encode_ids(table, where)
        array = one_array(table.column(self.name), keeps_dictionary=True)
        offsets, levels = self._levels(array, where)
        return self._rows_of(array, offsets, self._ids(levels))

    def counted(self) -> list[str]:
        unseen = self.unseen.take()
        return [f"column {self.name!r}: {unseen:,} values are not in the vocabulary ('other')"] if unseen else []

    def _levels(self, array: pa.Array, where: str) -> tuple[NDArray[np.int64] | None, pa.Array]:
        """Where the levels of each row begin and end [n + 1], None where each row has one; and all of them."""
        return None, array

    def _num_missing(self, array: pa.Array, null_levels: int) -> int:
        return null_levels

    def _rows_of(self, array: pa.Array, offsets: NDArray[np.int64] | None, ids: NDArray[np.int64]) -> TokenIds:
        return TokenIds(None, ids)

    def _ids(self, levels: pa.Array) -> NDArray[np.int64]:
        if self.buckets and not pa.types.is_dictionary(levels.type):
            return self._ids_of((self.texts_of or canonical)(levels))  # of many distinct ones
        codes, texts = levels_of(levels, self.texts_of)
        ids: NDArray[np.int64] = np.append(self._ids_of(texts), MISSING)[codes]
        if not self.buckets:
            self.unseen.add((ids == OTHER).sum())
        return ids

    def _ids_of(self, texts: pa.Array) -> NDArray[np.int64]:
        """Ids of texts; bytes are hashed as they are."""
        if self.buckets:
            empty = pa.scalar("" if pa.types.is_string(texts.type) else b"", texts.type)
            hashes = murmur3_32(pc.fill_null(texts, empty)).astype(np.int64) & (self.buckets - 1)
            return np.where(texts.is_null().to_numpy(zero_copy_only=False), MISSING, hashes + 1)
        assert self._known is not None
        places = pc.fill_null(pc.index_in(texts, self._known), -1)
        return np.asarray(places.to_numpy(zero_copy_only=False).astype(np.int64) + 2)

    def state(self) -> dict[str, Any]:
        state = {"levels": list(self.levels), "buckets": self.buckets, "is_constant": self.is_constant}
        return state if self.texts_of is None else state | {"texts": "by type"}

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        column = cls(name, levels=tuple(state["levels"]), buckets=state["buckets"], is_constant=state["is_constant"])
        column.texts_of = texts_by_type if state.get("texts") == "by type" else None
        column._known = pa.array(column.levels, pa.string())
        return column


def texts_by_type(array: pa.Array) -> pa.Array:
    """Levels as runs of the first format have them: the text of a value depends on its type."""
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array if pa.types.is_string(array.type) else pc.cast(array, pa.string())
