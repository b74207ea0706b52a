"""Text files, compressed or not, in blocks of whole lines that know where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
from numpy.typing import NDArray

from mlclf.errors import DataError
from mlclf.given_files import problem_of
from mlclf.machine.signals import look
from mlclf.messages import first_line

FIRST_BYTES = 8 << 20
"""What is found out before rows are read, is found in the first so many bytes."""

BLOCK_BYTES = 2 << 20
"""Arrays of larger blocks are new pages of memory each time, which costs a fifth of the time."""

MAX_LINE_BYTES = 256 << 20


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, each with its line end.

    Attributes:
        name: the file.
        data: the bytes; the last one is a line end.
        first_line: number of the first line, from 1.
        done_bytes: bytes of the file, as it is stored, that were read.
    """

    name: str
    data: bytes
    first_line: int
    done_bytes: int = 0

    def place(self, index: int) -> str:
        """Name the file and line number `index` of the block."""
        return f"{self.name} line {self.first_line + index}"

    def first_problem(self, problem: Callable[[bytes], str | None]) -> str | None:
        """The place and the words of the first line that has a problem."""
        for index, line in enumerate(self.data[:-1].split(b"\n")):
            found = problem(line)
            if found:
                return f"{self.place(index)}: {found}"
        return None


def open_input(path: Path) -> tuple[pa.NativeFile, pa.NativeFile]:
    """The file as it is stored, and its contents: what .gz, .bz2, .zst and .lz4 files hold is unpacked.

    Raises:
        DataError: it cannot be opened.
    """
    problem = problem_of(path)
    if problem is not None:
        raise DataError(f"{path}: {problem}")
    try:
        stored = pa.OSFile(str(path))
    except OSError as error:
        raise DataError(f"{path}: must be a file that can be read ({first_line(error)}); check the path") from None
    codec = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}.get(path.suffix)
    return stored, pa.CompressedInputStream(stored, codec) if codec else stored


def blocks(path: Path, block_bytes: int | None = None) -> Iterator[Block]:
    """Yield the lines of a file in blocks of about 2 MiB, the first 8 MiB, or `block_bytes`; longer where one line is.

    Raises:
        DataError: the file cannot be read, or a line is longer than 256 MiB.
    """
    stored, contents = open_input(path)
    size, number, rest = block_bytes or FIRST_BYTES, 1, b""
    with stored, contents:
        while True:
            look()
            read = read_bytes(contents, size, path)
            data = rest + read
            if not read:
                data += b"\n" if data else b""
            cut = data.rfind(b"\n") + 1
            block, rest = data[:cut], data[cut:]
            if len(rest) > MAX_LINE_BYTES:
                raise DataError(f"{path} line {number}: a line must be shorter than 256 MiB; check what the file is")
            if block:
                yield Block(str(path), block, number, stored.tell())
                number += block.count(b"\n")
                size = block_bytes or BLOCK_BYTES
            if not read:
                return


def read_bytes(contents: pa.NativeFile, size: int, path: Path) -> bytes:
    """Up to so many of the next bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data: bytes = contents.read(size)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); copy or write it again") from error
    return data


def index_value_lines(data: Any, delimiter: str, kind: pa.DataType) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Indices [n] int32 and values [n] of lines of an index and a value of this type, empty lines left out.

    Args:
        data: the bytes of the lines, at least one of them not empty.

    Raises:
        pyarrow.ArrowException: a line is not so.
    """
    table = pv.read_csv(
        pa.py_buffer(data),
        pv.ReadOptions(column_names=["index", "value"], block_size=1 << 22, use_threads=False),
        pv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=True),
        pv.ConvertOptions(column_types={"index": pa.int32(), "value": kind}, null_values=[]),
    )
    return table.column(0).to_numpy(), table.column(1).to_numpy()
