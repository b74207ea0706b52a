"""Sparse rows as text, libsvm's and that of the XMC repository → Arrow tables, a block of lines at a time.

No Python runs for a row or a token: label bytes are overwritten by line ends, so that what is left of a block is one
``index:value`` a line, which pyarrow's CSV parser reads. Only a block that holds a mistake is read line by line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlclf.data.convert.formats.text_lines import Block, index_value_lines
from mlclf.errors import DataError

NEWLINE, COLON, SPACE = 10, 58, 32
MAX_INDEX = 2**31 - 1
OVERFLOW = 2.0**128 - 2.0**103
"""From here on a number rounds to an infinite float32."""

_LINES = bytes.maketrans(b" \t\r", b"\n\n\n")
_LABEL = rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_VALUE = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class SparseText:
    """How the rows of a sparse text file are written.

    Attributes:
        first_index: the least index, which becomes 0.
        tags: whether labels are lists of ids; else each row has one number.
        every_line: whether a line without labels and values is a row, as in XMC files; else it is skipped.
        num_features: indices are below it after `first_index` is taken off; None for no bound.
        num_labels: ids of labels are below it; None for no bound.
    """

    first_index: int = 0
    tags: bool = False
    every_line: bool = False
    num_features: int | None = None
    num_labels: int | None = None

    @property
    def schema(self) -> pa.Schema:
        label = pa.field("labels", pa.list_(pa.string())) if self.tags else pa.field("label", pa.float64())
        return pa.schema([pa.field("indices", pa.list_(pa.int32())), pa.field("values", pa.list_(pa.float32())), label])

    def table(self, block: Block) -> pa.Table:
        """The rows of a block: `indices` (from 0) and `values`, and `labels` (texts of ids) or `label` (float64).

        Raises:
            DataError: a line is malformed; names the first such line and what was expected.
        """
        try:
            found = self._parsed(block.data)
        except (pa.ArrowException, ValueError):
            found = None
        if found is None:
            raise DataError(self._complaint(block))
        return found

    def _parsed(self, data: bytes) -> pa.Table | None:
        """The rows of a block; None where a line is malformed."""
        if b"#" in data:
            data = re.sub(rb"#[^\n]*", b"", data)
        tokens = np.frombuffer(bytearray(data.translate(_LINES)), np.uint8)
        original = np.frombuffer(data, np.uint8)
        line_ends = np.flatnonzero(original == NEWLINE)
        starts = np.concatenate([[0], line_ends[:-1] + 1])
        colons = np.flatnonzero(tokens == COLON)
        token_ends = np.flatnonzero(tokens == NEWLINE)
        ends = token_ends[np.searchsorted(token_ends, starts)]
        before, first = np.searchsorted(colons, starts), np.searchsorted(colons, ends)
        ends = np.where(first > before, starts, ends)  # the first token is a pair: there are no labels
        labels = _texts(data, starts, ends)
        _blank(tokens, starts, ends)
        counts = np.diff(np.append(before, len(colons)))
        pairs = _pairs(tokens, len(colons))
        if pairs is None:
            return None
        indices, values = pairs
        if len(colons) and not self._in_range(indices, values):
            return None
        if not self.every_line:
            kept = (counts > 0) | (ends > starts)
            labels, counts = labels.filter(pa.array(kept)), counts[kept]
        label = self._tags(labels) if self.tags else _numbers(labels)
        if label is None:
            return None
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        shift = pa.array(indices - self.first_index) if self.first_index else pa.array(indices)
        columns = [pa.ListArray.from_arrays(offsets, shift), pa.ListArray.from_arrays(offsets, pa.array(values)), label]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _in_range(self, indices: NDArray[np.int32], values: NDArray[np.float32]) -> bool:
        most = MAX_INDEX if self.num_features is None else self.num_features - 1 + self.first_index
        return bool(indices.min() >= self.first_index and indices.max() <= most and np.isfinite(values).all())

    def _tags(self, labels: pa.Array) -> pa.Array | None:
        if not pc.all(pc.match_substring_regex(labels, r"^(\d+(,\d+)*)?$"), min_count=0).as_py():
            return None
        lists = pc.split_pattern(labels, ",")
        ids = lists.flatten()
        if self.num_labels is not None and len(ids):
            numbers = pc.cast(pc.filter(ids, pc.not_equal(ids, "")), pa.int64())
            if len(numbers) and pc.max(numbers).as_py() >= self.num_labels:
                return None
        empty = pc.equal(labels, "")
        if not pc.any(empty).as_py():
            return lists
        lengths = np.where(empty.to_numpy(zero_copy_only=False), 0, pc.list_value_length(lists).to_numpy())
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, ids.filter(pc.not_equal(ids, "")))

    # ── what is wrong with a line, slowly ───────────────────────────────────────────────────────────────────────────

    def _complaint(self, block: Block) -> str:
        return block.first_problem(self.problem) or f"{block.place(0)}: cannot be read; check what wrote the file"

    def problem(self, line: bytes) -> str | None:
        """What is wrong with a line, None where nothing is."""
        line = line.partition(b"#")[0]
        words = line.split()
        if not words and not self.every_line:
            return None
        has_label = bool(words) and b":" not in words[0] and line[:1] not in b" \t"
        problem = self._label_problem(words[0] if has_label else b"")
        return problem or next(filter(None, map(self._pair_problem, words[has_label:])), None)

    def _label_problem(self, label: bytes) -> str | None:
        if not self.tags:
            if _VALUE.fullmatch(label) and abs(float(label)) < float("inf"):
                return None
            if re.fullmatch(rb"\d+(,\d+)*", label):
                return f"the label must be one number, got {_shown(label)}; use --multilabel for several"
            return f"a line must begin with its label, a number, got {_shown(label)}; use --multilabel for rows of none"
        ids = label.split(b",") if label else []
        for each in ids:
            if not re.fullmatch(rb"\d+", each):
                return f"labels must be whole numbers from 0 joined by commas, got {_shown(label)}"
            if self.num_labels is not None and int(each) >= self.num_labels:
                return f"label ids must be below {self.num_labels}, as the first line says, got {_shown(each)}"
        return None

    def _pair_problem(self, pair: bytes) -> str | None:
        index, colon, value = pair.partition(b":")
        if not colon or not re.fullmatch(rb"\d+", index):
            return f"expected INDEX:VALUE, INDEX a whole number, got {_shown(pair)}"
        if not _VALUE.fullmatch(value) or abs(float(value)) >= OVERFLOW:
            return f"expected INDEX:VALUE, VALUE a finite float32 number, got {_shown(pair)}"
        if int(index) < self.first_index:
            return f"indices must begin at {self.first_index}, got {_shown(pair)}; use --first-index {int(index)}"
        if self.num_features is not None and int(index) - self.first_index >= self.num_features:
            return f"indices must be below {self.num_features + self.first_index}, as the first line says, got " + (
                _shown(pair)
            )
        return None if int(index) <= MAX_INDEX else f"indices must be below 2**31, got {_shown(pair)}"


def xmc_header(line: bytes) -> tuple[int, int, int] | None:
    """Rows, features and labels of the first line of an XMC file, None where it is not one."""
    words = line.split()
    return tuple(map(int, words)) if len(words) == 3 and all(map(bytes.isdigit, words)) else None  # type: ignore[return-value]  # three


def has_several_labels(data: bytes) -> bool:
    """Whether a row of the block has several labels, or none."""
    return re.search(rb"(?m)^[^\s:#]*,|^[ \t]+[^\s#]|^[^\s:#]+:", data) is not None


def _texts(data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.Array:
    """The bytes between bounds, as texts: [n]; the bytes between them are what the others of [2n - 1] are."""
    bounds = np.stack([starts, ends], 1).ravel()
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(data)]
    every = pa.Array.from_buffers(pa.string(), len(bounds) - 1, buffers)
    return every.take(pa.array(np.arange(0, len(bounds), 2)))


def _blank(tokens: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    """Overwrite the bytes between bounds by line ends."""
    lengths = ends - starts
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    tokens[np.repeat(starts - before, lengths) + np.arange(total)] = NEWLINE


def _pairs(tokens: NDArray[np.uint8], count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    """Indices [n] int32 and values [n] float32 of lines INDEX:VALUE; None where there are not `count` of them."""
    if not count:
        return (np.empty(0, np.int32), np.empty(0, np.float32)) if (tokens == NEWLINE).all() else None
    indices, values = index_value_lines(tokens, ":", pa.float32())
    return (indices, values) if len(indices) == count else None


def _numbers(labels: pa.Array) -> pa.Array | None:
    numbers = pc.cast(pc.utf8_ltrim(labels, "+"), pa.float64())
    return numbers if not len(numbers) or pc.all(pc.is_finite(numbers)).as_py() else None


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "replace"))
