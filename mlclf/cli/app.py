"""The program that the commands belong to."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="mlclf",
    help="Binary and multi-label classification on Parquet data larger than memory.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
