"""Embeddings: vectors of one length, each of whose elements is a numeric input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import one_array
from mlclf.data.arrow.families import NUMBER_LISTS, UNDECIDED
from mlclf.data.arrow.lists import null_inside
from mlclf.data.features.fitted_column import FeatureColumn
from mlclf.data.features.numeric import NumericColumn, numeric_values
from mlclf.errors import DataError


@dataclass
class EmbeddingColumn(NumericColumn):
    """A vector a row. Dense inputs: its elements, unless all are constant, then the indicator of missing ones."""

    role = "embedding"
    families: ClassVar[tuple[str, ...]] = ("vector", *NUMBER_LISTS)
    suggested_by: ClassVar[tuple[str, ...]] = ("vector",)
    undecided: ClassVar[tuple[str, ...]] = UNDECIDED
    needs_width = True
    takes_splines = False

    @classmethod
    def accepts(cls, column: FeatureColumn, family: str) -> bool:
        return column.width > 0

    def _constant(self) -> str:
        return f"{super()._constant()}, …"

    def _value_names(self) -> list[str]:
        return [f"{self.name}[{index}]" for index in range(self.width)]

    def is_float32_in(self, table: pa.Table) -> bool:
        return False

    def _encode_complete(self, table: pa.Table, out: NDArray[np.float32]) -> bool:
        return False

    def _values(self, table: pa.Table, where: str) -> NDArray[Any]:
        place, array = f"{where} column {self.name!r}", one_array(table.column(self.name))
        if pa.types.is_null(array.type):
            return np.full((len(array), self.width), np.nan)
        present = ~array.is_null().to_numpy(zero_copy_only=False)
        if not pa.types.is_fixed_size_list(array.type):
            lengths = pc.list_value_length(array).drop_null()
            wrong = lengths.filter(pc.not_equal(lengths, self.width))
            if len(wrong):
                raise DataError(
                    f"{place}: every list of an embedding must have {self.width} elements, as the first one has, found "
                    f"one of {wrong[0].as_py()}; make them of one length, a whole list null where it is missing"
                )
        inside = array.flatten()
        if inside.null_count:
            raise DataError(null_inside(where, self.name))
        values = numeric_values(pa.chunked_array([inside]), place).reshape(-1, self.width)
        if present.all():
            return values
        result = np.full((len(array), self.width), np.nan, values.dtype)
        result[present] = values
        return result
