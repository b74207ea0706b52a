"""The table of column roles: one line each."""

from __future__ import annotations

from mlclf.data.features.categorical import CategoricalColumn
from mlclf.data.features.embedding import EmbeddingColumn
from mlclf.data.features.fitted_column import FittedColumn
from mlclf.data.features.numeric import NumericColumn
from mlclf.data.features.sparse import SparseColumn
from mlclf.data.features.text import TextColumn
from mlclf.data.features.tokens import TokensColumn

ROLES: dict[str, type[FittedColumn]] = {
    column.role: column
    for column in (
        NumericColumn,
        CategoricalColumn,
        TokensColumn,
        SparseColumn,
        EmbeddingColumn,
        TextColumn,
    )
}
"""Role → what a column of it is; the names are those of `features.roles`."""
