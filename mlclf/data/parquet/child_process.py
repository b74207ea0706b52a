"""A process of its own for what a damaged footer can end: it is given bytes and opens nothing.

Some damage makes pyarrow end the whole process while the description of a column is read (seen where the damage makes
a column look encrypted). The child gets footers as bytes and answers in JSON. It starts isolated, so that no module of
the current folder is imported: data folders may hold a `csv.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

import mlclf
from mlclf.data.parquet.shards import Shard
from mlclf.machine.signals import look

THREADS = 16
CHILD_BYTES = 64 << 20
"""Data that decodes to less is read sooner than a process of its own has looked at the footers."""

_START = """\
import sys
from importlib.util import module_from_spec, spec_from_file_location
folder, sys.path[len(sys.path):] = sys.argv[1], sys.argv[2:]
spec = spec_from_file_location("mlclf", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["mlclf"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from mlclf.data.child_tasks import answer
answer()
"""
"""The package is loaded from where this process has it; folders of modules come after those of the installation."""


class FileFooter(NamedTuple):
    """What the child knows of a file.

    Attributes:
        name: for messages.
        size_bytes: of the whole file.
        schema: of the shard, columns of the folders' names at the end.
        partition: values of the folders' names.
        footer: the last bytes of the file.
    """

    name: str
    size_bytes: int
    schema: pa.Schema
    partition: Mapping[str, str | None]
    footer: bytes


Task = Callable[..., Any]
"""(file, arguments…) → what JSON can hold."""


def in_child(task: str, shards: Sequence[Shard], arguments: Sequence[Sequence[Any]]) -> list[Any] | None:
    """Do a task of `child_tasks` for each shard in a subprocess: one answer each; None if the subprocess crashed.

    Args:
        arguments: of each shard, what JSON can hold.

    Raises:
        ChangedDataError: a file is not the one that was planned.
    """
    command = [sys.executable, "-I", "-c", _START, str(Path(mlclf.__file__).parent), *_folders()]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=os.sep
        ) as child,
        ThreadPoolExecutor(THREADS + 1) as pool,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        answers = pool.submit(child.stdout.read)
        try:
            with suppress(BrokenPipeError), child.stdin as pipe:
                for start in range(0, len(shards), THREADS):  # no more footers are in memory at a time
                    some = slice(start, start + THREADS)
                    files = pool.map(_known, shards[some])
                    for file, given in zip(files, arguments[some], strict=True):
                        _send(pipe, json.dumps([task, *file[:2], dict(file.partition), list(given)]).encode())
                        _send(pipe, file.schema.serialize().to_pybytes())
                        _send(pipe, file.footer)
        except BaseException:
            child.kill()
            raise
        text = answers.result()
    look()  # a signal to all processes of a terminal ends the child too
    if child.returncode != 0:
        return None
    found: list[Any] = [json.loads(line) for line in text.splitlines()]
    return found if len(found) == len(shards) else None


def serve(tasks: Mapping[str, Task]) -> None:
    """Do the tasks that stdin asks for, and write a line of JSON for each to stdout."""
    while head := _received(sys.stdin.buffer):
        task, name, size, partition, arguments = json.loads(head)
        schema = pa.ipc.read_schema(pa.py_buffer(_received(sys.stdin.buffer)))
        file = FileFooter(name, size, schema, partition, _received(sys.stdin.buffer))
        sys.stdout.buffer.write(json.dumps(tasks[task](file, *arguments)).encode() + b"\n")


def _known(shard: Shard) -> FileFooter:
    return FileFooter(
        shard.source.name, shard.source.size_bytes, shard.schema, shard.partition, shard.footer_as_planned()
    )


def _folders() -> list[str]:
    """Where this process looks for modules, but for the current folder."""
    here = Path.cwd()
    return [folder for folder in sys.path if folder and Path(folder).is_dir() and Path(folder).resolve() != here]


def _send(pipe: BinaryIO | Any, part: bytes) -> None:
    pipe.write(len(part).to_bytes(8, "little") + part)


def _received(pipe: BinaryIO) -> bytes:
    """The next part; nothing at the end."""
    return pipe.read(int.from_bytes(pipe.read(8), "little"))
