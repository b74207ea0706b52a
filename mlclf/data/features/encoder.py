"""FeatureEncoder: the columns that are inputs, fitted to training rows; an Arrow table → dense inputs and token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.arrow.arrays import tensor_of, transpose
from mlclf.data.features.fitted_column import EncodingOptions, FeatureColumn, FittedColumn
from mlclf.data.features.roles import ROLES
from mlclf.data.features.splines import LinearSplines, shortest
from mlclf.data.features.token_ids import TokenIds, joined_ids
from mlclf.errors import RunError
from mlclf.machine.memory import Recycler

FORMAT_VERSION = 3
"""Up to format 2 columns had names of classes in place of roles; in format 1 a level's text depended on its type."""

SCRATCH_BYTES = 8 << 20
"""Of a block of rows, column by column, before it is transposed; it stays in a processor's cache meanwhile."""


class SplineInput(NamedTuple):
    """A numeric column that can have knots.

    Attributes:
        value: the index of its value among the dense inputs.
        missing: the index of the input that says whether it is missing; None where there is none.
    """

    name: str
    value: int
    missing: int | None


@dataclass
class FeatureEncoder:
    """Turns tables into the inputs of a model: dense ones first, those of splines last of them, then the vocabulary.

    Fitted features, in the sense of `ParquetLoader(features=…)`; the columns that `fit(features=…)` names are those of
    the schema.

    Attributes:
        columns: the columns that are inputs: D dense inputs first, then those that give ids, V of them in all.
        splines: dense inputs more, after the others; None for none.
        folder_types: Arrow types of the columns that the folders of the training data gave; None where not known.
    """

    columns: list[FittedColumn]
    splines: LinearSplines | None = None
    folder_types: dict[str, str] | None = None
    _scratch: Recycler = field(default_factory=Recycler, compare=False, repr=False)

    @classmethod
    def fresh(cls, columns: Iterable[FeatureColumn], options: EncodingOptions) -> FeatureEncoder:
        """The encoder before the pass of statistics."""
        fresh = (ROLES[column.role].fresh(column, options) for column in columns)
        return cls(sorted(fresh, key=lambda column: column.gives_ids))

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        """Add the rows of a table to the statistics."""
        for column in self.columns:
            column.fit(table, where, weights)

    def finish(self) -> list[str]:
        """Fix the inputs, and return a warning for each column that is left out or changed."""
        for column in self.columns:
            column.finish()
        return [warning for column in self.columns if (warning := column.warning())]

    @property
    def unused(self) -> frozenset[str]:
        """Columns that give no input: what is constant, empty, or has a value of its own in nearly every row."""
        return frozenset(column.name for column in self.columns if not column.num_dense + column.vocabulary_size)

    @property
    def num_dense(self) -> int:
        return self.num_unsplined + (0 if self.splines is None else len(self.splines))

    @property
    def num_unsplined(self) -> int:
        """Dense inputs without those of splines."""
        return sum(column.num_dense for column in self.columns)

    def spline_inputs(self) -> Iterator[SplineInput]:
        """The numeric columns, which can have knots."""
        start = 0
        for column in self.columns:
            if column.takes_splines and column.num_values:
                missing = start + column.num_values if column.num_dense > column.num_values else None
                yield SplineInput(column.name, start, missing)
            start += column.num_dense

    def knots(self) -> dict[str, list[float]]:
        """The knots of each column that has some, in its own unit."""
        if self.splines is None:
            return {}
        columns = {column.name: column for column in self.columns}
        found = {each.name: self.splines.knots_of(each.value) for each in self.spline_inputs()}
        return {name: [columns[name].unscaled(knot) for knot in knots] for name, knots in found.items() if knots}

    def dense_names(self) -> list[str]:
        """Names of the dense inputs: [D]."""
        names = [name for column in self.columns for name in column.dense_names()]
        return names + [f"{name} above {knot}" for name, knots in self.knots().items() for knot in shortest(knots)]

    def vocabulary_names(self) -> list[str]:
        """Names of the entries of the vocabulary: [V]."""
        return [name for column in self.columns for name in column.vocabulary_names()]

    @property
    def vocabulary_size(self) -> int:
        return sum(column.vocabulary_size for column in self.columns)

    @property
    def num_tokens(self) -> int | None:
        """Ids of every row, where all rows have as many; None where their number differs."""
        kept = [column for column in self.columns if column.vocabulary_size]
        return len(kept) if all(column.has_one_id for column in kept) else None

    def encode_dense(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Fill out[:n] of a row-major [capacity, D] float32 array, a block of rows after the other."""
        if not out.shape[1]:
            return
        rows, num_inputs = block_rows(out.shape[1]), self.num_unsplined
        blocks = self._float32_blocks(table, rows)
        for number, start in enumerate(range(0, table.num_rows, rows)):
            block = out[start : min(start + rows, table.num_rows)]
            into = block[:, :num_inputs]
            if blocks is None or not self._encode_float32(blocks[number], into):
                self._encode_block(table.slice(start, rows), where, into)
            if self.splines is not None:
                self.splines.fill(block)

    def _encode_block(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Encode columns of any kind, one after the other."""
        start = 0
        columns = self._scratch.array(out.shape[::-1], np.float32)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for column in self.columns:
                size = column.num_dense
                if size:
                    column.encode_dense(table, where, columns[start : start + size])
                start += size
        transpose(columns, out)

    def _float32_blocks(self, table: pa.Table, rows: int) -> list[tuple[Tensor, ...]] | None:
        """The columns of each block of rows where all are float32 and nothing is missing, else None."""
        used = [column for column in self.columns if column.num_dense]
        if not all(column.is_float32_in(table) for column in used):
            return None
        columns = [torch.split(tensor_of(table.column(column.name)), rows) for column in used]
        return list(zip(*columns, strict=True))

    def _encode_float32(self, columns: tuple[Tensor, ...], out: NDArray[np.float32]) -> bool:
        """Encode a block in a few calls for all columns; False where a value needs care.

        Other threads cannot go on with Python between the steps of a call; and each call may have to wait for them.
        """
        values = torch.from_numpy(self._scratch.array(out.shape[::-1], np.float32))
        torch.stack(columns, out=values)
        means, scales = self._scaling
        values.sub_(means).mul_(scales)
        if not torch.isfinite(values.sum()):
            return False
        torch.from_numpy(out).copy_(values.t())
        return True

    @cached_property
    def _scaling(self) -> tuple[Tensor, Tensor]:
        """Means and reciprocal deviations, where all columns are one input each: [D, 1] each."""
        scalings = [column.scaling for column in self.columns if column.num_dense]
        return torch.tensor([[mean] for mean, _ in scalings]), torch.tensor([[1 / each] for _, each in scalings])

    def touch_memory(self, rows: int, threads: int) -> None:
        """Have the memory ready that so many threads need to encode tables of so many rows."""
        self._scratch.touch((self.num_unsplined, min(rows, block_rows(self.num_dense))), np.float32, threads)

    def encode_ids(self, table: pa.Table, where: str) -> TokenIds:
        """Ids of all columns beside each other, row by row."""
        parts = []
        start = 0
        for column in self.columns:
            if column.vocabulary_size:
                part = column.encode_ids(table, where)
                part.ids = part.ids + start
                parts.append(part)
                start += column.vocabulary_size
        return joined_ids(parts, table.num_rows)

    def counted(self) -> list[str]:
        """What encoding met and repaired since it was last asked: one line for each column."""
        return [line for column in self.columns for line in column.counted()]

    def to_json(self) -> dict[str, Any]:
        """The document of `features.json`: D names, V names, and the state of each column."""
        document = {
            "format_version": FORMAT_VERSION,
            "dense": self.dense_names(),
            "vocabulary": self.vocabulary_names(),
            "columns": [{"name": column.name, "role": column.role} | column.state() for column in self.columns],
        }
        return document if self.folder_types is None else document | {"folder_types": self.folder_types}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `features.safetensors`, by column index and field."""
        result = {
            f"columns.{index}.{field}": value
            for index, column in enumerate(self.columns)
            for field, value in column.arrays().items()
        }
        if self.splines is not None:
            result |= {f"splines.{field}": value for field, value in self.splines.arrays().items()}
        return result

    @classmethod
    def from_json(cls, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FeatureEncoder:
        """The inverse of `to_json` and `arrays`; reads what earlier formats wrote too."""
        try:
            if document["format_version"] < 3:
                document, arrays = _without_classes(document, arrays)
            columns = [
                ROLES[state["role"]].restore(state["name"], state, _fields(arrays, f"columns.{index}."))
                for index, state in enumerate(document["columns"])
            ]
            splines = LinearSplines.restore(_fields(arrays, "splines."))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"features.json is damaged ({error!r}); fit the run again") from error
        return cls(columns, splines, document.get("folder_types"))


def block_rows(num_dense: int) -> int:
    """Rows that are encoded at once."""
    return max(64, SCRATCH_BYTES // (4 * max(1, num_dense)))


def _fields(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _without_classes(
    document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
    """Document and arrays of format 1 or 2 as those of format 3."""
    dense, tokens = document["dense_columns"], document["token_columns"]
    texts = {"texts": "by type"} if document["format_version"] == 1 else {}
    columns = [
        each | {"role": "embedding" if each["width"] else "numeric", "width": each["width"] or 1} for each in dense
    ]
    for each in tokens:
        levels = "tokens" if each.get("is_list") else "categorical"
        role = {"LevelFeature": levels, "SparseFeature": "sparse", "TextFeature": "text"}[each["kind"]]
        columns.append(each | texts | {"role": role})
    starts = {f"dense.{index}.": f"columns.{index}." for index in range(len(dense))}
    starts |= {f"tokens.{index}.": f"columns.{len(dense) + index}." for index in range(len(tokens))}
    starts |= {"hinges.": "splines.", "hinges.at": "splines.knots"}
    renamed = {new + name: array for old, new in starts.items() for name, array in _fields(arrays, old).items()}
    return dict(document) | {"columns": columns}, renamed
