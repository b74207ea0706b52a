"""Label columns and tag lists → 0, 1 or not observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.arrow.arrays import is_bytes, is_text, one_array, text_of_bytes, transpose
from mlclf.data.arrow.lists import bits_of
from mlclf.data.labels.values import declared_key, is_near, known_code, mixed_example, nothing_matches, refusal, such_as
from mlclf.data.schema.label_lists import spread
from mlclf.errors import DataError
from mlclf.machine.memory import Recycler

UNOBSERVED = 2
"""Code of a cell whose label is null."""

NUM_CODES = 3
"""0, 1 and UNOBSERVED."""

CELL_BYTES = 32 << 20
"""Of codes that are held at once where positive cells are looked for."""


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

    def positives(self, table: pa.Table, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and labels of the positive cells, in this order: [m], [m]."""
        height = max(1, CELL_BYTES // len(self.names))
        starts = range(0, table.num_rows, height)
        found = [np.nonzero(self.codes(table.slice(start, height), where) == 1) for start in starts]
        rows = [start + each[0] for start, each in zip(starts, found, strict=True)]
        return np.concatenate(rows), np.concatenate([each[1] for each in found])

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

    def notes(self) -> list[str]:
        """Lines on how labels are written, as far as it is worth saying.

        Raises:
            DataError: as `check_declared`.
        """
        return self.mappings() + self.check_declared()

    def mappings(self) -> list[str]:
        """One line for each way of writing labels that was mapped to 0 and 1."""
        lines = []
        for kind in sorted({kind for kinds in self.seen.values() for kind in kinds if kind != "zero"}):
            names = [name for name, kinds in self.seen.items() if kind in kinds]
            negative, positive = ("-1", "1") if kind == "minus" else kind.split("/")
            shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"labels {shown}: {negative!r} is read as 0, {positive!r} as 1")
        return lines
