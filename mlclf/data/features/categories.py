"""Columns of levels → ids: strings, dictionaries and lists of tokens, by vocabulary or, past a limit, by hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.identities import canonical, levels_of
from mlclf.data.arrow.lists import list_parts, null_inside
from mlclf.data.arrow.murmur import murmur3_32
from mlclf.data.features.tokens import Tokens
from mlclf.errors import DataError
from mlclf.machine.tally import Tally

LEAST_ROWS, IDENTIFIER_SHARE = 100, 0.95
"""Of so many rows and more, a column with so many distinct values a row names the rows."""

MISSING, OTHER = 0, 1
"""Ids of the first two entries of every vocabulary."""


@dataclass
class LevelFeature:
    """A column of levels (one a row) or of token lists (any number a row).

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
        unseen: levels met by `encode` that the vocabulary does not have.
    """

    name: str
    is_list: bool
    max_levels: int
    hash_limit: int
    hash_buckets: int
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

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        """Count the levels of a table (rows of weight 0 too)."""
        array = _one_array(table.column(self.name))
        values = self._values(array, where)[1]
        if self.buckets:
            return
        codes, texts = levels_of(values, self.texts_of)
        numbers = np.bincount(codes, minlength=len(texts) + 1).tolist()
        self._missing += array.null_count if self.is_list else numbers[-1]
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
            self.is_constant = not self.is_list and len(ranked) == 1 and not self._missing
            self._drop_identifier(len(ranked))
        self._counts = Counter()
        self._known = pa.array(self.levels, pa.string())

    def _drop_identifier(self, distinct: int) -> None:
        """Leave the levels out where nearly every row has one of its own: they tell nothing of other rows."""
        rows = sum(self._counts.values())
        if not self.is_list and not self._missing and rows >= LEAST_ROWS and distinct >= IDENTIFIER_SHARE * rows:
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
            return f"column {self.name!r} has no {'token' if self.is_list else 'value'} in any row; it is left out"
        if self.is_constant:
            level = self.levels[0] if len(self.levels[0]) <= 40 else self.levels[0][:39] + "…"
            return f"column {self.name!r} is constant ({level!r}); it is left out"
        if self.dropped_levels:
            return f"column {self.name!r}: {self.dropped_levels:,} rarest levels count as 'other'"
        return None

    def encode(self, table: pa.Table, where: str) -> Tokens:
        """Ids of each row, before the column's start in the vocabulary is added."""
        if self.is_dropped:
            return Tokens(np.zeros(table.num_rows, np.int64), np.zeros(0, np.int64))
        array = _one_array(table.column(self.name))
        offsets, values = self._values(array, where)
        ids = self._ids(values)
        if not self.is_list:
            return Tokens(None, ids)
        absent = array.is_null().to_numpy(zero_copy_only=False)
        return _with_missing(offsets, ids, absent) if absent.any() else Tokens(np.diff(offsets), ids)

    def counted(self) -> list[str]:
        """What encoding did not know since it was last asked."""
        unseen = self.unseen.take()
        return [f"column {self.name!r}: {unseen:,} values are not in the vocabulary ('other')"] if unseen else []

    def _ids(self, values: pa.Array) -> NDArray[np.int64]:
        if self.buckets and not pa.types.is_dictionary(values.type):
            return self._ids_of((self.texts_of or canonical)(values))  # of many distinct ones
        codes, texts = levels_of(values, self.texts_of)
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

    def _values(self, array: pa.Array, where: str) -> tuple[NDArray[np.int64], pa.Array]:
        """Offsets (of token lists) and levels; nulls of a plain column stay null."""
        if not self.is_list:
            return np.zeros(0, np.int64), array
        offsets, values = list_parts(array)
        if values.null_count:
            raise DataError(null_inside(where, self.name))
        return offsets, values

    def state(self) -> dict[str, Any]:
        return {
            "levels": list(self.levels),
            "buckets": self.buckets,
            "is_list": self.is_list,
            "is_constant": self.is_constant,
        }

    @classmethod
    def restore(cls, name: str, state: Mapping[str, Any], format_version: int = 2) -> LevelFeature:
        feature = cls(name, state["is_list"], 0, 0, 0, tuple(state["levels"]), state["buckets"], state["is_constant"])
        feature.texts_of = texts_of_format_1 if format_version == 1 else None
        feature._known = pa.array(feature.levels, pa.string())
        return feature


def texts_of_format_1(array: pa.Array) -> pa.Array:
    """Levels as runs of the first format have them: the text of a value depends on its type."""
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array if pa.types.is_string(array.type) else pc.cast(array, pa.string())


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, its dictionary kept: levels are looked up in it."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _with_missing(offsets: NDArray[np.int64], ids: NDArray[np.int64], absent: NDArray[np.bool_]) -> Tokens:
    """Give each null list the one id `MISSING`."""
    lengths = np.diff(offsets)
    return Tokens(lengths + absent, np.insert(ids, offsets[:-1][absent], MISSING))
