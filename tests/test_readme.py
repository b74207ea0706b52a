"""The documents keep their word: Python runs, commands exist, and every pipeline, config and benchmark is named."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from readme_tour import TOUR, run, steps_of

TOP = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?")
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("*/README.md")])


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    """The commands of the shell blocks, each as its words; continued lines are joined, comments dropped."""
    lines = "".join(blocks(document, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command]


ALL_COMMANDS = [command for document in DOCUMENTS for command in commands(document)]


def test_the_first_example_is_ten_lines() -> None:
    first = blocks(TOP / "README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_the_tour_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    steps = [step for document in TOUR for step in steps_of(document.read_text())]
    assert len(steps) >= 18
    assert sum(bool(step.printed) for step in steps) >= 14
    for said, found in zip(steps, run(steps, tmp_path), strict=True):
        assert NUMBER.sub("#", found.printed).split() == NUMBER.sub("#", said.printed).split(), said.source
        # Other processors and versions of torch round otherwise; the last digits may differ.
        numbers = [[float(text.replace(",", "")) for text in NUMBER.findall(one.printed)] for one in (found, said)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.02), said.source


def test_there_are_commands_to_check() -> None:
    assert len(DOCUMENTS) >= 12
    assert len(ALL_COMMANDS) >= 20
    assert ["make", "test"] in commands(TOP / "README.md")
    assert ["make", "demo"] in commands(TOP / "README.md")


@pytest.mark.slow
@pytest.mark.parametrize("command", ALL_COMMANDS, ids=" ".join)
def test_a_command_exists(command: list[str]) -> None:
    program, *words = command
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets)
    elif words[:2] == ["-m", "pytest"]:
        assert [word for word in words[2:] if word.startswith("tests/") and not (TOP / word).exists()] == []
    elif Path(program).name == "python":
        assert_options(scripts_help()[words[0]], words[1:])
    elif Path(program).name == "mlclf":
        assert_options(help_of([sys.executable, "-m", "mlclf", words[0]]), words[1:])
    else:
        assert program in ("pip", "git", ".ci/run")


HELP_OF_SCRIPTS = """
import contextlib, io, json, os, runpy, sys
found = {}
for name in json.loads(sys.argv[1]):
    sys.argv, sys.path[0], printed = [name, "--help"], os.path.dirname(os.path.abspath(name)), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(name, run_name="__main__")
    found[name] = printed.getvalue()
print(json.dumps(found))
"""


@cache
def scripts_help() -> dict[str, str]:
    """What every script of the documents prints with --help, in one process, since their imports take seconds."""
    names = sorted({command[1] for command in ALL_COMMANDS if Path(command[0]).name == "python" and command[1] != "-m"})
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_SCRIPTS, json.dumps(names)],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def help_of(command: list[str]) -> str:
    """What a command prints with --help, wide enough that no option is cut."""
    done = subprocess.run(
        [*command, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_options(text: str, words: list[str]) -> None:
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert {option for option in options if not re.search(rf"{option}\b", text)} == set()


def test_everything_that_can_be_run_is_named() -> None:
    documents = "\n".join(document.read_text() for document in DOCUMENTS)
    for folder, pattern in (("pipelines", "*.py"), ("configs", "*.yaml"), ("benchmarks", "*.py"), ("examples", "*.py")):
        names = [path.name for path in (TOP / folder).glob(pattern)]
        assert names
        assert [name for name in names if name not in documents] == []


def test_links_lead_somewhere() -> None:
    links = [
        (document, target)
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    ]
    assert len(links) >= 50
    assert [(str(document), target) for document, target in links if not (document.parent / target).exists()] == []


def test_the_pinned_tree_has_torch_without_a_build() -> None:
    pins = [line for line in (TOP / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []
    names = [pin.partition("==")[0].lower() for pin in pins]
    assert len(set(names)) == len(names) > 40
