"""What messages tell people to type is there: options of the commands, and settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import mlclf
from mlclf.cli import app as application
from mlclf.config.settings import Settings

PACKAGE = Path(mlclf.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"(?<![\w./-])mlclf ([a-z]+)\b")
SETTING = re.compile(r"(?<![\w.])(?:data|features|model|loss|optimizer|training|search|thresholds|runtime)\.[a-z_0-9]+")
FILES = (".json", ".jsonl", ".parquet", ".py", ".safetensors")
ROOMS = {"data/convert": ("convert", "split", "shuffle")}
"""Rooms whose messages are those of some commands alone."""

LEAST_FOUND = 100


def options_of(*commands: str) -> set[str]:
    """The options of some commands, or of all."""
    known = typer.main.get_command(application).commands  # type: ignore[attr-defined]  # it is a group
    chosen = [known[name] for name in commands] if commands else list(known.values())
    found = {option for command in chosen for parameter in command.params for option in parameter.opts}
    return {option for option in found if option.startswith("--")} | {"--help", "--version"}


def texts(room: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the code of a room that is no docstring, and where it stands."""
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_options_in_messages_are_there(room: str) -> None:
    known, found = options_of(*ROOMS.get(room, ())), []
    for place, text in texts(room):
        found += [(place, option) for option in OPTION.findall(text)]
    assert len(found) > (0 if room else LEAST_FOUND)
    others = {"--labels", "--out", "--exclude"} if room else set()  # of a fit that is suggested as a whole
    assert not [(place, option) for place, option in found if option not in known | others]


def test_settings_in_messages_are_there() -> None:
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    known = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}  # type: ignore[union-attr]  # each is a section
    found = [
        (place, setting)
        for place, text in texts()
        if "mlclf." not in text
        for setting in SETTING.findall(text)
        if not setting.endswith(FILES)
    ]
    assert len(found) > 20
    assert not [(place, setting) for place, setting in found if setting not in known]


def test_commands_in_messages_are_there() -> None:
    known = set(typer.main.get_command(application).commands)  # type: ignore[attr-defined]  # it is a group
    found = [(place, command) for place, text in texts() for command in COMMAND.findall(text)]
    words = {"and", "is", "that", "which", "when", "as", "does", "must", "release", "wrote", "reads", "a"}
    assert len(found) > 5
    assert not [(place, command) for place, command in found if command not in known | words]
