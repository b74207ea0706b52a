"""Sparse rows of text: the fast parser against one that is slow and obvious, and the words of every refusal."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.convert.formats.sparse_text import SparseText, has_several_labels, xmc_header
from mlclf.data.convert.formats.text_lines import Block, blocks
from mlclf.errors import DataError

FIRST_A_LABEL = "a line must begin with its label, a number"
PAIRS = st.lists(
    st.tuples(st.integers(0, 2**31 - 2), st.floats(width=32, allow_nan=False, allow_infinity=False)), max_size=5
)
GAP = st.sampled_from([" ", "  ", "\t", " \t "])
END = st.sampled_from(["\n", " \n", "\r\n", " # a note 3:1\n", "\n\n", "\n   \n", "\n# only: a note\n"])


def parsed(rows: SparseText, text: str) -> pa.Table:
    return rows.table(Block("file", text.encode(), 1))


def slowly(rows: SparseText, text: str) -> list[tuple[list[int], list[np.float32], object]]:
    """One row after the other, one token after the other."""
    found = []
    for line in text.split("\n")[:-1]:
        words = line.split("#")[0].split()
        if not words and not rows.every_line:
            continue
        has_label = bool(words) and ":" not in words[0] and line[0] not in " \t"
        label = words.pop(0) if has_label else ""
        pairs = [word.split(":") for word in words]
        indices = [int(index) - rows.first_index for index, _ in pairs]
        tags = label.split(",") if label else []
        found.append((indices, [np.float32(value) for _, value in pairs], tags if rows.tags else float(label)))
    return found


def as_rows(table: pa.Table) -> list[tuple[list[int], list[np.float32], object]]:
    indices, values, labels = (table.column(index).to_pylist() for index in range(3))
    return [(i, [np.float32(x) for x in v], label) for i, v, label in zip(indices, values, labels, strict=True)]


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from([0, 1]), st.booleans())
def test_rows_are_those_of_a_slow_parser(data: st.DataObject, first: int, tags: bool) -> None:
    text = ""
    for pairs in data.draw(st.lists(PAIRS, max_size=6)):
        ids = data.draw(st.lists(st.integers(0, 10**6), max_size=3))
        label = ",".join(map(str, ids)) if tags else data.draw(st.sampled_from(["1", "-1", "+1", "0", "2.5", "1e3"]))
        words = [label] if label else []
        words += [f"{index + first}:{value!r}" for index, value in pairs]
        starts_with_pair = not label and words and data.draw(st.booleans())
        line = ("" if label or starts_with_pair else " ") + data.draw(GAP).join(words)
        text += line + data.draw(END)
    rows = SparseText(first, tags)
    table = parsed(rows, text or "\n")
    table.validate(full=True)
    assert as_rows(table) == slowly(rows, text or "\n")


def test_every_line_of_an_xmc_file_is_a_row() -> None:
    rows = SparseText(0, True, True, 10, 3)
    table = parsed(rows, "0,2 1:0.5 9:1\n 3:2\n\n1\n")
    assert as_rows(table) == [([1, 9], [0.5, 1.0], ["0", "2"]), ([3], [2.0], []), ([], [], []), ([], [], ["1"])]
    assert xmc_header(b"4 10 3\r") == (4, 10, 3)
    assert xmc_header(b"4 10") is None
    assert xmc_header(b"4 ten 3") is None


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        (SparseText(1), "1 3", "expected INDEX:VALUE, INDEX a whole number, got '3'"),
        (SparseText(1), "1 x:3", "expected INDEX:VALUE, INDEX a whole number, got 'x:3'"),
        (SparseText(1), "1 qid:3", "expected INDEX:VALUE, INDEX a whole number, got 'qid:3'"),
        (SparseText(1), "1 -3:3", "expected INDEX:VALUE, INDEX a whole number, got '-3:3'"),
        (SparseText(1), "1 3:", "expected INDEX:VALUE, VALUE a finite float32 number, got '3:'"),
        (SparseText(1), "1 3:a", "expected INDEX:VALUE, VALUE a finite float32 number, got '3:a'"),
        (SparseText(1), "1 3:1:2", "expected INDEX:VALUE, VALUE a finite float32 number, got '3:1:2'"),
        (SparseText(1), "1 3:nan", "expected INDEX:VALUE, VALUE a finite float32 number, got '3:nan'"),
        (SparseText(1), "1 3:1e99", "expected INDEX:VALUE, VALUE a finite float32 number, got '3:1e99'"),
        (SparseText(1), "1 0:1", "indices must begin at 1, got '0:1'; use --first-index 0"),
        (SparseText(1), "1 2147483648:1", "indices must be below 2**31, got '2147483648:1'"),
        (SparseText(1), "1,2 3:1", "the label must be one number, got '1,2'; use --multilabel for several"),
        (
            SparseText(1),
            "a 3:1",
            f"{FIRST_A_LABEL}, got 'a'; use --multilabel for rows of none",
        ),
        (SparseText(1), "3:1", f"{FIRST_A_LABEL}, got ''; use --multilabel for rows of none"),
        (SparseText(1, True), "1,,2 3:1", "labels must be whole numbers from 0 joined by commas, got '1,,2'"),
        (SparseText(1, True), "1,a 3:1", "labels must be whole numbers from 0 joined by commas, got '1,a'"),
        (SparseText(0, True, True, 9, 3), "3 3:1", "label ids must be below 3, as the first line says, got '3'"),
        (SparseText(0, True, True, 9, 3), "2 9:1", "indices must be below 9, as the first line says, got '9:1'"),
    ],
)
def test_a_malformed_line_is_named(rows: SparseText, line: str, words: str) -> None:
    good = "1 4:1\n"
    for ending in ("\n", "\r\n", " # note\n"):
        with pytest.raises(DataError) as error:
            rows.table(Block("some.txt", (good * 3 + line + ending + good).encode(), 11))
        assert str(error.value) == f"some.txt line 14: {words}"


def test_several_labels_are_noticed() -> None:
    for text in (b"1 2:1\n1,2 3:1\n", b"1 2:1\n 3:1\n", b"1 1:1\n3:1\n"):
        assert has_several_labels(text)
    for text in (b"1 2:1\n-1 3:1 # 1,2\n", b"1 2:1\n\n# a note: 1,2\n+1\n", b""):
        assert not has_several_labels(text)


@given(st.lists(st.text("ab #:1", max_size=9)), st.integers(1, 12), st.booleans())
def test_blocks_hold_whole_lines_and_know_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, ended: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    path.write_bytes(text.encode())
    found = list(blocks(path, size))
    joined = b"".join(block.data for block in found).decode()
    assert joined.rstrip("\n") == text.rstrip("\n")
    number = 1
    for block in found:
        assert (block.data[-1:], block.first_line) == (b"\n", number)
        number += block.data.count(b"\n")
