"""Label columns and tag lists → 0, 1 or not observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import Recycler, is_text, one_array, text_of_bytes, transpose
from mlclf.data.arrow.identities import is_bytes
from mlclf.data.labels.values import declared_key, is_near, known_code, mixed_example, nothing_matches, refusal, such_as
from mlclf.data.schema.finding import Schema
from mlclf.data.schema.label_lists import element_names, spread
from mlclf.errors import DataError
from mlclf.machine.tally import Tally

UNOBSERVED = 2
"""Code of a cell whose label is null."""

NUM_CODES = 3
"""0, 1 and UNOBSERVED."""


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

    @classmethod
    def zeros(cls, num_parts: int, num_labels: int) -> LabelCounts:
        shape = (num_parts, num_labels)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64))


@dataclass
class LabelColumns:
    """Labels that are columns: bool, 0/1, −1/1, or words that come in known pairs.

    Attributes:
        names: [K], as the columns are called, or the elements of `list_column`.
        declared: text of a value → 0, 1 or None (not observed), for values that are not known.
        seen: kinds of value met so far, by label; the statistics pass uses it to refuse mixtures.
        met: declared values that were met.
        unmapped: values that were met and mean what they usually mean.
        list_column: the one column whose lists have an element for each label; None where each has its own.
    """

    names: tuple[str, ...]
    declared: Mapping[str, int | None] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    met: set[str] = field(default_factory=set, compare=False)
    unmapped: set[str] = field(default_factory=set, compare=False)
    list_column: str | None = None
    _known: dict[str, dict[str, int | None]] = field(default_factory=dict, compare=False, repr=False)
    _scratch: Recycler = field(default_factory=Recycler, compare=False, repr=False)

    def encode(self, table: pa.Table, where: str, out: NDArray[np.uint8]) -> bool:
        """Fill out[n, K] with the codes of every cell, 0, 1 or UNOBSERVED; return whether all are observed.

        Raises:
            DataError: a value is not a label; names the place, the column and the setting that maps it.
        """
        columns = self._scratch.array((len(self.names), table.num_rows), np.uint8)
        table = self.spread(table, where)
        for index, name in enumerate(self.names):
            columns[index] = self.encode_column(name, table, where)
        transpose(columns, out)
        return bool(columns.max(initial=0) < UNOBSERVED)

    def codes(self, table: pa.Table, where: str) -> NDArray[np.uint8]:
        """Codes of every cell in memory of their own: [n, K] uint8."""
        out = np.empty((table.num_rows, len(self.names)), np.uint8)
        self.encode(table, where, out)
        return out

    def spread(self, table: pa.Table, where: str) -> pa.Table:
        """A table with a column for each label, as `encode_column` takes it."""
        return table if self.list_column is None else spread(table, self.list_column, self.names, where)

    def encode_column(self, name: str, table: pa.Table, where: str) -> NDArray[np.uint8]:
        """Codes of one label: [n] uint8."""
        array = one_array(table.column(name))
        if is_bytes(array.type):
            array = text_of_bytes(array, where, name)
        if pa.types.is_null(array.type):
            return np.full(len(array), UNOBSERVED, np.uint8)
        if is_text(array.type):
            return self._from_texts(name, array, where)
        is_boolean = pa.types.is_boolean(array.type)
        if is_boolean:
            if not self.declared and not array.null_count:
                return bits_of(array)
            array = array.cast(pa.uint8())
            if not self.declared:
                return np.asarray(pc.fill_null(array, UNOBSERVED).to_numpy(zero_copy_only=False))
        if pa.types.is_decimal(array.type) or pa.types.is_float16(array.type):
            array = pc.cast(array, pa.float64(), safe=False)
        if self.declared:
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
            texts = pc.cast(array, pa.string())
            return self._from_texts(name, texts, where, is_number=not is_boolean, is_boolean=is_boolean)
        return self._from_numbers(name, array, where)

    def _from_numbers(self, name: str, array: pa.Array, where: str) -> NDArray[np.uint8]:
        missing = array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        values = pc.fill_null(array, pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
        ones = values == 1
        odd = ~(ones | (values == 0) | missing)
        known = self._known.setdefault(name, {})
        if "1" not in known and ones.any():
            known["1"] = 1
        if np.any((values == 0) & ~missing):
            self._note(name, "zero", where, "0", 0)
        if odd.any():
            unknown = odd & (values != -1)
            if unknown.any():
                raise DataError(
                    refusal(name, pa.array(np.unique(values[unknown])).cast(pa.string()).to_pylist(), known, where)
                )
            self._note(name, "minus", where, "-1", 0)
        return np.where(missing, UNOBSERVED, ones).astype(np.uint8)

    def _from_texts(self, name: str, array: pa.Array, where: str, **is_of: bool) -> NDArray[np.uint8]:
        encoded = array.dictionary_encode()
        codes: list[int] = []
        unknown = []
        known = self._known.setdefault(name, {})
        for value in encoded.dictionary.to_pylist():
            key = declared_key(self.declared, value, **is_of) if self.declared else None
            code, kind = known_code(value) if key is None else (self.declared[key], "")
            if key is not None:
                self.met.add(key)
                known[value] = code
            elif code is None:
                unknown.append(value)
            else:
                self.unmapped.add(value)
                self._note(name, kind, where, value, code)
            codes.append(UNOBSERVED if code is None else code)
        if unknown:
            raise DataError(refusal(name, unknown, known, where))
        lookup = np.array([*codes, UNOBSERVED], np.uint8)
        indices = pc.fill_null(encoded.indices, len(codes)).to_numpy(zero_copy_only=False)
        return np.asarray(lookup[indices], np.uint8)

    def _note(self, name: str, kind: str, where: str, value: str, code: int) -> None:
        """Remember a value and its kind, and refuse kinds that cannot stand in one label together."""
        known = self._known.setdefault(name, {})
        kinds = self.seen.setdefault(name, set())
        known[value] = code
        if not kind or kind in kinds:
            return
        together = kinds | {kind}
        if {"minus", "zero"} <= together:
            raise DataError(
                f"{where}: label {name!r} holds both 0 and -1, so what means negative is not known; "
                'say it, such as --set \'data.label_values={"-1": null, "0": 0}\' (null is not observed)'
            )
        pairs = sorted(together - {"minus", "zero"})
        if len(pairs) > 1:
            words = {word: code for word, code in known.items() if "/" in known_code(word)[1] and code is not None}
            raise DataError(
                f"{where}: label {name!r} mixes the words of {' and '.join(pairs)}; "
                f"say what each value means, {such_as(mixed_example(words))}"
            )
        kinds.add(kind)

    def check_declared(self) -> list[str]:
        """Lines about declared values that mean "not observed" and that no row held.

        Raises:
            DataError: a value that is declared as 0 or 1 was met in no row, or one that differs only in writing was
                taken for what it usually means.
        """
        unmet = [value for value in self.declared if value not in self.met]
        wrong = [value for value in unmet if self.declared[value] is not None or is_near(value, self.unmapped)]
        if wrong:
            raise DataError(nothing_matches(wrong, self.met | self.unmapped))
        return [f"data.label_values: no label has the value {value!r} in any row" for value in unmet]

    def mappings(self) -> list[str]:
        """One line for each way of writing labels that was mapped to 0 and 1."""
        lines = []
        for kind in sorted({kind for kinds in self.seen.values() for kind in kinds if kind != "zero"}):
            names = [name for name, kinds in self.seen.items() if kind in kinds]
            negative, positive = ("-1", "1") if kind == "minus" else kind.split("/")
            shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"labels {shown}: {negative!r} is read as 0, {positive!r} as 1")
        return lines


def tag_texts(array: pa.ListArray, where: str, name: str) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets and texts of a list column of tags: ([n + 1] int64 from 0, string array).

    Raises:
        DataError: a list holds a null.
    """
    offsets, values = list_parts(array)
    if values.null_count:
        raise DataError(null_inside(where, name))
    return offsets, pc.cast(values, pa.string())


