"""Fills the reference pages from the code: `{{ commands }}`, `{{ settings }}` and `{{ python }}` in a page.

What is listed is asked of the code, so a new command, setting or public name is there without being written down.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

import mlclf
from mlclf.cli import app
from mlclf.config.explanations import expected_values
from mlclf.config.settings import Arguments, Settings

ERRORS_LAST = "Errors"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page with its marks replaced by what the code holds."""
    lists = {"commands": command_lines, "settings": setting_lines, "python": python_lines}

    def filled(match: re.Match[str]) -> str:
        make: Callable[[], Iterator[str]] = lists[match[1]]
        return "\n".join(make())

    return re.sub(r"^\{\{ (\w+) \}\}$", filled, markdown, flags=re.MULTILINE)


def command_lines() -> Iterator[str]:
    """Every command of the command line: what it does, its arguments and options."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        arguments = [one for one in command.params if not one.opts[0].startswith("-")]
        options = [one for one in command.params if one.opts[0].startswith("-")]
        needed = [f"{one.opts[0]} {value_name(one)}" for one in options if one.required]
        usage = " ".join([*(one.metavar or one.name.upper() for one in arguments), *needed])
        yield f"## mlclf {name} {{ #{name} }}\n\n{command.help}\n\n```text\nmlclf {name} {usage} [OPTIONS]\n```\n"
        yield "| argument or option | meaning | default |\n|---|---|---|"
        for one in arguments:
            yield table_row(f"`{one.metavar or one.name.upper()}`", one.help, "")
        for one in options:
            is_plain = one.is_flag or one.default is None
            value = "" if one.is_flag else " " + value_name(one)
            yield table_row(
                f"`{one.opts[0]}{value}`",
                one.help + (" Takes several." if one.multiple else ""),
                "" if is_plain else f"`{one.default}`",
            )
        yield ""


def value_name(option: Any) -> str:
    """What stands for the value of an option: its own word, or its type."""
    kind = option.type_descriptor.annotation
    return option.metavar or {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def setting_lines() -> Iterator[str]:
    """Every setting by its section, then the arguments that a file may hold beside them."""
    for section, model in Settings.model_fields.items():
        kind: Any = model.annotation
        yield f"## {section}\n\n{kind.__doc__}\n\n| setting | meaning | values | default |\n|---|---|---|---|"
        for name, field in kind.model_fields.items():
            values = expected_values((section, name))
            yield table_row(f"`{section}.{name}`", field.description, values, f"`{as_text(field.default)}`")
        yield ""
    yield "## Arguments { #arguments }\n\nThose of `mlclf fit` that a file may hold, so that it is a whole run.\n"
    yield "| argument | meaning | values |\n|---|---|---|"
    for name, field in Arguments.model_fields.items():
        yield table_row(f"`{name}`", field.description, expected_values((name,)))


def as_text(default: Any) -> str:
    """A default as it is written in YAML."""
    return {None: "null", True: "true", False: "false", (): "[]"}.get(default, str(default)) if default != {} else "{}"


def python_lines() -> Iterator[str]:
    """Every public name: functions, classes, errors."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], ERRORS_LAST: []}
    for name in mlclf.__all__:
        value = getattr(mlclf, name)
        if inspect.isfunction(value):
            kinds["Functions"].append(name)
        elif inspect.isclass(value):
            kinds[ERRORS_LAST if issubclass(value, Exception) else "Classes"].append(name)
    for kind, names in kinds.items():
        yield f"## {kind}\n"
        yield from (f"::: mlclf.{name}\n" for name in names)


def table_row(*cells: str | None) -> str:
    """A row of a Markdown table; bars inside a cell are escaped."""
    return "| " + " | ".join((cell or "").replace("|", "\\|") for cell in cells) + " |"
