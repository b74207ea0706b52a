"""Features: every input column with its fitted statistics; an Arrow table → dense inputs and token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.arrow.arrays import tensor_of, transpose
from mlclf.data.features.categories import LevelFeature
from mlclf.data.features.knots import Hinges, shortest
from mlclf.data.features.numeric import NumericFeature
from mlclf.data.features.sparse import SparseFeature
from mlclf.data.features.text import TextFeature
from mlclf.data.features.tokens import Tokens, join_tokens
from mlclf.data.schema.schema import CATEGORICAL, EMBEDDING, NUMERIC, SPARSE, TEXT, TOKENS, Schema
from mlclf.errors import RunError
from mlclf.machine.memory import Recycler

FORMAT_VERSION = 2
"""In format 1 the text of a level depended on the type of its column; features of such runs keep it."""

SCRATCH_BYTES = 8 << 20
"""Of a block of rows, column by column, before it is transposed; it stays in a processor's cache meanwhile."""

IdFeature = LevelFeature | SparseFeature | TextFeature


@dataclass
class Features:
    """The inputs of a model, in the order of the schema: dense ones first, then the vocabulary.

    Attributes:
        dense: columns that give dense inputs, D of them in all.
        tokens: columns that give ids, V of them in all.
        hinges: dense inputs more, after the others, for numeric columns whose lines bend; None for none.
        format_version: of the run that they are from.
        folder_types: Arrow types of the columns that the folders of the training data gave; None where not known.
    """

    dense: list[NumericFeature]
    tokens: list[IdFeature]
    hinges: Hinges | None = None
    format_version: int = FORMAT_VERSION
    folder_types: dict[str, str] | None = None
    _scratch: Recycler = field(default_factory=Recycler, compare=False, repr=False)

    @classmethod
    def fresh(
        cls, schema: Schema, *, standardize: bool, vocabulary_levels: int, hash_limit: int, hash_buckets: int
    ) -> Features:
        """Features before the pass of statistics."""
        dense: list[NumericFeature] = []
        tokens: list[IdFeature] = []
        for column in schema.features:
            if column.role in (NUMERIC, EMBEDDING):
                dense.append(NumericFeature.fresh(column.name, column.width, standardize))
            elif column.role in (CATEGORICAL, TOKENS):
                is_list = column.role == TOKENS
                tokens.append(LevelFeature(column.name, is_list, vocabulary_levels, hash_limit, hash_buckets))
            elif column.role == SPARSE:
                assert column.values_column is not None
                tokens.append(SparseFeature(column.name, column.values_column))
            elif column.role == TEXT:
                tokens.append(TextFeature(column.name, hash_buckets))
        return cls(dense, tokens)

    def fit(self, table: pa.Table, where: str, weights: NDArray[np.float64] | None) -> None:
        """Add the rows of a table to the statistics."""
        for feature in self._all():
            feature.fit(table, where, weights)

    def finish(self) -> list[str]:
        """Fix the inputs, and return a warning for each column that is left out or changed."""
        for feature in self._all():
            feature.finish()
        warnings = [feature.warning() for feature in self._all()]
        return [warning for warning in warnings if warning]

    def _all(self) -> Iterable[NumericFeature | IdFeature]:
        yield from self.dense
        yield from self.tokens

    @property
    def unused(self) -> frozenset[str]:
        """Columns that give no input: what is constant, empty, or has a value of its own in nearly every row."""
        dense = {feature.name for feature in self.dense if not feature.dense_names()}
        return frozenset(dense | {feature.name for feature in self.tokens if not feature.vocabulary_size})

    @property
    def num_dense(self) -> int:
        return self.num_lines + (0 if self.hinges is None else len(self.hinges))

    @property
    def num_lines(self) -> int:
        """Dense inputs without hinges."""
        return sum(len(feature.dense_names()) for feature in self.dense)

    def bendable(self) -> Iterator[tuple[int, NumericFeature]]:
        """Numeric columns, whose lines may bend, with the index of their value among the dense inputs."""
        start = 0
        for feature in self.dense:
            if feature.has_value and not feature.is_embedding:
                yield start, feature
            start += len(feature.dense_names())

    def knots(self) -> dict[str, list[float]]:
        """The knots of each column whose line bends, in its own unit."""
        if self.hinges is None:
            return {}
        found = {column.name: self.hinges.knots_of(index) for index, column in self.bendable()}
        columns = {column.name: column for column in self.dense}
        return {name: [columns[name].unscaled(knot) for knot in knots] for name, knots in found.items() if knots}

    def _dense_names(self) -> list[str]:
        names = [name for feature in self.dense for name in feature.dense_names()]
        if self.hinges is not None:
            for name, knots in self.knots().items():
                names += [f"{name} above {knot}" for knot in shortest(knots)]
        return names

    @property
    def vocabulary_size(self) -> int:
        return sum(feature.vocabulary_size for feature in self.tokens)

    @property
    def num_tokens(self) -> int | None:
        """Ids of every row, where all rows have as many; None where their number differs."""
        kept = [feature for feature in self.tokens if feature.vocabulary_size]
        one_each = all(isinstance(feature, LevelFeature) and not feature.is_list for feature in kept)
        return len(kept) if one_each else None

    def encode_dense(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Fill out[:n] of a row-major [capacity, D] float32 array, a block of rows after the other."""
        if not out.shape[1]:
            return
        rows, num_lines = block_rows(out.shape[1]), self.num_lines
        plain = self._plain_blocks(table, rows)
        for number, start in enumerate(range(0, table.num_rows, rows)):
            block = out[start : min(start + rows, table.num_rows)]
            into = block[:, :num_lines]
            if plain is None or not self._encode_plain(plain[number], into):
                self._encode_block(table.slice(start, rows), where, into)
            if self.hinges is not None:
                self.hinges.fill(block)

    def _encode_block(self, table: pa.Table, where: str, out: NDArray[np.float32]) -> None:
        """Encode columns of any kind, one after the other."""
        start = 0
        columns = self._scratch.array(out.shape[::-1], np.float32)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for feature in self.dense:
                size = len(feature.dense_names())
                if size:
                    feature.encode(table, where, columns[start : start + size])
                start += size
        transpose(columns, out)

    def _plain_blocks(self, table: pa.Table, rows: int) -> list[tuple[Tensor, ...]] | None:
        """The columns of each block of rows where all are float32 and nothing is missing, else None."""
        used = [feature for feature in self.dense if feature.has_value or feature.has_indicator]
        if not all(feature.is_plain_in(table) for feature in used):
            return None
        columns = [torch.split(tensor_of(table.column(feature.name)), rows) for feature in used]
        return list(zip(*columns, strict=True))

    def _encode_plain(self, columns: tuple[Tensor, ...], out: NDArray[np.float32]) -> bool:
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
        """Means and reciprocal deviations of plain columns: [D, 1] each."""
        used = [feature for feature in self.dense if feature.has_value]
        means = torch.tensor([[feature.mean] for feature in used])
        return means, torch.tensor([[1 / feature.deviation] for feature in used])

    def touch_memory(self, rows: int, threads: int) -> None:
        """Have the memory ready that so many threads need to encode tables of so many rows."""
        self._scratch.touch((self.num_lines, min(rows, block_rows(self.num_dense))), np.float32, threads)

    def encode_tokens(self, table: pa.Table, where: str) -> Tokens:
        """Ids of all columns beside each other, row by row."""
        parts = []
        start = 0
        for feature in self.tokens:
            if not feature.vocabulary_size:
                continue
            part = feature.encode(table, where)
            part.ids = part.ids + start
            parts.append(part)
            start += feature.vocabulary_size
        return join_tokens(parts, table.num_rows)

    def counted(self) -> list[str]:
        """What encoding met and repaired since it was last asked: one line for each column."""
        lines: list[str] = []
        for feature in self._all():
            lines += feature.counted()
        return lines

    def to_json(self) -> dict[str, Any]:
        """The document of `features.json`: D names, V names, and the state of each column."""
        document = {
            "format_version": self.format_version,
            "dense": self._dense_names(),
            "vocabulary": [name for feature in self.tokens for name in feature.vocabulary_names()],
            "dense_columns": [
                {
                    "name": feature.name,
                    "width": feature.width if feature.is_embedding else 0,
                    "standardize": feature.standardize,
                }
                for feature in self.dense
            ],
            "token_columns": [
                {"name": feature.name, "kind": type(feature).__name__} | feature.state() for feature in self.tokens
            ],
        }
        return document if self.folder_types is None else document | {"folder_types": self.folder_types}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `features.safetensors`, by column index and field."""
        result: dict[str, NDArray[Any]] = {}
        for index, numeric in enumerate(self.dense):
            result.update({f"dense.{index}.{field}": value for field, value in numeric.state().items()})
        for index, feature in enumerate(self.tokens):
            if isinstance(feature, TextFeature):
                result.update({f"tokens.{index}.{field}": value for field, value in feature.arrays().items()})
        if self.hinges is not None:
            result.update({f"hinges.{field}": value for field, value in self.hinges.arrays().items()})
        return result

    @classmethod
    def from_json(cls, value: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
        """The inverse of `to_json` and `arrays`."""
        try:
            dense = [
                NumericFeature.restore(
                    column["name"], column["width"], column["standardize"], _fields(arrays, f"dense.{index}.")
                )
                for index, column in enumerate(value["dense_columns"])
            ]
            tokens = [
                _restore_tokens(column, _fields(arrays, f"tokens.{index}."), value["format_version"])
                for index, column in enumerate(value["token_columns"])
            ]
            hinges = Hinges.restore(_fields(arrays, "hinges."))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"features.json is damaged ({error!r}); fit the run again") from error
        return cls(dense, tokens, hinges, value["format_version"], value.get("folder_types"))


def block_rows(num_dense: int) -> int:
    """Rows that are encoded at once."""
    return max(64, SCRATCH_BYTES // (4 * max(1, num_dense)))


def _fields(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _restore_tokens(column: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], format_version: int) -> IdFeature:
    kind, name = column["kind"], column["name"]
    if kind == "LevelFeature":
        return LevelFeature.restore(name, column, format_version)
    if kind == "SparseFeature":
        return SparseFeature.restore(name, column)
    return TextFeature.restore(name, column, arrays)