def null_inside(where: str, name: str, found: str = "null") -> str:
    """The message for a list column whose elements are not all there."""
    return (
        f"{where}: column {name!r} has a list with a {found} inside; a whole list may be null (missing), "
        "its elements may not: drop or fill them where the data is written"
    )


def list_parts(array: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Offsets from 0 and the values of any list array, slices included; a null list is empty."""
    offsets = np.zeros(len(array) + 1, np.int64)
    if pa.types.is_null(array.type):
        return offsets, pa.array([], pa.string())
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    np.cumsum(lengths, out=offsets[1:])
    values = array.flatten()
    return offsets, values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


@dataclass
class TagList:
    """Labels that are one list column of tags: every tag of the rows that were counted is a label.

    Attributes:
        column: name of the list column.
        names: [K], the tags, by falling count, then by code point; empty until `set_names`.
        unseen: tags met by `encode` that are not among the names, once for each row.
    """

    column: str
    names: tuple[str, ...] = ()
    unseen: Tally = field(default_factory=Tally)
    _ids: dict[str, int] = field(default_factory=dict)

    @property
    def unseen_tags(self) -> int:
        return int(self.unseen)

    def set_names(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._ids = {name: index for index, name in enumerate(self.names)}

    def encode(self, table: pa.Table, where: str, out: NDArray[np.uint8]) -> bool:
        """Fill out[n, K] with the codes of every cell; a null list is UNOBSERVED for every label.

        Returns whether all are observed.
        """
        rows, tags, absent = self.pairs(table, where)
        out[:] = 0
        encoded = tags.dictionary_encode()
        lookup = np.array([self._ids.get(tag, -1) for tag in encoded.dictionary.to_pylist()] or [-1], np.int64)
        ids = lookup[encoded.indices.to_numpy(zero_copy_only=False)]
        known = ids >= 0
        if not known.all():
            self.unseen.add((~known).sum())
        out[rows[known], ids[known]] = 1
        out[absent] = UNOBSERVED
        return not absent.any()

    def pairs(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.bool_]]:
        """Rows and tags, each pair once however often a row repeats it: [m], [m]; and which lists are null: [n]."""
        array = one_array(table.column(self.column))
        offsets, tags = tag_texts(array, where, self.column)
        rows = np.repeat(np.arange(len(array)), np.diff(offsets))
        if len(tags):
            encoded = tags.dictionary_encode()
            cells = rows * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
            first = np.unique(cells, return_index=True)[1]
            rows, tags = rows[first], tags.take(pa.array(first))
        return rows, tags, array.is_null().to_numpy(zero_copy_only=False)


def bits_of(array: pa.BooleanArray) -> NDArray[np.uint8]:
    """0 and 1 of booleans without nulls: [n] uint8; six times as fast as a cast."""
    if not len(array):
        return np.zeros(0, np.uint8)
    start = array.offset % 8
    packed = np.frombuffer(array.buffers()[1], np.uint8, offset=array.offset // 8)
    return np.unpackbits(packed, count=start + len(array), bitorder="little")[start:]


Labels = LabelColumns | TagList


def make_labels(schema: Schema, declared: Mapping[str, int | None], names: Sequence[str] | None = None) -> Labels:
    """The label encoder of a schema; `names` are the tags found when the run was fitted."""
    if schema.elements:
        column = schema.labels[0]
        return LabelColumns(element_names(column, schema.elements), dict(declared), list_column=column)
    if not schema.tags:
        return LabelColumns(schema.labels, dict(declared))
    tags = TagList(schema.labels[0])
    if names is not None:
        tags.set_names(names)
    return tags


class ColumnCounter:
    """Counts positive and observed cells of label columns, by part of the split."""

    def __init__(self, labels: LabelColumns, num_parts: int) -> None:
        self._labels = labels
        self._counts = LabelCounts.zeros(num_parts, len(labels.names))

    def add(self, table: pa.Table, where: str, weights: NDArray[np.float64], parts: NDArray[np.int8]) -> None:
        """Count the rows of a table: weights [n], parts [n]."""
        table = self._labels.spread(table, where)
        counts = self._counts
        num_parts = len(counts.rows)
        size = num_parts * NUM_CODES
        first_cells = parts.astype(np.int64) * NUM_CODES
        counted = None if np.all(weights == 1) else weights > 0
        for index, name in enumerate(self._labels.names):
            cells = first_cells + self._labels.encode_column(name, table, where)
            number = np.bincount(cells if counted is None else cells[counted], minlength=size)
            summed = number if counted is None else np.bincount(cells, weights, size)
            of_codes, by_weight = number.reshape(num_parts, NUM_CODES), summed.reshape(num_parts, NUM_CODES)
            counts.positives[:, index] += by_weight[:, 1]
            counts.totals[:, index] += by_weight[:, 0] + by_weight[:, 1]
            counts.positive_rows[:, index] += of_codes[:, 1]
            counts.rows[:, index] += of_codes[:, 0] + of_codes[:, 1]

    def finish(self) -> LabelCounts:
        return self._counts


class TagCounter:
    """Counts tags under their text; a row observes every tag, those that turn up later too.

    So the observed rows are one number for each part, whatever the tags, and nothing of size rows × tags exists.
    """

    def __init__(self, labels: TagList, num_parts: int) -> None:
        self._labels = labels
        self._ids: dict[str, int] = {}
        self._found = LabelCounts.zeros(num_parts, 0)
        self._observed = LabelCounts.zeros(num_parts, 1)
        self._all_rows = np.zeros(0, np.int64)

    def add(self, table: pa.Table, where: str, weights: NDArray[np.float64], parts: NDArray[np.int8]) -> None:
        """Count the rows of a table: weights [n], parts [n]."""
        rows, tags, absent = self._labels.pairs(table, where)
        ids = self._known_ids(tags)
        self._all_rows += np.bincount(ids, minlength=len(self._ids))
        counted = weights > 0
        for part, chosen in _by_part(parts):
            observed = chosen & ~absent
            self._observed.totals[part] += weights[observed].sum()
            self._observed.rows[part] += (observed & counted).sum()
            mine = chosen[rows]
            size = len(self._ids)
            self._found.positives[part] += np.bincount(ids[mine], weights[rows[mine]], size)
            self._found.positive_rows[part] += np.bincount(ids[mine & counted[rows]], minlength=size)

    def _known_ids(self, tags: pa.Array) -> NDArray[np.int64]:
        """Number of each tag, in the order in which they turned up: [m]."""
        encoded = tags.dictionary_encode()
        numbers = [self._ids.setdefault(tag, len(self._ids)) for tag in encoded.dictionary.to_pylist()]
        added = len(self._ids) - len(self._all_rows)
        if added:
            found, pad = self._found, ((0, 0), (0, added))
            found.positives = np.pad(found.positives, pad)
            found.positive_rows = np.pad(found.positive_rows, pad)
            self._all_rows = np.pad(self._all_rows, (0, added))
        return np.asarray(np.array(numbers or [0])[encoded.indices.to_numpy(zero_copy_only=False)], np.int64)

    def finish(self) -> LabelCounts:
        """Give the label list its names, by falling count of rows, then by code point."""
        names = sorted(self._ids, key=lambda tag: (-self._all_rows[self._ids[tag]], tag))
        self._labels.set_names(names)
        order = np.array([self._ids[name] for name in names], np.int64)
        return LabelCounts(
            self._found.positives[:, order],
            np.repeat(self._observed.totals, len(order), axis=1),
            self._found.positive_rows[:, order],
            np.repeat(self._observed.rows, len(order), axis=1),
        )


def _by_part(parts: NDArray[np.int8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for part in np.unique(parts).tolist():
        yield part, parts == part
