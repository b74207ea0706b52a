"""The README's example and the tour: their Python and console blocks run in order, in one folder, and what they print.

python tests/readme_tour.py      # writes what is printed now into README.md and docs/tour.md
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlclf.cli import spread_arguments
from mlclf.cli.app import app

TOP = Path(__file__).parents[1]
TOUR = (TOP / "README.md", TOP / "docs" / "tour.md")
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A Python block or one command, and what the document says that it prints."""

    language: str
    source: str
    printed: str


def steps_of(text: str) -> list[Step]:
    return [step for match in BLOCK.finditer(text) for step in _steps_of_block(match)]


def _steps_of_block(match: re.Match[str]) -> Iterator[Step]:
    language, source, printed = match.groups()
    if language == "python":
        yield Step(language, source, printed or "")
        return
    for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield Step(language, command, printed)


def run(steps: list[Step], folder: Path) -> Iterator[Step]:
    """Run the steps in a folder; yields each with what it printed."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for step in steps:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                _run(step, names)
            yield replace(step, printed=printed.getvalue())


def _run(step: Step, names: dict[str, Any]) -> None:
    if step.language == "python":
        exec(compile(step.source, "<tour>", "exec", dont_inherit=True), names)
        return
    program, *arguments = shlex.split(step.source)
    assert program == "mlclf"
    app(spread_arguments(arguments), standalone_mode=False)


def renewed(text: str, steps: list[Step]) -> str:
    """The text with what was printed."""
    found = iter(steps)

    def block(match: re.Match[str]) -> str:
        language, source, _ = match.groups()
        if language == "python":
            printed = next(found).printed
            return f"```python\n{source}```\n" + (f"\n```text\n{printed}```\n" if printed else "")
        taken = [next(found) for _ in _steps_of_block(match)]
        return "```console\n" + "".join(f"$ {step.source}\n{step.printed}" for step in taken) + "```\n"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "120"
    texts = [document.read_text() for document in TOUR]
    with tempfile.TemporaryDirectory() as name:
        found = list(run([step for text in texts for step in steps_of(text)], Path(name)))
    for document, text in zip(TOUR, texts, strict=True):
        count = len(steps_of(text))
        document.write_text(renewed(text, found[:count]))
        found = found[count:]
    sys.stdout.write("README.md and docs/tour.md have what is printed now\n")
