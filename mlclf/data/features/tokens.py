"""Token lists: any number of levels a row, such as tags or the words of a prepared text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.families import LISTS
from mlclf.data.arrow.lists import list_parts, null_inside
from mlclf.data.features.categorical import MISSING, CategoricalColumn
from mlclf.data.features.token_ids import TokenIds
from mlclf.errors import DataError


@dataclass
class TokensColumn(CategoricalColumn):
    """A list of levels a row, in a vocabulary like that of a categorical column; a null list is the level `missing`."""

    role = "tokens"
    families: ClassVar[tuple[str, ...]] = LISTS
    suggested_by: ClassVar[tuple[str, ...]] = ("strings", "integers")
    has_one_id = False

    @property
    def distinct_values(self) -> int:
        return 0

    def _levels(self, array: pa.Array, where: str) -> tuple[NDArray[np.int64] | None, pa.Array]:
        offsets, levels = list_parts(array)
        if levels.null_count:
            raise DataError(null_inside(where, self.name))
        return offsets, levels

    def _num_missing(self, array: pa.Array, null_levels: int) -> int:
        return int(array.null_count)

    def _rows_of(self, array: pa.Array, offsets: NDArray[np.int64] | None, ids: NDArray[np.int64]) -> TokenIds:
        assert offsets is not None
        absent = array.is_null().to_numpy(zero_copy_only=False)
        if not absent.any():
            return TokenIds(np.diff(offsets), ids)
        return TokenIds(np.diff(offsets) + absent, np.insert(ids, offsets[:-1][absent], MISSING))
