"""Label columns and tag lists → 0, 1 or not observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.schema import Schema
from mlclf.errors import DataError

UNOBSERVED = 2
"""Code of a cell whose label is null."""

WORD_PAIRS = (("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"))


@dataclass
class LabelCounts:
    """What one pass finds of the labels, by part of the split.

    Attributes:
        positives, totals: [num_parts, K] float64, weights of positive and of observed cells.
        positive_rows, rows: [num_parts, K] int64, the same unweighted.
    """

    positives: NDArray[np.float64]
    totals: NDArray[np.float64]
    positive_rows: NDArray[np.int64]
    rows: NDArray[np.int64]

    def plus(self, other: LabelCounts) -> LabelCounts:
        """The sum of two counts; `other` may have labels more, at the end, for which these rows were all negative.

        That is how tags that turn up later are counted: a row observes every tag, known yet or not.
        """
        added = other.positives.shape[1] - self.positives.shape[1]

        def widened(array: NDArray[Any], observed: bool) -> NDArray[Any]:
            edge = array[:, :1] if observed and array.shape[1] else np.zeros((len(array), 1), array.dtype)
            return np.concatenate([array, np.repeat(edge, added, axis=1)], axis=1)

        return LabelCounts(
            widened(self.positives, False) + other.positives,
            widened(self.totals, True) + other.totals,
            widened(self.positive_rows, False) + other.positive_rows,
            widened(self.rows, True) + other.rows,
        )

    def chosen(self, labels: Sequence[int]) -> LabelCounts:
        """The counts of some labels, in the order given."""
        index = np.array(labels, np.int64)
        return LabelCounts(
            self.positives[:, index], self.totals[:, index], self.positive_rows[:, index], self.rows[:, index]
        )


@dataclass
class LabelColumns:
    """Labels that are columns: bool, 0/1, −1/1, or words that come in known pairs.

    Attributes:
        names: [K], as the columns are called.
        declared: text of a value → 0, 1 or None (not observed), for values that are not known.
        seen: kinds of value met so far, by label; the statistics pass uses it to refuse mixtures.
    """

    names: tuple[str, ...]
    declared: Mapping[str, int | None] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)

    def encode(self, table: pa.Table, where: str) -> NDArray[np.uint8]:
        """Codes of every cell: [n, K] uint8 of 0, 1 or UNOBSERVED.

        Raises:
            DataError: a value is not a label; names the place, the column and the setting that maps it.
        """
        codes = np.empty((table.num_rows, len(self.names)), np.uint8)
        for index, name in enumerate(self.names):
            codes[:, index] = self._encode_column(name, table.column(name), where)
        return codes

    def _encode_column(self, name: str, column: pa.ChunkedArray, where: str) -> NDArray[np.uint8]:
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.uint8())
        if self.declared:
            return self._from_texts(name, pc.cast(array, pa.string()), where)
        if (
            pa.types.is_string(array.type)
            or pa.types.is_large_string(array.type)
            or pa.types.is_string_view(array.type)
        ):
            return self._from_texts(name, array, where)
        if pa.types.is_null(array.type):
            return np.full(len(array), UNOBSERVED, np.uint8)
        return self._from_numbers(name, array, where)

    def _from_numbers(self, name: str, array: pa.Array, where: str) -> NDArray[np.uint8]:
        if pa.types.is_decimal(array.type) or pa.types.is_temporal(array.type):
            array = pc.cast(array, pa.float64(), safe=False)
        missing = array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        values = pc.fill_null(array, pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
        ones = values == 1
        odd = ~(ones | (values == 0) | missing)
        if odd.any():
            if np.any(odd & (values != -1)):
                found = sorted({repr(value.item()) for value in values[odd & (values != -1)][:1000]})[:5]
                raise DataError(_refused(name, found, where))
            self._note(name, "minus", where)
        if np.any((values == 0) & ~missing):
            self._note(name, "zero", where)
        return np.where(missing, UNOBSERVED, ones).astype(np.uint8)

    def _from_texts(self, name: str, array: pa.Array, where: str) -> NDArray[np.uint8]:
        encoded = array.dictionary_encode()
        codes, unknown = [], []
        for value in encoded.dictionary.to_pylist():
            code, kind = self._text_code(value)
            if code is None:
                unknown.append(repr(value))
            elif kind:
                self._note(name, kind, where)
            codes.append(UNOBSERVED if code is None else code)
        if unknown:
            raise DataError(_refused(name, sorted(unknown)[:5], where))
        lookup = np.array([*codes, UNOBSERVED], np.uint8)
        return lookup[pc.fill_null(encoded.indices, len(codes)).to_numpy(zero_copy_only=False)]

    def _text_code(self, value: str) -> tuple[int | None, str]:
        """(code, kind) of a text; code None when it is not known."""
        if value in self.declared:
            code = self.declared[value]
            return (UNOBSERVED if code is None else code), ""
        if value in ("0", "1"):
            return int(value), ""
        for pair in WORD_PAIRS:
            if value.lower() in pair:
                return pair.index(value.lower()), "/".join(pair)
        return None, ""

    def _note(self, name: str, kind: str, where: str) -> None:
        """Remember a kind of value, and refuse kinds that cannot stand in one label together."""
        kinds = self.seen.setdefault(name, set())
        if kind in kinds:
            return
        kinds.add(kind)
        if {"minus", "zero"} <= kinds:
            raise DataError(
                f"{where}: label {name!r} holds both 0 and -1, so what means negative is not known; "
                'map them with --set \'data.label_values={"0": 0, "-1": 0, "1": 1}\' (null for not observed)'
            )
        words = sorted(kinds - {"minus", "zero"})
        if len(words) > 1:
            raise DataError(
                f"{where}: label {name!r} mixes the words of {' and '.join(words)}; "
                'map each value with --set \'data.label_values={"yes": 1, "f": 0}\''
            )

    def mappings(self) -> list[str]:
        """One line for each way of writing labels that was mapped to 0 and 1."""
        lines = []
        for kind in sorted({kind for kinds in self.seen.values() for kind in kinds if kind != "zero"}):
            names = [name for name, kinds in self.seen.items() if kind in kinds]
            negative, positive = ("-1", "1") if kind == "minus" else kind.split("/")
            shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"labels {shown}: {negative!r} is read as 0, {positive!r} as 1")
        return lines


def _refused(name: str, found: Sequence[str], where: str) -> str:
    example = ", ".join(f'"{value.strip(chr(39))}": 1' for value in found[:2])
    return (
        f"{where}: label {name!r} must be 0, 1 or null, found {', '.join(found)}; "
        f"say what they mean with --set 'data.label_values={{{example}}}' (0, 1, or null for not observed)"
    )


def tag_texts(array: pa.ListArray, where: str, name: str) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets and texts of a list column of tags: ([n + 1] int64 from 0, string array).

    Raises:
        DataError: a list holds a null.
    """
    offsets, values = list_parts(array)
    if values.null_count:
        raise DataError(null_inside(where, name))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return offsets, pc.cast(values, pa.string())


