"""Lines of ARFF data, sparse or dense → Arrow tables, a block at a time."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
from numpy.typing import NDArray

from mlclf.data.convert.formats.arff_header import NOMINAL, NUMBER, NUMERIC, Attribute, Header, label_column
from mlclf.data.convert.formats.text_lines import Block, index_value_lines
from mlclf.errors import DataError

_GAPS = re.compile(rb"""('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|[ \t]*([,\n])[ \t]*""")
"""Texts in quotes, which are kept, and the gaps around commas and at the ends of lines."""

_PAIR = re.compile(rb"\s*(\d+)\s+(\S+)\s*")


@dataclass(frozen=True)
class Arff:
    """How the rows of a file are read: by its header, sparse or dense."""

    header: Header
    is_sparse: bool

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return self.header.attributes

    @property
    def labels(self) -> tuple[int, ...]:
        return self.header.labels

    @cached_property
    def features(self) -> list[int]:
        labels = set(self.labels)
        return [index for index in range(len(self.attributes)) if index not in labels]

    @cached_property
    def schema(self) -> pa.Schema:
        """Sparse rows: `indices`, `values`, then `label_*` (uint8). Dense rows: a column an attribute."""
        labels = [pa.field(label_column(self.attributes[i].name), self._label_type(i)) for i in self.labels]
        if self.is_sparse:
            pair = [pa.field("indices", pa.list_(pa.int32())), pa.field("values", pa.list_(pa.float32()))]
            return pa.schema([*pair, *labels])
        columns = [
            pa.field(each.name, pa.float64() if each.kind == NUMERIC else pa.string())
            for each in (self.attributes[i] for i in self.features)
        ]
        return pa.schema([*columns, *labels])

    def _label_type(self, index: int) -> pa.DataType:
        return pa.uint8() if self.attributes[index].is_binary else pa.string()

    def table(self, block: Block) -> pa.Table:
        """The rows of a block of data lines.

        Raises:
            DataError: a line is malformed; names the first one and what was expected.
        """
        try:
            found = self._sparse(block.data) if self.is_sparse else self._dense(block.data)
        except (pa.ArrowException, ValueError):
            found = None
        if found is None:
            words = f"{block.place(0)}: cannot be read; check what wrote the file"
            raise DataError(block.first_problem(self.problem) or words)
        return found

    # ── dense ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _dense(self, data: bytes) -> pa.Table | None:
        data = re.sub(rb"(?m)^[ \t]*%.*$", b"", data) if b"%" in data else data
        if not data.strip():
            return self.schema.empty_table()
        if b" " in data or b"\t" in data:
            data = _GAPS.sub(rb"\1\2", data)
        names = [str(index) for index in range(len(self.attributes))]
        kinds = [pa.float64() if each.kind == NUMERIC else pa.string() for each in self.attributes]
        quote = "'" if b"'" in data else '"' if b'"' in data else False
        table = pv.read_csv(
            pa.py_buffer(data),
            pv.ReadOptions(column_names=names, block_size=max(1 << 20, min(len(data), 1 << 30))),
            pv.ParseOptions(quote_char=quote, double_quote=False, escape_char="\\", ignore_empty_lines=True),
            pv.ConvertOptions(
                column_types=dict(zip(names, kinds, strict=True)),
                null_values=["?"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for index, attribute in enumerate(self.attributes):
            if attribute.kind == NOMINAL:
                strange = pc.invert(pc.is_in(table.column(index), pa.array([*attribute.levels, None], pa.string())))
                if pc.any(strange).as_py():
                    return None
            elif attribute.kind == NUMERIC and pc.all(pc.is_finite(table.column(index))).as_py() not in (True, None):
                return None
        columns = [table.column(index) for index in self.features]
        columns += [table.column(i).cast(self._label_type(i)) for i in self.labels]
        return pa.Table.from_arrays(columns, schema=self.schema)

    # ── sparse ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sparse(self, data: bytes) -> pa.Table | None:
        data = re.sub(rb"(?m)^[ \t]*%.*$", b"", data) if b"%" in data else data
        data = re.sub(rb"[ \t\r]*([{},\n])[ \t\r]*", rb"\1", data)
        lines = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(lines == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        full = ends > starts
        starts, ends = starts[full], ends[full]
        if (lines[starts] != ord("{")).any() or (lines[ends - 1] != ord("}")).any() or data.count(b"{") != len(starts):
            return None
        commas = np.flatnonzero(lines == ord(","))
        counts = np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + (ends - starts > 2)
        tokens = data.translate(bytes.maketrans(b"{},\t", b"\n\n\n "))
        total = int(counts.sum())
        indices, values = _entries(tokens, total)
        if len(indices) != total or (total and (indices.min() < 0 or indices.max() >= len(self.attributes))):
            return None
        if not all(self.attributes[index].is_numeric for index in np.unique(indices).tolist()):
            return None
        if not np.isfinite(values).all():
            return None
        return self._sparse_table(np.repeat(np.arange(len(counts)), counts), indices, values, len(counts))

    def _sparse_table(
        self, rows: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float64], num_rows: int
    ) -> pa.Table:
        places = np.full(len(self.attributes), -1, np.int32)
        places[self.features] = np.arange(len(self.features))
        label_of = np.full(len(self.attributes), -1, np.int64)
        label_of[list(self.labels)] = np.arange(len(self.labels))
        kept = places[indices] >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=num_rows))]), pa.int32())
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(places[indices[kept]])),
            pa.ListArray.from_arrays(offsets, pa.array(values[kept].astype(np.float32))),
        ]
        labels = np.zeros((len(self.labels), num_rows), np.uint8)
        if ((values[~kept] != 0) & (values[~kept] != 1)).any():
            raise ValueError("labels must be 0 or 1")
        labels[label_of[indices[~kept]], rows[~kept]] = values[~kept]
        return pa.Table.from_arrays([*lists, *(pa.array(each) for each in labels)], schema=self.schema)

    # ── what is wrong with a line, slowly ───────────────────────────────────────────────────────────────────────────

    def problem(self, line: bytes) -> str | None:
        """What is wrong with a line, None where nothing is."""
        line = line.strip()
        if not line or line.startswith(b"%"):
            return None
        if self.is_sparse:
            return self._sparse_problem(line)
        if line.startswith(b"{"):
            return "a sparse row among dense ones; a file must have one kind"
        quote = "'" if b"'" in line else '"'
        text = line.decode("utf-8", "replace")
        values = next(csv.reader([text], quotechar=quote, doublequote=False, escapechar="\\", skipinitialspace=True))
        if len(values) != len(self.attributes):
            return f"expected {len(self.attributes)} values, one an attribute, got {len(values)}"
        labels = set(self.labels)
        problems = (
            _value_problem(self.attributes[index], value.strip(), index in labels) for index, value in enumerate(values)
        )
        return next(filter(None, problems), None)

    def _sparse_problem(self, line: bytes) -> str | None:
        if not (line.startswith(b"{") and line.endswith(b"}")):
            return f"expected a sparse row {{INDEX VALUE, ...}} as in the rows before, got {line[:60].decode()!r}"
        inside = line[1:-1].strip()
        for pair in inside.split(b",") if inside else []:
            shown = repr(pair.strip()[:60].decode("utf-8", "replace"))
            match = _PAIR.fullmatch(pair)
            if match is None:
                return f"expected INDEX VALUE between commas, got {shown}"
            index, value = int(match[1]), match[2].decode("utf-8", "replace")
            if index >= len(self.attributes):
                return f"indices must be below {len(self.attributes)}, the number of attributes, got {shown}"
            if not self.attributes[index].is_numeric:
                return f"attribute {self.attributes[index].name!r} must be numeric in sparse rows, got {shown}"
            if not NUMBER.fullmatch(value) or not np.isfinite(float(value)):
                return f"expected INDEX VALUE, VALUE a finite number, got {shown}"
            if index in self.labels and float(value) not in (0, 1):
                return f"label {self.attributes[index].name!r} must be 0 or 1, got {value!r}"
        return None


def _entries(tokens: bytes, count: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    if not count:
        return np.empty(0, np.int32), np.empty(0)
    return index_value_lines(tokens, " ", pa.float64())


def _value_problem(attribute: Attribute, value: str, is_label: bool) -> str | None:
    if value == "?":
        return None
    where = f"{'label' if is_label else 'attribute'} {attribute.name!r}"
    if attribute.kind == NOMINAL and value not in attribute.levels:
        return f"{where} must be one of {', '.join(attribute.levels[:10])}, got {value!r}"
    if attribute.kind == NUMERIC and not (NUMBER.fullmatch(value) and np.isfinite(float(value))):
        return f"{where} must be a finite number or ?, got {value!r}"
    if attribute.kind == NUMERIC and is_label and float(value) not in (0, 1):
        return f"{where} must be 0 or 1, got {value!r}"
    return None