def null_inside(where: str, name: str) -> str:
    return (
        f"{where}: column {name!r} has a list with a null inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )


def list_parts(array: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets from 0 and the values of any list array, slices included; a null list is empty."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, array.flatten()


@dataclass
class TagList:
    """Labels that are one list column of tags: every tag of the training rows is a label.

    Attributes:
        column: name of the list column.
        names: [K], the tags, by falling count, then by code point; empty until `finish`.
    """

    column: str
    names: tuple[str, ...] = ()
    unseen_tags: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)

    def count(self, table: pa.Table, where: str) -> None:
        """Count the tags of a table, each row once per tag."""
        for chunk in table.column(self.column).chunks:
            _, texts = self._distinct(chunk, where)
            counted = texts.value_counts()
            for tag, number in zip(
                counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True
            ):
                self._counts[tag] = self._counts.get(tag, 0) + number

    def finish(self) -> None:
        self.set_names(sorted(self._counts, key=lambda tag: (-self._counts[tag], tag)))

    def extended(self, known: TagList | None) -> TagList:
        """A list with the tags of `known` first, and those counted since behind them."""
        old = known.names if known is not None else ()
        if len(old) == len(self._counts):
            assert known is not None or not self._counts
            return known or TagList(self.column)
        seen = set(old)
        result = TagList(self.column)
        result.set_names([*old, *(tag for tag in self._counts if tag not in seen)])
        return result

    def set_names(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._ids = {name: index for index, name in enumerate(self.names)}

    def encode(self, table: pa.Table, where: str) -> NDArray[np.uint8]:
        """Codes of every cell: [n, K] uint8; a null list is UNOBSERVED for every label."""
        codes = np.zeros((table.num_rows, len(self.names)), np.uint8)
        start = 0
        for chunk in table.column(self.column).chunks:
            rows, texts = self._distinct(chunk, where)
            encoded = texts.dictionary_encode()
            lookup = np.array([self._ids.get(tag, -1) for tag in encoded.dictionary.to_pylist()], np.int64)
            ids = lookup[encoded.indices.to_numpy(zero_copy_only=False)] if len(texts) else np.zeros(0, np.int64)
            known = ids >= 0
            self.unseen_tags += int((~known).sum())
            codes[start + rows[known], ids[known]] = 1
            if chunk.null_count:
                codes[start : start + len(chunk)][chunk.is_null().to_numpy(zero_copy_only=False)] = UNOBSERVED
            start += len(chunk)
        return codes

    def _distinct(self, chunk: pa.Array, where: str) -> tuple[NDArray[np.int64], pa.Array]:
        """(row, tag) pairs of a chunk, a tag that a row repeats counted once."""
        offsets, texts = tag_texts(chunk, where, self.column)
        rows = np.repeat(np.arange(len(chunk)), np.diff(offsets))
        if not len(texts):
            return rows, texts
        encoded = texts.dictionary_encode()
        pairs = rows * max(1, len(encoded.dictionary)) + encoded.indices.to_numpy(zero_copy_only=False)
        _, first = np.unique(pairs, return_index=True)
        return rows[first], texts.take(pa.array(first))


Labels = LabelColumns | TagList


def make_labels(schema: Schema, declared: Mapping[str, int | None], names: Sequence[str] | None = None) -> Labels:
    """The label encoder of a schema; `names` are the tags found when the run was fitted."""
    if not schema.tags:
        return LabelColumns(schema.labels, dict(declared))
    tags = TagList(schema.labels[0])
    if names is not None:
        tags.set_names(names)
    return tags


def count_labels(
    codes: NDArray[np.uint8], weights: NDArray[np.float64], parts: NDArray[np.int8], num_parts: int
) -> LabelCounts:
    """Weights and rows of positive and observed cells, by part."""
    num_labels = codes.shape[1]
    shape = (num_parts, num_labels)
    counts = LabelCounts(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    for part, chosen in _by_part(parts, num_parts):
        cells = codes[chosen]
        positive, observed = cells == 1, cells != UNOBSERVED
        row_weights = weights[chosen]
        counts.positives[part] = row_weights @ positive
        counts.totals[part] = row_weights @ observed
        counted = row_weights > 0
        counts.positive_rows[part] = (positive & counted[:, None]).sum(0)
        counts.rows[part] = (observed & counted[:, None]).sum(0)
    return counts


def _by_part(parts: NDArray[np.int8], num_parts: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for part in range(num_parts):
        chosen = parts == part
        if chosen.any():
            yield part, chosen
